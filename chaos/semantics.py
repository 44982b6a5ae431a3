"""The scenario: leaders die while brokers do more than store messages, and all of it is judged.

Under the usual load and beside it: messages for later and recalls, transactions with and without a
check, consumers in order that hand their queues on, messages that are given back, consumers that
pop. What a leader
remembers of any of these and its successor does not, or does twice, shows in the log: in the end
every topic is read from its first message to its last.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import cycle
from pathlib import Path
from random import Random
from typing import Final

import trio
from attrs import define, frozen

from chaos.checkers import order, places, pops, retries, timers, transactions
from chaos.checkers.history import History
from chaos.judging import Checker, Verdict, judge
from chaos.load import RECOVERY_TIMEOUT_S, Load, Say, under_load
from chaos.nemesis.members import hand_over, kill, pause, recover
from chaos.recorder import Recorder
from chaos.workloads.attempts import open_attempts
from chaos.workloads.order import LONG_STINT_S, STINT_S, Order
from chaos.workloads.order import QUEUES as ORDER_QUEUES
from chaos.workloads.pops import QUEUES as POP_QUEUES
from chaos.workloads.pops import Pops
from chaos.workloads.reading import Follower
from chaos.workloads.retries import QUEUES as RETRY_QUEUES
from chaos.workloads.retries import Retries
from chaos.workloads.timers import QUEUES as TIMER_QUEUES
from chaos.workloads.timers import Timers
from chaos.workloads.transactions import GROUP as TRANSACTION_GROUP
from chaos.workloads.transactions import QUEUES as TRANSACTION_QUEUES
from chaos.workloads.transactions import Transactions, taken_by
from dledger_py.admin import Admin
from dledger_py.client import ClientError, connect
from dledger_py.cluster.local import LocalCluster
from dledger_py.remoting.commands.heartbeats import (
    ConsumerData,
    HeartbeatData,
    ProducerData,
    tag_subscription,
)
from dledger_py.remoting.wire.frame import Frame

WHO: Final = ("leader", "all", "paused")
HAND_OVER_EVERY: Final = 3
"""Before every third kill the lead is given to the member that would never be elected."""
PAUSES_S: Final = (0.5, 1.1, 3.0)
ELECTION_TIMEOUT_MS: Final = 1000
SNAPSHOT_EVERY_BYTES: Final = 256 * 1024
"""Often: who comes back is to have some of what it owes from a snapshot, and some from the log."""
CHECK_TIMEOUT_MS: Final = 1_000
CHECK_INTERVAL_MS: Final = 1_000
CHECKS_MAX: Final = 5
CONSUMERS_IN_ORDER: Final = 4
LOOK_S: Final = 0.5
QUIET_S: Final = 2.0
"""What is done twice is done so soon; a roll-back nobody heard of needs no longer, either."""

TOPICS: Final = {
    timers.TOPIC: TIMER_QUEUES,
    transactions.TOPIC: TRANSACTION_QUEUES,
    order.TOPIC: ORDER_QUEUES,
    retries.TOPIC: RETRY_QUEUES,
    pops.TOPIC: POP_QUEUES,
}
READ: Final = (
    *TOPICS,
    transactions.EXPIRED_TOPIC,
    retries.RETRY_TOPIC,
    retries.DEAD_TOPIC,
    pops.RETRY_TOPIC,
)
HEARTBEAT: Final = HeartbeatData(
    client_id="chaos@semantics",
    producer_data_set=(ProducerData(group_name=TRANSACTION_GROUP),),
    consumer_data_set=(
        ConsumerData(
            group_name=order.GROUP, subscription_data_set=(tag_subscription(order.TOPIC, "*"),)
        ),
    ),
)
CHECKERS: Final[tuple[Checker, ...]] = (
    *places.CHECKERS,
    *timers.CHECKERS,
    *transactions.CHECKERS,
    *order.CHECKERS,
    *retries.CHECKERS,
    *pops.CHECKERS,
)

OWED: Final[tuple[Checker, ...]] = (
    timers.timers_lost,
    transactions.committed_missing,
    transactions.unended,
    order.unhandled,
    retries.retries_lost,
    pops.pops_lost,
)
"""What is not found yet may still come."""


HISTORY_FILE: Final = "history.txt"
"""In the run's directory: every event, a line each."""


@frozen(kw_only=True)
class Plan:
    """How often to hurt whom."""

    times: int = 10
    who: str = "leader"
    nodes: int = 3
    groups: int = 1
    far: bool = True
    """Whether messages are timed further ahead than the inner ring of the wheel reaches."""
    between_s: float = 3.0
    """At most so long nobody is hurt, after the last one has recovered: much is to be under way."""


