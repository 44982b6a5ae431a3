"""Each order's events in order, shared out between two members, one of which fails now and then.

    python examples/ordered.py [host:port]

The events of an order have its number as FIFO key, so they go to one queue; a consumer in order
gets them one after the other, and no other member reads that queue meanwhile.  The address is a
name server's; without one it is 127.0.0.1:9876.
"""

import logging
import os
import random
import sys
import uuid
from collections import defaultdict

import anyio
import anyio.lowlevel

from dledger_py.client import Client, connect

TOPIC = "OrderEvents"
EVENTS = ("placed", "paid", "packed", "shipped", "delivered")
ORDERS = 20


class Ledger:
    """What has happened to each order, as all members see it."""

    def __init__(self) -> None:
        self.events: defaultdict[str, list[str]] = defaultdict(list)
        self.failures = 0
        self.complete = anyio.Event()

    def add(self, order: str, event: str) -> None:
        if random.random() < 0.1:
            self.failures += 1
            raise RuntimeError("a hiccup: this event has to come again before the next one")
        if event not in self.events[order]:  # a message may come twice
            self.events[order].append(event)
        if sum(map(len, self.events.values())) == ORDERS * len(EVENTS):
            self.complete.set()


async def member(address: str, group: str, ledger: Ledger, told: dict[str, int]) -> None:
    name = f"member {len(told) + 1}"
    told[name] = 0
    async with (
        connect(address) as mq,
        mq.consumer(group, {TOPIC: group}, from_="first", ordered=True) as messages,
    ):
        async for message in messages:
            async with message.ack_on_success(retry_after=0.01):
                order, event = message.body.decode().split()
                ledger.add(order, event)
                told[name] += 1
            await anyio.lowlevel.checkpoint()


async def send_all(mq: Client, run: str) -> None:
    async def events_of(order: str) -> None:
        for event in EVENTS:
            await mq.send(TOPIC, f"{order} {event}".encode(), tag=run, group=order)

    async with anyio.create_task_group() as tasks:
        for number in range(ORDERS):
            tasks.start_soon(events_of, f"o-{number}")


async def main(address: str) -> None:
    group = f"ordered-{uuid.uuid4().hex[:6]}"
    ledger, told = Ledger(), dict[str, int]()
    async with connect(address) as mq, anyio.create_task_group() as tasks:
        tasks.start_soon(member, address, group, ledger, told)
        tasks.start_soon(member, address, group, ledger, told)
        await send_all(mq, group)
        with anyio.fail_after(60):
            await ledger.complete.wait()
        tasks.cancel_scope.cancel()
    assert all(tuple(events) == EVENTS for events in ledger.events.values()), ledger.events
    print(f"{ORDERS} orders of {len(EVENTS)} events; handled: {told}")
    print(f"done: every order in order, with {ledger.failures} failures in between")


if __name__ == "__main__":
    logging.getLogger("dledger_py.client").setLevel(logging.ERROR)  # failures are meant here
    where = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("NAMESRV_ADDR", "127.0.0.1:9876")
    anyio.run(main, where, backend="trio")
