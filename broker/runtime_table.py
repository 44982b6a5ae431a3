"""A member's running state as text, in the words of RocketMQ's tools.

Source: protocol page 06 §5, which says who reads which key. Both spellings of "transferred" are
there: the tools of 4.x look for the one with a single r.
"""

import shutil
from collections.abc import Callable
from typing import Final

from attrs import define

from broker.machine.machine import Machine
from broker.machine.names import SCHEDULE_TOPIC
from broker.serving.disk_watch import DiskWatch
from broker.serving.rates import Rates
from broker.serving.revivals import RevivalStatistics
from dledger_py.ledger.ledger import Ledger
from dledger_py.remoting.wire.codes import OUR_VERSION

VERSION_TEXT: Final = {479: "V5_3_3"}[OUR_VERSION]
# The tools show thread pools; here one loop serves everybody, so nothing ever waits in one.
POOLS: Final = ("send", "pull", "litePull", "query", "ack")


@define(eq=False, kw_only=True)
class RuntimeTable:
    """Reads the figures of one member."""

    ledger: Ledger
    machine: Machine
    rates: Rates
    recognised: Callable[[], int]
    """How many messages would be recognised if they were sent again, but for their age."""
    forwarded: Callable[[], int]
    earliest_ms: Callable[[], int]
    started_ms: int
    disk: DiskWatch
    revivals: Callable[[], RevivalStatistics]
    pops_waiting: Callable[[], int]

    def text(self, now_ms: int) -> dict[str, str]:
        """All figures, by key."""
        statistics = self.ledger.statistics()
        waiting = statistics.proposals_waiting if statistics is not None else 0
        used = self._disk_used()
        table = {
            "brokerVersionDesc": VERSION_TEXT,
            "brokerVersion": str(OUR_VERSION),
            "brokerActive": "true",
            "bootTimestamp": str(self.started_ms),
            "runtime": _duration_text(now_ms - self.started_ms),
            "commitLogMinOffset": str(self.ledger.first_position),
            "commitLogMaxOffset": str(self.ledger.committed_position),
            "commitLogDiskRatio": used,
            "consumeQueueDiskRatio": used,
            "commitLogDirCapacity": self._capacity_text(),
            "dispatchBehindBytes": "0",
            "remainHowManyDataToFlush": "0 B",
            "pageCacheLockTimeMills": "0",
            "earliestMessageTimeStamp": str(self.earliest_ms()),
            "startAcceptSendRequestTimeStamp": "0",
            "timerReadBehind": "0",
            "timerOffsetBehind": "0",
            "timerCongestNum": "0",
            "timerEnqueueTps": "0.0",
            "timerDequeueTps": "0.0",
            "EndTransactionQueueSize": "0",
            "EndTransactionThreadPoolQueueCapacity": "0",
        }
        for pool in POOLS:
            table[f"{pool}ThreadPoolQueueSize"] = str(waiting if pool == "send" else 0)
            table[f"{pool}ThreadPoolQueueCapacity"] = "0"
            table[f"{pool}ThreadPoolQueueHeadWaitTimeMills"] = "0"
        return (
            table
            | self._levels()
            | self._raft()
            | self._disk()
            | self._rates()
            | self._transactions()
            | self._pops()
        )

    def _levels(self) -> dict[str, str]:
        """How far each level of delay that was ever used is delivered, and how far it goes."""
        machine, topic = self.machine, SCHEDULE_TOPIC
        return {
            f"scheduleMessageOffset_{queue_id + 1}": (
                f"{machine.moves.cursor(topic, queue_id)},"
                f"{machine.queues.next_offset(topic, queue_id)}"
            )
            for queue_id in machine.queues.written(topic)
        }

    def _raft(self) -> dict[str, str]:
        """Where this member stands in its group; keys of our own, for `raftStatus`."""
        view = self.ledger.view
        table = {
            "raftNode": self.ledger.config.node,
            "raftRole": view.role,
            "raftTerm": str(view.term),
            "raftLeader": view.leader or "",
        }
        statistics = self.ledger.statistics()
        if statistics is not None:
            core = statistics.raft
            members = self.ledger.members.views()
            table |= {
                "raftMembers": ",".join(member.name for member in members),
                "raftMembership": ",".join(f"{member.name}:{member.role}" for member in members),
                "raftAddresses": ",".join(f"{member.name}={member.address}" for member in members),
                "raftSnapshotIndex": str(statistics.snapshot_index),
                "raftFirstIndex": str(core.first_index),
                "raftLastIndex": str(core.last_index),
                "raftDurableIndex": str(core.durable_index),
                "raftCommittedIndex": str(core.commit_index),
                "raftAppliedIndex": str(statistics.applied_index),
                "raftProposalsWaiting": str(statistics.proposals_waiting),
            }
        return table

    def _disk(self) -> dict[str, str]:
        """Whether the disk leaves room for messages; keys of our own."""
        disk = self.disk.statistics()
        return {
            "diskFreeBytes": str(disk.free_bytes),
            "diskFloorBytes": str(disk.floor_bytes),
            "diskRefusesSends": str(disk.refusing).lower(),
            "diskLetsLead": str(disk.electable).lower(),
        }

    def _transactions(self) -> dict[str, str]:
        """Half messages that wait, and what this member did with others; keys of our own."""
        rates = self.rates
        return {
            "transactionsPending": str(len(self.machine.transactions)),
            "transactionsCommitted": str(rates.transactions_committed.total),
            "transactionsRolledBack": str(rates.transactions_rolled_back.total),
            "transactionsExpired": str(rates.transactions_expired.total),
            "transactionChecks": str(rates.transaction_checks.total),
        }

    def _pops(self) -> dict[str, str]:
        """Popped messages that wait to be acknowledged, requests that wait here, and what this
        member did with messages that nobody acknowledged; keys of our own."""
        pops, revivals = self.machine.pops, self.revivals()
        return {
            "popInFlight": str(sum(queue.in_flight for _key, queue in pops.queues())),
            "popCheckpoints": str(pops.count),
            "popsWaiting": str(self.pops_waiting()),
            "popRetried": str(revivals.retried),
            "popGivenUp": str(revivals.given_up),
        }

    def _rates(self) -> dict[str, str]:
        rates, totals = self.rates, self.machine.queues.totals()
        got = rates.got.text()
        table = {
            "putTps": rates.put.text(),
            "getFoundTps": rates.pulls_found.text(),
            "getMissTps": rates.pulls_missed.text(),
            "getTotalTps": got,
            "getTransferredTps": got,
            "getTransferedTps": got,
            "putMessageTimesTotal": str(totals.messages),
            "putMessageSizeTotal": str(totals.bytes),
            "putMessageFailedTimes": str(rates.put_refused.total),
            "putMessageDuplicateTimes": str(rates.put_duplicates.total),
            "putMessageRecognised": str(self.recognised()),
            "putMessageAverageSize": f"{totals.bytes / max(1, totals.messages):.1f}",
            "forwardedTimes": str(self.forwarded()),
        }
        # Totals of this process count from its start: there is no yesterday in memory.
        for kind, meter in (("Put", rates.put), ("Get", rates.got)):
            table[f"msg{kind}TotalYesterdayMorning"] = "0"
            table[f"msg{kind}TotalTodayMorning"] = "0"
            table[f"msg{kind}TotalTodayNow"] = str(meter.total)
        return table

    def _disk_used(self) -> str:
        usage = shutil.disk_usage(self.ledger.config.data_dir)
        return f"{usage.used / usage.total:.4f}"

    def _capacity_text(self) -> str:
        usage = shutil.disk_usage(self.ledger.config.data_dir)
        return f"Total : {usage.total >> 30} GiB, Free : {usage.free >> 30} GiB."


def _duration_text(milliseconds: int) -> str:
    minutes, seconds = divmod(milliseconds // 1000, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"[ {days} days, {hours} hours, {minutes} minutes, {seconds} seconds ]"
