"""A message is sent if, and only if, the row is in the database.

    python examples/transaction.py [host:port]

Three orders are placed: one goes through, one fails half-way, and one is placed by a process that
dies between its database and its word to the broker.  The broker then asks who knows, and `check`
looks into the database.  The address is a name server's; without one it is 127.0.0.1:9876.
"""

import os
import sqlite3
import sys
import tempfile
import uuid
from pathlib import Path

import anyio

from dledger_py.client import Client, Message, TransactionState, connect

TOPIC = "OrdersPlaced"
GROUP = "order-service"


class Orders:
    """The service's own database."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.execute("CREATE TABLE IF NOT EXISTS orders (id TEXT PRIMARY KEY)")

    def insert(self, order: str) -> None:
        self.db.execute("INSERT INTO orders VALUES (?)", (order,))

    def has(self, order: str) -> bool:
        return bool(self.db.execute("SELECT 1 FROM orders WHERE id = ?", (order,)).fetchone())


async def place(mq: Client, orders: Orders, order: str) -> None:
    async with mq.transaction(TOPIC, order.encode(), keys=[order]):
        orders.insert(order)
        if order.startswith("broken"):
            raise ValueError("no stock")
        if order.startswith("crash"):
            os._exit(0)  # the row is there, and the broker has heard nothing


async def main(address: str, path: str, run: str) -> None:
    orders = Orders(path)

    async def check(message: Message) -> TransactionState:
        order = message.keys[0]
        state = TransactionState.COMMIT if orders.has(order) else TransactionState.ROLLBACK
        print(f"the broker asks about {order}: {state.name}")
        return state

    async with connect(address, producer_group=GROUP, check=check) as mq:
        await place(mq, orders, f"good-{run}")
        try:
            await place(mq, orders, f"broken-{run}")
        except ValueError as error:
            print(f"broken-{run}: {error}, rolled back")
        await anyio.run_process([sys.executable, __file__, address, path, run], check=True)
        print(f"crash-{run}: the process is dead; the broker will ask in some seconds")

        seen: list[str] = []
        async with mq.consumer(f"stock-{run}", TOPIC, from_="first") as messages:
            with anyio.fail_after(60):
                async for message in messages:
                    message.ack()
                    if run in message.body.decode():
                        seen.append(message.body.decode())
                        print(f"consumed {seen[-1]}")
                    if len(seen) == 2:
                        break
    assert sorted(seen) == [f"crash-{run}", f"good-{run}"], seen
    print("done: what was committed came once, what was rolled back did not")


async def crash(address: str, path: str, run: str) -> None:
    async with connect(address, producer_group=GROUP) as mq:
        await place(mq, Orders(path), f"crash-{run}")


if __name__ == "__main__":
    if len(sys.argv) == 4:  # the process that dies
        anyio.run(crash, *sys.argv[1:])
    where = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("NAMESRV_ADDR", "127.0.0.1:9876")
    with tempfile.TemporaryDirectory() as scratch:
        anyio.run(main, where, str(Path(scratch) / "orders.db"), uuid.uuid4().hex[:6])
