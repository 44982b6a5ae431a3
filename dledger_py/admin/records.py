"""What `Admin` answers: frozen records, ready to be printed or compared."""

from collections.abc import Mapping, Sequence

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
class RaftState:
    """Where one member stands in its group's log. Indices count entries, from 1."""

    broker_name: str
    node: str
    address: str
    role: str
    """leader, follower or candidate; `down` if it did not answer."""
    membership: str
    """voter, learner, joining or leaving, as its leader has it; empty if there is no leader."""
    term: int | None
    last_index: int | None
    """The newest entry it has written."""
    durable_index: int | None
    """The newest entry on its disk."""
    committed_index: int | None
    """The newest entry it knows to be on a majority's disks."""
    applied_index: int | None
    """The newest entry its state shows."""
    snapshot_index: int | None
    """The entry behind which its newest snapshot was taken; 0: there is none."""
    lag: int | None
    """Entries of the leader that it has not written yet."""
    failure: str | None = None


def raft_states(members: Sequence[MemberState]) -> tuple[RaftState, ...]:
    """The members of broker groups as their consensus sees them."""

    def index(member: MemberState, name: str) -> int | None:
        text = member.runtime.get(name, "")
        return int(text) if text.isdecimal() else None

    newest: dict[str, int] = {}
    memberships: dict[tuple[str, str], str] = {}
    for member in members:
        if member.role == "leader":
            for each in member.runtime.get("raftMembership", "").split(","):
                node, _, membership = each.partition(":")
                memberships[member.broker_name, node] = membership
        last = index(member, "raftLastIndex")
        if member.role == "leader" and last is not None:
            newest[member.broker_name] = max(last, newest.get(member.broker_name, 0))
    states = []
    for member in members:
        last, leaders = index(member, "raftLastIndex"), newest.get(member.broker_name)
        states.append(
            RaftState(
                broker_name=member.broker_name,
                node=member.runtime.get("raftNode", ""),
                address=member.address,
                role=member.role if member.failure is None else "down",
                membership=memberships.get(
                    (member.broker_name, member.runtime.get("raftNode", "")), ""
                ),
                term=member.term,
                last_index=last,
                durable_index=index(member, "raftDurableIndex"),
                committed_index=index(member, "raftCommittedIndex"),
                applied_index=index(member, "raftAppliedIndex"),
                snapshot_index=index(member, "raftSnapshotIndex"),
                # The leader was asked at another moment, so a follower may seem to be ahead.
                lag=None if last is None or leaders is None else max(0, leaders - last),
                failure=member.failure,
            )
        )
    return tuple(states)


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
