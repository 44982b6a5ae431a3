"""What a core tells of itself, for metrics and operators."""

from attrs import frozen

from dledger_py.raft.vocabulary import Index, NodeId, RoleName, Term


@frozen(kw_only=True)
class PeerStatistics:
    """One follower as the leader sees it; `state` is one of probing, streaming, catching-up,
    too-far-behind.
    """

    peer: NodeId
    state: str
    match: Index
    next: Index
    in_flight_messages: int
    in_flight_bytes: int
    ticks_since_contact: int


@frozen(kw_only=True)
class RaftStatistics:
    """A snapshot for metrics and `dledger admin`; `peers` is empty unless this node leads."""

    node: NodeId
    role: RoleName
    term: Term
    leader: NodeId | None
    electable: bool
    first_index: Index
    last_index: Index
    durable_index: Index
    commit_index: Index
    announced_index: Index
    tail_bytes: int
    uncommitted_bytes: int
    writes_in_flight: int
    promises_waiting: int
    reads_waiting: int
    transferring_to: NodeId | None
    voters: tuple[NodeId, ...]
    voters_old: tuple[NodeId, ...]
    learners: tuple[NodeId, ...]
    peers: tuple[PeerStatistics, ...]
