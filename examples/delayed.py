"""Orders that are cancelled unless they are paid in time.

    python examples/delayed.py [host:port]

Of three orders one is paid; the reminders of the other two come after five seconds. The address is
a name server's; without one it is 127.0.0.1:9876.
"""

import sys
from datetime import timedelta

import trio

from dledger_py.client import connect

TOPIC = "Unpaid"
TIME_TO_PAY = timedelta(seconds=5)


async def main(name_servers: str = "127.0.0.1:9876") -> None:
    async with connect(name_servers) as mq:
        reminders = {
            order: await mq.send(TOPIC, order.encode(), keys=[order], delay=TIME_TO_PAY)
            for order in ("o-1", "o-2", "o-3")
        }
        print("three orders, five seconds to pay")
        await mq.recall(reminders.pop("o-2"))
        print("o-2 is paid: its reminder is taken back")
        async with mq.consumer("cancellations", TOPIC, from_="first") as messages:
            async for message in messages:
                async with message.ack_on_success():
                    order = message.body.decode()
                    print(f"{order} was not paid: cancelled")
                    reminders.pop(order, None)
                if not reminders:
                    break
    print("done: o-2 is paid, the others are cancelled")


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
