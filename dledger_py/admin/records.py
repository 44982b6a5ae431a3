"""What `Admin` answers: frozen records, ready to be printed or compared."""

from collections.abc import Mapping

from attrs import frozen

from dledger_py.client.errors import Refused


class UnknownName(Refused):
    """There is no cluster, broker or group of that name; nothing was asked of anybody."""


@frozen(kw_only=True)
class MemberState:
    """One member of a broker group, as `cluster_list` found it."""

    cluster: str
    broker_name: str
    broker_id: int
    address: str
    runtime: Mapping[str, str]
    """The member's own figures; empty if it did not answer."""
    failure: str | None = None
    """Why it did not answer."""

    @property
    def version(self) -> str:
        return self.runtime.get("brokerVersionDesc", "")

    @property
    def role(self) -> str:
        """leader, follower or candidate; for other brokers master or slave, after the id."""
        return self.runtime.get("raftRole") or ("master" if self.broker_id == 0 else "slave")

    @property
    def term(self) -> int | None:
        term = self.runtime.get("raftTerm", "")
        return int(term) if term.isdecimal() else None

    @property
    def put_per_s(self) -> float:
        """Messages written per second, over the last ten seconds."""
        return _first_number(self.runtime.get("putTps", ""))

    @property
    def get_per_s(self) -> float:
        """Messages read per second, over the last ten seconds."""
        return _first_number(self.runtime.get("getTransferredTps", ""))


@frozen(kw_only=True)
class QueueState:
    """One queue of a topic."""

    broker_name: str
    queue_id: int
    min_offset: int
    max_offset: int
    last_update_ms: int
    """Store time of the newest message; 0 if there is none."""


@frozen(kw_only=True)
class BrokerState:
    """The runtime table of one broker, as it wrote it."""

    address: str
    table: Mapping[str, str]


@frozen(kw_only=True)
class QueueLag:
    """How far a group is in one queue."""

    topic: str
    broker_name: str
    queue_id: int
    broker_offset: int
    consumer_offset: int
    pull_offset: int
    last_ms: int
    """Store time of the last message consumed; 0 if there is none."""

    @property
    def lag(self) -> int:
        """Messages not yet consumed."""
        return self.broker_offset - self.consumer_offset

    @property
    def inflight(self) -> int:
        """Messages pulled and not yet consumed."""
        return self.pull_offset - self.consumer_offset


@frozen(kw_only=True)
class GroupProgress:
    """How far a group is, and who works for it now."""

    group: str
    queues: tuple[QueueLag, ...]
    consume_tps: float
    online: int
    """Connected consumers; 0 if none is."""
    model: str = ""
    """CLUSTERING or BROADCASTING, where anybody is online to say."""

    @property
    def lag(self) -> int:
        return sum(queue.lag for queue in self.queues)

    @property
    def inflight(self) -> int:
        return sum(queue.inflight for queue in self.queues)


def _first_number(text: str) -> float:
    """Rates come as "10s 60s 600s"."""
    try:
        return float(text.split()[0])
    except (IndexError, ValueError):
        return 0.0
