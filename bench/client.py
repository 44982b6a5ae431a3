"""`python -m bench.client`: the processor time a send costs the program that sends.

A local cluster (flush async, so that the broker is the least in the way), in processes of its own;
in this one tasks that each send, wait for the answer and send again: 1 KiB,
`await mq.send(...)`, no batches. Counted is the thread's user and system time, in slices of some
thousand messages; the median slice is what it takes on the machine as it is, the quickest what it
takes while nobody else uses it.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Final

import anyio
import trio
from rich.console import Console
from rich.table import Table

from dledger_py.client import Client, connect
from dledger_py.cluster.local import LocalCluster
from dledger_py.runtime import logs

IN_FLIGHT: Final = (1, 64, 256)
SLICE: Final = 4096
"""Messages of a slice; an eighth of it with one in flight."""

TOPIC: Final = "Bench"


def main() -> int:
    """Measure under each event loop in turn, and print a table."""
    parser = argparse.ArgumentParser(prog="bench.client", description=__doc__)
    parser.add_argument("--slices", type=int, default=20, help="of each row")
    parser.add_argument("--body-bytes", type=int, default=1024)
    options = parser.parse_args()
    logs.configure(level="error")
    rows = trio.run(_measure, options.slices, b"x" * options.body_bytes)
    _print(rows)
    return 0


Slices = dict[tuple[str, int], list[tuple[float, float]]]
"""By event loop and number in flight: CPU µs a message, and messages a second."""


async def _measure(slices: int, body: bytes) -> Slices:
    found: Slices = {}
    with tempfile.TemporaryDirectory(prefix="dledger-bench-") as scratch:
        cluster = LocalCluster(Path(scratch), flush="async")
        async with cluster.running():
            await cluster.wait_leader()
            address = cluster.namesrv_address
            for in_flight in IN_FLIGHT:
                trio_row = await _slices(address, in_flight, slices, body)
                found["trio", in_flight] = trio_row
                found["asyncio", in_flight] = await trio.to_thread.run_sync(
                    lambda depth: anyio.run(
                        _slices, address, depth, slices, body, backend="asyncio"
                    ),
                    in_flight,
                )
    return found


async def _slices(
    address: str, in_flight: int, slices: int, body: bytes
) -> list[tuple[float, float]]:
    count = max(1, SLICE // (8 if in_flight == 1 else 1) // in_flight)
    found = []
    async with connect(address) as mq:
        await _send(mq, count, body)
        for _ in range(slices):
            cpu, clock = time.thread_time(), time.perf_counter()
            async with anyio.create_task_group() as tasks:
                for _ in range(in_flight):
                    tasks.start_soon(_send, mq, count, body)
            sent = count * in_flight
            cpu, clock = time.thread_time() - cpu, time.perf_counter() - clock
            found.append((cpu / sent * 1e6, sent / clock))
    return found


async def _send(mq: Client, count: int, body: bytes) -> None:
    for _ in range(count):
        await mq.send(TOPIC, body)


def _print(rows: Slices) -> None:
    table = Table(title="a send's processor time in the client, µs")
    table.add_column("event loop")
    for name in ("in flight", "median", "quickest", "sends/s"):
        table.add_column(name, justify="right")
    for (loop, in_flight), slices in rows.items():
        cpu = [each for each, _ in slices]
        rate = statistics.median(rate for _, rate in slices)
        table.add_row(
            loop,
            str(in_flight),
            f"{statistics.median(cpu):.1f}",
            f"{min(cpu):.1f}",
            f"{rate:,.0f}",
        )
    Console().print(table)


if __name__ == "__main__":
    raise SystemExit(main())
