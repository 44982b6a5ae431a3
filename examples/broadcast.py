"""Every instance of a service empties its cache when somebody says so.

    python examples/broadcast.py [host:port]

The address is a name server's; without one it is 127.0.0.1:9876.
"""

import os
import sys
import uuid

import anyio
from anyio.abc import TaskStatus

from dledger_py.client import connect

TOPIC = "CacheChanges"
INSTANCES = ("web-1", "web-2", "web-3")


async def instance(
    address: str,
    name: str,
    run: str,
    emptied: dict[str, list[str]],
    *,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    async with (
        connect(address) as mq,
        mq.consumer(f"web-{run}", {TOPIC: run}, from_="first", broadcast=True) as changes,
    ):
        task_status.started()
        async for change in changes:
            async with change.ack_on_success():
                emptied[name].append(change.body.decode())
                print(f"{name} empties {change.body.decode()}")
            if len(emptied[name]) == 2:
                return


async def main(address: str) -> None:
    run = uuid.uuid4().hex[:6]
    emptied: dict[str, list[str]] = {name: [] for name in INSTANCES}
    async with connect(address) as mq:
        with anyio.fail_after(60):
            async with anyio.create_task_group() as instances:
                for name in INSTANCES:
                    await instances.start(instance, address, name, run, emptied)
                for what in ("prices", "users"):
                    await mq.send(TOPIC, what.encode(), tag=run)
    assert all(sorted(found) == ["prices", "users"] for found in emptied.values()), emptied
    print("done: every instance heard of both")


if __name__ == "__main__":
    where = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("NAMESRV_ADDR", "127.0.0.1:9876")
    anyio.run(main, where, backend="trio")
