"""The settings of one core: sizes and tick counts, each with its reason. How long a tick lasts is
the driver's business.
"""

from attrs import frozen

from dledger_py.raft.vocabulary import NodeId

SLACK_TICKS = 2
"""What a lease is shorter than half an election timeout by: a tick may be late by one, and by
another until it is noticed.
"""


@frozen(kw_only=True)
class RaftConfig:
    """Settings that never change while the core lives.

    **Raises** ValueError where the numbers cannot work together.
    """

    node: NodeId
    members: tuple[NodeId, ...]
    """Every voter of a log without configuration entries, the same set on all of them. This node
    is one of them, unless it is `joining`.
    """

    joining: bool = False
    """Whether this node came later: it knows nothing and waits for a leader that adds it. True
    for all its life; what has become of it is told by its log.
    """

    election_timeout_ticks: int = 50
    """Silence after which a leader is given up; a campaign starts after one to two of these. 50
    ticks of 20 ms are 1 s (etcd 1 s, hashicorp 1 s, DLedger 6 s).
    """

    heartbeat_ticks: int = 5
    """At most this long between two messages to a follower: 100 ms with ticks of 20 ms (etcd 100
    ms, DLedger 2 s).
    """

    lease_ticks: int = 0
    """How long an answered round lets readers pass without another (lease.py); 0 for never. The
    same on all members, at most half an election timeout less `SLACK_TICKS`.
    """

    append_entries_max: int = 512
    """Entries in one append: bounds the follower's turn."""

    append_bytes_max: int = 1 << 20
    """Payload bytes in one append, unless a single entry is larger: 1 MiB keeps a heartbeat
    behind it under 10 ms at 1 Gb/s.
    """

    window_messages: int = 64
    """Unanswered appends per follower before entries are held back and batched (etcd 256, DLedger
    1000).
    """

    window_bytes: int = 8 << 20
    """Unanswered payload bytes per follower; covers 100 MB/s over 80 ms of round trip."""

    uncommitted_bytes_max: int = 64 << 20
    """Bytes proposed but not committed before proposals are refused as Busy: a leader cut off
    from its quorum must not fill memory (etcd has the same bound, DLedger counts 10 000 entries).
    """

    tail_bytes_max: int = 32 << 20
    """Recent entries kept in memory for slower followers; older ones are asked for by
    `ReadEntries`. What is not yet durable is always kept.
    """

    def __attrs_post_init__(self) -> None:
        if self.joining and self.node in self.members:
            raise ValueError(f"node {self.node!r} cannot join: it is among {self.members!r}")
        if not self.joining and self.node not in self.members:
            raise ValueError(f"node {self.node!r} is not among the members {self.members!r}")
        if len(set(self.members)) != len(self.members):
            raise ValueError(f"members {self.members!r} name a node twice")
        if not 1 <= self.heartbeat_ticks < self.election_timeout_ticks:
            raise ValueError(
                f"heartbeat_ticks {self.heartbeat_ticks} must be at least 1 and below"
                f" election_timeout_ticks {self.election_timeout_ticks}"
            )
        lease_max = max(0, self.election_timeout_ticks // 2 - SLACK_TICKS)
        if not 0 <= self.lease_ticks <= lease_max:
            raise ValueError(
                f"lease_ticks {self.lease_ticks}: 0 to {lease_max} are safe with an election"
                f" timeout of {self.election_timeout_ticks} ticks"
            )
        for name in ("append_entries_max", "append_bytes_max", "window_messages", "window_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: must be at least 1")
