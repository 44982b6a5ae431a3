"""A message that fails, comes again, and ends among the dead letters.

    python examples/retries.py [host:port]

Of three payments one goes through, one at the second try, and one never: after two retries the
broker puts it to the dead letters of the group, where an operator finds it.  The address is a name
server's; without one it is 127.0.0.1:9876.
"""

import logging
import os
import sys
import uuid

import anyio

from dledger_py.client import Message, connect

TOPIC = "Payments"


def pay(message: Message) -> None:
    """What a handler does; "bank" fails once, "broken" always."""
    what = message.body.decode()
    if what == "broken" or (what == "bank" and message.reconsume_times == 0):
        raise RuntimeError(f"{what} does not answer")


async def main(address: str) -> None:
    group = f"cashier-{uuid.uuid4().hex[:6]}"
    paid: list[str] = []
    tries = 0
    async with connect(address) as mq:
        for what in ("card", "bank", "broken"):
            await mq.send(TOPIC, what.encode(), tag=group)

        with anyio.fail_after(60):
            subscription = {TOPIC: group}
            consumer = mq.consumer(group, subscription, from_="first", max_reconsume_times=2)
            async with consumer as messages:
                async for message in messages:
                    tries += 1
                    what, nth = message.body.decode(), message.delivery_attempt
                    print(f"{what}: attempt {nth}")
                    async with message.ack_on_success(retry_after=1):
                        pay(message)
                        paid.append(what)
                    if tries == 6:  # once, twice, three times
                        break

            async with mq.consumer(f"audit-{group}", f"%DLQ%{group}", from_="first") as letters:
                letter = await anext(letters)
                letter.ack()
    print(f"dead letter: {letter.body.decode()} of {letter.topic}, id {letter.message_id}")
    assert (sorted(paid), letter.body) == (["bank", "card"], b"broken"), (paid, letter)
    print("done: two were paid, and the third is where somebody can look at it")


if __name__ == "__main__":
    logging.getLogger("dledger_py.client").setLevel(logging.ERROR)  # failures are meant here
    where = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("NAMESRV_ADDR", "127.0.0.1:9876")
    anyio.run(main, where, backend="trio")
