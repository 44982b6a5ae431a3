"""The load every scenario runs under: producers, consumers and an offset keeper, until it is over.

    async with under_load(cluster, recorder, say) as load:
        await load.more_sends()
        …hurt somebody…
        await load.more_sends()

Leaving the block waits until everything acknowledged was delivered, and reads all queues for the
judges.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import trio
from attrs import define

from chaos.checkers.history import Fault
from chaos.recorder import Recorder, now_ns
from chaos.workloads.messages import Workload
from dledger_py.admin import Admin
from dledger_py.client import connect
from dledger_py.cluster.local import LocalCluster

PRODUCERS: Final = 4
CONSUMERS: Final = 2
QUEUES: Final = 4
TOPIC: Final = "Chaos"
GROUP: Final = "chaos-consumers"
SENDS_AT_LEAST: Final = 200  # between two faults
RECOVERY_TIMEOUT_S: Final = 60.0  # a run that stands still for so long has failed

Say = Callable[[str], None]


@define(eq=False, kw_only=True)
class Load:
    """What a scenario needs of the load it runs under."""

    recorder: Recorder
    workload: Workload
    say: Say

    def fault(self, what: str, *nodes: str) -> None:
        """Write down what is about to be done to whom."""
        self.recorder.add(Fault(at_ns=now_ns(), what=what, nodes=nodes))

    async def more_sends(self, count: int = SENDS_AT_LEAST) -> None:
        """Until so many more sends were acknowledged. Raises: TimeoutError."""
        target = len(self.recorder.acknowledged) + count
        await self.wait_until(
            lambda: len(self.recorder.acknowledged) >= target, what=f"{count} more sends"
        )

    async def wait_until(self, holds: Callable[[], bool], *, what: str) -> None:
        """Until `holds` of what was recorded. Raises: TimeoutError."""
        with trio.move_on_after(RECOVERY_TIMEOUT_S) as waiting:
            await self.recorder.wait_until(holds)
        if waiting.cancelled_caught:
            self.say(f"stands still: no {what}")
            raise TimeoutError(f"no {what} within {RECOVERY_TIMEOUT_S:g} s")


@asynccontextmanager
async def under_load(
    cluster: LocalCluster, recorder: Recorder, say: Say, *, body_bytes: int = 1024
) -> AsyncIterator[Load]:
    """Run the load on a running cluster. Raises: TimeoutError if it cannot be finished."""
    brokers = cluster.layout.broker_names
    async with connect(cluster.namesrv_address) as client:
        if len(brokers) > 1:  # a topic that is created on use is where the first sends went
            admin = Admin(cluster.namesrv_address)
            await admin.update_topic(
                TOPIC, cluster=cluster.cluster_name, read_queues=QUEUES, write_queues=QUEUES
            )
        workload = Workload(
            name_server=cluster.namesrv_address,
            client=client,
            topic=TOPIC,
            group=GROUP,
            brokers=brokers,
            queues=QUEUES,
            recorder=recorder,
            body_bytes=body_bytes,
        )
        load = Load(recorder=recorder, workload=workload, say=say)
        stopped = trio.Event()
        async with trio.open_nursery() as consumers:
            for number in range(CONSUMERS):
                consumers.start_soon(workload.consume, f"c{number}")
            async with trio.open_nursery() as producers:
                for number in range(PRODUCERS):
                    producers.start_soon(workload.produce, f"p{number}", stopped)
                producers.start_soon(workload.keep_offsets, stopped)
                yield load
                stopped.set()
            await load.wait_until(
                lambda: recorder.acknowledged <= recorder.received,
                what="delivery of everything acknowledged",
            )
            consumers.cancel_scope.cancel()
        await workload.inspect()
