"""Only large orders from Europe, chosen by the broker.

    python examples/sql_filter.py [host:port]

Expressions see the properties of a message.  The address is a name server's; without one it is
127.0.0.1:9876.
"""

import os
import sys
import uuid

import anyio

from dledger_py.client import ConsumerFailed, Sql, connect

TOPIC = "Sales"
SALES = [("eu", 250), ("us", 900), ("eu", 20), ("uk", 101), ("eu", 100)]


async def main(address: str) -> None:
    run = uuid.uuid4().hex[:6]
    wanted = Sql(f"run = '{run}' AND region IN ('eu', 'uk') AND amount > 100")
    async with connect(address) as mq:
        for region, amount in SALES:
            properties = {"region": region, "amount": str(amount), "run": run}
            await mq.send(TOPIC, f"{amount} from {region}".encode(), properties=properties)

        found = []
        with anyio.fail_after(60):
            async with mq.consumer(f"large-{run}", {TOPIC: wanted}, from_="first") as messages:
                async for message in messages:
                    message.ack()
                    found.append(message.body.decode())
                    print(f"large order: {found[-1]}")
                    if len(found) == 2:
                        break

            try:
                async with mq.consumer(f"typo-{run}", {TOPIC: Sql("amount >> 5")}) as messages:
                    await anext(messages)
            except ConsumerFailed as error:
                print(f"a broken one is refused: {error}")
    assert sorted(found) == ["101 from uk", "250 from eu"], found
    print("done: of five sales, the two large ones crossed the wire")


if __name__ == "__main__":
    where = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("NAMESRV_ADDR", "127.0.0.1:9876")
    anyio.run(main, where, backend="trio")
