"""Asking a service over a topic, and waiting for its answer.

    python examples/request_reply.py [host:port]

Two members of a group answer what the client asks; one question is of a kind that nobody answers.
The address is a name server's; without one it is 127.0.0.1:9876.
"""

import os
import sys
import uuid

import anyio
from anyio.abc import TaskStatus

from dledger_py.client import Client, NoReply, connect

TOPIC = "PriceQuestions"
PRICES = {"apple": "0.40", "pear": "0.55"}


async def serve(
    address: str, group: str, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    async with connect(address) as mq, mq.consumer(group, {TOPIC: group}, from_="first") as asked:
        task_status.started()
        async for question in asked:
            async with question.ack_on_success():
                price = PRICES.get(question.body.decode())
                if price is not None:
                    await question.reply(price.encode())


async def ask(mq: Client, group: str, what: str, answers: dict[str, str]) -> None:
    reply = await mq.request(TOPIC, what.encode(), tag=group, timeout_s=30)
    answers[what] = reply.body.decode()
    print(f"{what}: {answers[what]}")


async def main(address: str) -> None:
    group = f"prices-{uuid.uuid4().hex[:6]}"
    answers: dict[str, str] = {}
    async with connect(address) as mq, anyio.create_task_group() as services:
        await services.start(serve, address, group)
        await services.start(serve, address, group)
        async with anyio.create_task_group() as questions:
            for what in PRICES:
                questions.start_soon(ask, mq, group, what, answers)
        try:
            await mq.request(TOPIC, b"moon", tag=group, timeout_s=1)
        except NoReply as error:
            print(f"moon: {error}")
        services.cancel_scope.cancel()
    assert answers == PRICES, answers
    print("done: each question got its own answer")


if __name__ == "__main__":
    where = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("NAMESRV_ADDR", "127.0.0.1:9876")
    anyio.run(main, where, backend="trio")
