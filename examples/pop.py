"""More workers than queues, and a slow one that keeps nobody waiting.

    python examples/pop.py [host:port]

Six workers pop jobs from a topic of four queues; one of them falls asleep over its job, which is
given to another one when its time is up.  The address is a name server's; without one it is
127.0.0.1:9876.
"""

import os
import sys
import uuid
from collections import Counter

import anyio

from dledger_py.client import connect

TOPIC = "Jobs"
JOBS = 60
WORKERS = 6


async def main(address: str) -> None:
    run = uuid.uuid4().hex[:6]
    done: dict[str, str] = {}
    complete = anyio.Event()

    async def work(name: str) -> None:
        async with (
            connect(address) as mq,
            mq.pop_consumer(f"workers-{run}", {TOPIC: run}, concurrency=1, invisible_s=2) as jobs,
        ):
            async for job in jobs:
                if name == "sleeper":
                    print(f"{name} takes {job.keys[0]} and falls asleep")
                    await anyio.sleep_forever()
                async with job.ack_on_success():
                    done[job.keys[0]] = name
                if len(done) == JOBS:
                    complete.set()

    async with connect(address) as mq, anyio.create_task_group() as workers:
        for number in range(JOBS):
            await mq.send(TOPIC, b"...", tag=run, keys=[f"{run}-{number}"])
        workers.start_soon(work, "sleeper")
        for number in range(1, WORKERS):
            workers.start_soon(work, f"worker {number}")
        with anyio.fail_after(60):
            await complete.wait()
        workers.cancel_scope.cancel()
    assert len(done) == JOBS, len(done)
    print(dict(sorted(Counter(done.values()).items())))
    print("done: every job, that of the sleeper too")


if __name__ == "__main__":
    where = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("NAMESRV_ADDR", "127.0.0.1:9876")
    anyio.run(main, where, backend="trio")
