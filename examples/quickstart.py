"""Send a thousand messages and consume every one of them.

    python examples/quickstart.py [host:port]

The address is a name server's; without one it is taken from NAMESRV_ADDR, or 127.0.0.1:9876.
"""

import os
import sys
import time
import uuid

import anyio
import anyio.abc

from dledger_py.client import Client, Consumer, connect

TOPIC = "Quickstart"
MESSAGES = 1000
SENDERS = 32


async def send_all(mq: Client, run: str) -> None:
    """SENDERS tasks share one connection; what they send at the same moment leaves together."""

    async def send(first: int) -> None:
        for number in range(first, MESSAGES, SENDERS):
            await mq.send(TOPIC, b"message %d" % number, tag=run, keys=[f"{run}-{number}"])

    started = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for first in range(SENDERS):
            tasks.start_soon(send, first)
    took_s = time.perf_counter() - started
    print(f"sent      {MESSAGES} messages to {TOPIC} in {took_s:.2f} s, each acknowledged")


async def consume_all(messages: Consumer) -> None:
    started = time.perf_counter()
    seen: set[bytes] = set()
    copies = 0
    async for message in messages:
        async with message.ack_on_success():
            copies += message.body in seen
            seen.add(message.body)
        if len(seen) == MESSAGES:
            break
    took_s = time.perf_counter() - started
    expected = {b"message %d" % number for number in range(MESSAGES)}
    assert seen == expected, expected - seen
    print(f"consumed  {len(seen)} messages in {took_s:.2f} s, {copies} of them twice")


async def main(address: str) -> None:
    run = uuid.uuid4().hex[:8]  # a tag of our own, so that earlier runs do not mix in
    async with connect(address) as mq:
        print(f"connected to the name server at {address}")
        await send_all(mq, run)
        async with mq.consumer(f"quickstart-{run}", {TOPIC: run}, from_="first") as messages:
            with anyio.fail_after(60):
                await consume_all(messages)
    print("done: offsets are committed, the group was left")


if __name__ == "__main__":
    where = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("NAMESRV_ADDR", "127.0.0.1:9876")
    anyio.run(main, where, backend="trio")
