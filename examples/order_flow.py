"""Order, payment, stock: three services that never call each other.

    python examples/order_flow.py [host:port]

* The order service writes an order and tells of it in one transaction, and sends itself a reminder
  for later.
* The payment service charges; who does not pay is not heard of.
* The stock service takes goods from the shelf.  It fails once after its work and before its
  acknowledgement, gets the same message again, and does not take the goods twice.
* When the reminder comes, an order that is not paid is cancelled.

The address is a name server's; without one it is 127.0.0.1:9876.
"""

import logging
import os
import sqlite3
import sys
import uuid
from datetime import timedelta

import anyio

from dledger_py.client import Client, Message, TransactionState, connect

ORDERS, PAYMENTS, REMINDERS = "FlowOrders", "FlowPayments", "FlowReminders"
CUSTOMERS = {"ada": True, "bob": False, "cyd": True, "dan": True, "eve": False}  # who pays
TIME_TO_PAY = timedelta(seconds=3)


class Shop:
    """The services' tables; in life each has a database of its own."""

    def __init__(self) -> None:
        self.db = sqlite3.connect(":memory:", isolation_level=None)
        self.db.executescript(
            "CREATE TABLE orders (id TEXT PRIMARY KEY, state TEXT);"
            "CREATE TABLE seen (message TEXT PRIMARY KEY);"
            "CREATE TABLE shelf (left_over INT); INSERT INTO shelf VALUES (10);"
        )
        self.repeats = 0
        self.failed = False
        self.quiet = anyio.Event()
        """Every order has come to its end, and the message that came twice has come twice."""

    def look(self) -> None:
        if self.repeats and len(self.states()) == len(CUSTOMERS) and "placed" not in self.states():
            self.quiet.set()

    def state(self, order: str) -> str | None:
        row = self.db.execute("SELECT state FROM orders WHERE id = ?", (order,)).fetchone()
        return row[0] if row else None

    def states(self) -> list[str]:
        return [state for (state,) in self.db.execute("SELECT state FROM orders ORDER BY id")]

    def left_over(self) -> int:
        return int(self.db.execute("SELECT left_over FROM shelf").fetchone()[0])


async def place_orders(mq: Client, shop: Shop, run: str) -> None:
    for customer in CUSTOMERS:
        order = f"{customer}-{run}"
        async with mq.transaction(ORDERS, order.encode(), tag=run, keys=[order]):
            shop.db.execute("INSERT INTO orders VALUES (?, 'placed')", (order,))
        await mq.send(REMINDERS, order.encode(), tag=run, delay=TIME_TO_PAY)
    print(f"{len(CUSTOMERS)} orders are placed")


async def take_payments(mq: Client, run: str) -> None:
    async with mq.consumer(f"payment-{run}", {ORDERS: run}, from_="first") as orders:
        async for message in orders:
            async with message.ack_on_success():
                order = message.body.decode()
                if CUSTOMERS[order.split("-")[0]]:
                    # The group keeps what happens to one order in order.
                    await mq.send(PAYMENTS, message.body, tag=run, keys=[order], group=order)


async def take_from_the_shelf(mq: Client, shop: Shop, run: str) -> None:
    async with mq.consumer(f"stock-{run}", {PAYMENTS: run}, from_="first") as payments:
        async for message in payments:
            async with message.ack_on_success(retry_after=1):
                deliver_once(shop, message)


def deliver_once(shop: Shop, message: Message) -> None:
    """The unique id goes into the same database transaction as the work."""
    order = message.body.decode()
    shop.db.execute("BEGIN")
    new = shop.db.execute("INSERT OR IGNORE INTO seen VALUES (?)", (message.message_id,)).rowcount
    if new:
        shop.db.execute("UPDATE shelf SET left_over = left_over - 1")
        shop.db.execute("UPDATE orders SET state = 'delivered' WHERE id = ?", (order,))
    shop.db.execute("COMMIT")
    print(f"{order}: " + ("paid and delivered" if new else "was delivered before; nothing is done"))
    shop.repeats += not new
    shop.look()
    if not shop.failed:
        shop.failed = True
        raise RuntimeError("the stock service stumbles after its work")


async def cancel_unpaid(mq: Client, shop: Shop, run: str) -> None:
    async with mq.consumer(f"cancel-{run}", {REMINDERS: run}, from_="first") as reminders:
        async for message in reminders:
            async with message.ack_on_success():
                order = message.body.decode()
                if shop.state(order) == "placed":
                    shop.db.execute("UPDATE orders SET state = 'cancelled' WHERE id = ?", (order,))
                    print(f"{order}: not paid in time, cancelled")
                    shop.look()


async def main(address: str) -> None:
    run = uuid.uuid4().hex[:6]
    shop = Shop()

    async def check(message: Message) -> TransactionState:
        known = shop.state(message.keys[0]) is not None
        return TransactionState.COMMIT if known else TransactionState.ROLLBACK

    producer_group = f"orders-{run}"
    async with (
        connect(address, producer_group=producer_group, check=check) as mq,
        anyio.create_task_group() as services,
    ):
        services.start_soon(take_payments, mq, run)
        services.start_soon(take_from_the_shelf, mq, shop, run)
        services.start_soon(cancel_unpaid, mq, shop, run)
        await place_orders(mq, shop, run)
        with anyio.fail_after(60):
            await shop.quiet.wait()
        services.cancel_scope.cancel()

    paid = sum(CUSTOMERS.values())
    assert shop.states().count("delivered") == paid, shop.states()
    assert shop.left_over() == 10 - paid, shop.left_over()
    print(f"done: {paid} delivered, {len(CUSTOMERS) - paid} cancelled, {shop.left_over()} left")


if __name__ == "__main__":
    logging.getLogger("dledger_py.client").setLevel(logging.ERROR)  # a failure is meant here
    where = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("NAMESRV_ADDR", "127.0.0.1:9876")
    anyio.run(main, where, backend="trio")