async def run(directory: Path, plan: Plan, *, say: Say) -> Verdict:
    """Run the scenario on a cluster of its own. Raises: TimeoutError, NoLeader."""
    recorder = Recorder()
    cluster = LocalCluster(
        directory,
        nodes=plan.nodes,
        groups=plan.groups,
        settings={
            "ledger.election_timeout_ms": str(ELECTION_TIMEOUT_MS),
            "ledger.snapshot_every_bytes": str(SNAPSHOT_EVERY_BYTES),
            "transaction_timeout_ms": str(CHECK_TIMEOUT_MS),
            "transaction_check_interval_ms": str(CHECK_INTERVAL_MS),
            "transaction_check_max": str(CHECKS_MAX),
        },
    )
    async with cluster.running():
        await cluster.wait_leaders()
        await cluster.wait_preferred()
        async with (
            beside(cluster, recorder, say, far=plan.far),
            under_load(cluster, recorder, say) as load,
        ):
            await load.more_sends()
            await _hurt(cluster, load, plan)
    history = recorder.history()
    (directory / HISTORY_FILE).write_text("".join(f"{event}\n" for event in history.events))
    return _judged(history)


async def _hurt(cluster: LocalCluster, load: Load, plan: Plan) -> None:
    turns = cycle([(seconds, leads) for seconds in PAUSES_S for leads in (True, False)])
    dice = Random()
    for number in range(1, plan.times + 1):
        await trio.sleep(dice.uniform(0, plan.between_s))
        if plan.who == "paused":
            load.say(f"pause {number} of {plan.times}: {await pause(cluster, load, *next(turns))}")
            continue
        if number % HAND_OVER_EVERY == 0:
            await hand_over(cluster, load, number)
        victims = await kill(cluster, load, number, everybody=plan.who == "all")
        await recover(cluster, load, victims)
        load.say(f"kill {number} of {plan.times}: {', '.join(victims)}")


def _judged(history: History) -> Verdict:
    wrongly_checked = transactions.wrongly_checked(
        history, timeout_ms=CHECK_TIMEOUT_MS, checks_max=CHECKS_MAX
    )
    return judge(
        history,
        findings=[f"wrongly_checked: {finding}" for finding in wrongly_checked],
        further=CHECKERS,
        told=[each.told(history) for each in (timers, transactions, order, retries, pops)],
    )


@asynccontextmanager
async def beside(
    cluster: LocalCluster, recorder: Recorder, say: Say, *, far: bool
) -> AsyncIterator[None]:
    """Run all of it beside the block; leaving waits until everything has come to its end, and reads
    every topic."""
    names, brokers = cluster.namesrv_address, cluster.layout.broker_names
    admin = Admin(names)
    for topic, queues in TOPICS.items():
        await admin.update_topic(
            topic, cluster=cluster.cluster_name, read_queues=queues, write_queues=queues
        )
    to_answer, checks = trio.open_memory_channel[Frame](10_000)
    async with (
        connect(names) as client,
        open_attempts(
            names,
            brokers,
            recorder,
            on_request=lambda connection, frame: taken_by(to_answer, connection, frame),
        ) as attempts,
        trio.open_nursery() as answering,
    ):
        stopped = trio.Event()
        follower = Follower(client=client, recorder=recorder, topics=READ)
        ending = Transactions(attempts=attempts, checks=checks)
        in_order = Order(attempts=attempts, client=client)
        giving_back = Retries(attempts=attempts, client=client)
        popping = Pops(attempts=attempts)
        answering.start_soon(attempts.beat, transactions.TOPIC, HEARTBEAT)
        answering.start_soon(ending.answer_checks)
        answering.start_soon(giving_back.consume)
        answering.start_soon(popping.consume)
        answering.start_soon(follower.follow)
        for number in range(CONSUMERS_IN_ORDER):
            stint_s = STINT_S if number else LONG_STINT_S
            answering.start_soon(in_order.consume, f"owner{number}", number, stint_s)
        async with trio.open_nursery() as producing:
            producing.start_soon(Timers(attempts=attempts, far=far).run, stopped)
            producing.start_soon(ending.produce, stopped)
            producing.start_soon(giving_back.produce, stopped)
            producing.start_soon(popping.produce, stopped)
            for key, queue in in_order.places():
                producing.start_soon(in_order.produce, key, queue, stopped)
            yield
            stopped.set()
        await _Settling(admin=admin, recorder=recorder, say=say).wait()
        answering.cancel_scope.cancel()
    async with connect(names) as client:
        await Follower(client=client, recorder=recorder, topics=READ).read_all()


@define(eq=False, kw_only=True)
class _Settling:
    """Waits until nothing is to come any more. What does not come in time, the judges find."""

    admin: Admin
    recorder: Recorder
    say: Say

    async def wait(self) -> None:
        with trio.move_on_after(RECOVERY_TIMEOUT_S) as waiting:
            while await self._to_come():  # noqa: ASYNC110 - what is asked tells nobody
                await trio.sleep(LOOK_S)
            await trio.sleep(QUIET_S)
        if waiting.cancelled_caught:
            self.say(f"not all came to its end within {RECOVERY_TIMEOUT_S:g} s")

    async def _to_come(self) -> bool:
        history = self.recorder.history()
        if any(checker(history) for checker in OWED):
            return True
        return await self._pending() > 0

    async def _pending(self) -> int:
        """Half messages that have not ended, as the leaders say."""
        try:
            states = await self.admin.broker_status()
        except ClientError:
            return 1
        return sum(int(state.table["transactionsPending"]) for state in states)
