"""The words of consensus: ids, log entries, the messages between members, and the events and
effects of `Raft.step`.

Laws:
- Everything here is frozen and carries no behaviour; sequences are tuples, so that a message can
  be handed to two peers and the disk without a copy.
- `term` in a message is always the *sender's current term*, in requests, answers and refusals
  alike, pre-votes included. That is what lets one term check in front of the rule table serve
  every message, and lets a refusal carry the news of a higher term to whoever is behind.
- A payload is opaque: the core looks at its length and at nothing else, except that of a
  configuration (membership.py).

Section numbers are those of "In Search of an Understandable Consensus Algorithm" (Ongaro,
Ousterhout) and, marked *thesis*, of Ongaro's dissertation. Deliberately elsewhere: the meaning of
the events (raft.py, rules.py), how messages become bytes (ledger.peer_frames) and how entries lie
on disk (storage.formats).
"""

from enum import IntEnum, StrEnum
from typing import NewType, TypeAlias, get_args

from attrs import frozen

NodeId = NewType("NodeId", str)

Term: TypeAlias = int
"""Terms start at 1; 0 is the term of the empty log and of a member that never voted."""

Index: TypeAlias = int
"""Entries are numbered from 1; index 0 stands before the first entry and matches on every member.
"""

Ticket: TypeAlias = int
"""Chosen by whoever posts a proposal or a read barrier; the core only hands it back."""

WriteId: TypeAlias = int
"""Numbers the `Persist` effects of one incarnation, from 1, without gaps, never reused (not even
after a truncation).
"""

Round: TypeAlias = int
"""Numbers the `Append` messages of one leader in one term, rising with each; an answer repeats
the number it answers.
"""


class Kind(IntEnum):
    """What an entry is for. Numbers are on disk and on the wire; they are never reused."""

    NOOP = 0
    COMMAND = 1
    CONFIG = 2


class RoleName(StrEnum):
    """A role as the outside sees it."""

    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


@frozen(kw_only=True)
class Entry:
    """One log entry (§5.3). `kind` may be a plain int equal to a `Kind`; a NOOP carries an empty
    payload, a CONFIG the bytes of `membership.encode`.
    """

    index: Index
    term: Term
    kind: int
    payload: bytes | memoryview


# --------------------------------------------------------------------------------------- messages


@frozen(kw_only=True)
class PreVote:
    """Asks "would you vote for me in `term + 1`?" without anyone changing term (thesis §9.6)."""

    term: Term
    last_index: Index
    last_term: Term


@frozen(kw_only=True)
class PreVoteGranted:
    """The voter has no leader it hears and the asker's log is good enough."""

    term: Term


@frozen(kw_only=True)
class PreVoteRefused:
    """No; if `term` is above the asker's, that is the reason and the cure."""

    term: Term


@frozen(kw_only=True)
class RequestVote:
    """A candidate's request of §5.2; `term` is the term it wants to lead."""

    term: Term
    last_index: Index
    last_term: Term


@frozen(kw_only=True)
class RequestVoteNow:
    """A `RequestVote` on the word of the leader itself: it is heard even by those who hear that
    leader (thesis §4.2.3). Sent only after `TimeoutNow`.
    """

    term: Term
    last_index: Index
    last_term: Term


@frozen(kw_only=True)
class VoteGranted:
    """A promise: the vote is on the voter's disk (§5.2)."""

    term: Term


@frozen(kw_only=True)
class VoteRefused:
    """The voter has voted for somebody else, or its log is better (§5.4.1)."""

    term: Term


@frozen(kw_only=True)
class Append:
    """The leader's AppendEntries (§5.3); without entries it is a heartbeat or a probe. `entries`
    follow `prev_index` without gaps.
    """

    term: Term
    prev_index: Index
    prev_term: Term
    entries: tuple[Entry, ...]
    commit: Index
    round: Round


@frozen(kw_only=True)
class AppendAccepted:
    """A promise: everything up to `match` equals the leader's log and is on this follower's disk.

    `round` is the latest append answered; one answer may stand for several appends.
    """

    term: Term
    match: Index
    round: Round


@frozen(kw_only=True)
class AppendRefused:
    """`prev_index` did not match; or, with `round` 0 and nothing else said, the append was of an
    older term than `term`.

    `hint_index` is the last place at or below `prev_index` whose term (`hint_term`) is not above
    the append's `prev_term`: the logs cannot agree above it. It lets the leader go back by whole
    terms (end of §5.3).
    """

    term: Term
    prev_index: Index
    hint_index: Index
    hint_term: Term
    round: Round


@frozen(kw_only=True)
class TooFarBehind:
    """What the receiver lacks next is no longer in the leader's log, which starts at
    `first_index`, behind an entry of `previous_term`. It is the leader's heartbeat for such a
    follower, and asks whether the follower has got there by other means: answered like an append
    without entries.
    """

    term: Term
    first_index: Index
    previous_term: Term
    round: Round


@frozen(kw_only=True)
class TimeoutNow:
    """The leader of `term` wants the receiver, which has its whole log, to campaign at once
    (thesis §3.10).
    """

    term: Term


Message: TypeAlias = (
    PreVote
    | PreVoteGranted
    | PreVoteRefused
    | RequestVote
    | RequestVoteNow
    | VoteGranted
    | VoteRefused
    | Append
    | AppendAccepted
    | AppendRefused
    | TooFarBehind
    | TimeoutNow
)

MESSAGES: tuple[type[Message], ...] = get_args(Message)

REQUESTS: tuple[type[Message], ...] = (
    Append,
    TooFarBehind,
    PreVote,
    RequestVote,
    RequestVoteNow,
    TimeoutNow,
)
"""Messages that are heard from strangers too: their log may tell of a membership that ours does not
know yet (thesis §4.2.3)."""


# ----------------------------------------------------------------------------------------- events


@frozen(kw_only=True)
class Tick:
    """One unit of time has passed; the only clock the core has."""


@frozen(kw_only=True)
class Received:
    """A message arrived. It may be late, repeated, reordered or of any term. Answers of senders
    that are not members are ignored; their requests are heard, since their log may tell of a
    membership that ours does not know yet (thesis §4.2.3).
    """

    sender: NodeId
    message: Message


@frozen(kw_only=True)
class Propose:
    """Put `payload` into the log as one entry.

    Answered at once by `Proposed` or by `Settle` with `NotLeader`, `Busy` or `Transferring` (all
    definite). A `Proposed` ticket is heard of again only if leadership is lost before the entry is
    known to be committed: `Settle` with `Lost`. Otherwise whoever applies the entry settles it.
    """

    ticket: Ticket
    payload: bytes | memoryview


@frozen(kw_only=True)
class Persisted:
    """The `Persist` effect numbered `write` and *every one before it* are durable. Numbers may be
    skipped, not go back.
    """

    write: WriteId


@frozen(kw_only=True)
class ReadBarrier:
    """Ask up to which index a reader must have applied to see every write acknowledged before now
    (thesis §6.4).

    Answered by `Settle` with `ReadReady` or `NotLeader`.
    """

    ticket: Ticket


@frozen(kw_only=True)
class PeerUnreachable:
    """The connection to or from `peer` broke. A hint that saves time; it may be wrong."""

    peer: NodeId


@frozen(kw_only=True)
class EntriesRead:
    """Answers `ReadEntries`: entries from `first` on without gaps, at least one; none if they
    could not be read.
    """

    peer: NodeId
    first: Index
    entries: tuple[Entry, ...]


@frozen(kw_only=True)
class ClockStalled:
    """More time has passed than ticks were posted; leases do not count it (lease.py)."""


@frozen(kw_only=True)
class Dropped:
    """The entries before `first_index` are gone from the disk: all of them committed, announced
    by `Commit`, and applied to a state that is durable. They are not asked for any more.
    """

    first_index: Index


@frozen(kw_only=True)
class ElectableChanged:
    """Whether this member may lead (its disk is healthy, its log complete). A leader told False
    steps down at once.
    """

    electable: bool


@frozen(kw_only=True)
class TransferLeadership:
    """Hand leadership to `to`, a voter (thesis §3.10). Proposals are refused as `Transferring`
    until it is settled.

    Answered by `Settle` with `Transferred`, `TransferFailed` or `NotLeader`, within two election
    timeouts.
    """

    ticket: Ticket
    to: NodeId


@frozen(kw_only=True)
class AddLearner:
    """`node`, so far a stranger, gets entries from now on, and has no vote (thesis §4.2.1)."""

    node: NodeId
    details: bytes = b""
    """See `Describe`."""


@frozen(kw_only=True)
class Promote:
    """The learner `node`, which has caught up, becomes a voter."""

    node: NodeId


@frozen(kw_only=True)
class Remove:
    """`node`, voter or learner, is no member any more. The leader may remove itself."""

    node: NodeId


@frozen(kw_only=True)
class Replace:
    """The learner `new`, which has caught up, becomes a voter instead of `old`, in one change."""

    old: NodeId
    new: NodeId


@frozen(kw_only=True)
class Describe:
    """Remember something of members along with the configuration: the driver's business (where
    they are reached, say), and no part of any decision here. Replaces what was remembered.
    """

    details: tuple[tuple[NodeId, bytes], ...]


Change: TypeAlias = AddLearner | Promote | Remove | Replace | Describe


@frozen(kw_only=True)
class ChangeMembers:
    """Change the membership (§6); one change at a time.

    Answered by `Settle`: `MembersChanged` when it is committed, `ChangeRefused`, `NotLeader` or
    `Transferring` (all definite), or `Lost` if leadership ended before it was known to be
    committed.
    """

    ticket: Ticket
    change: Change


Event: TypeAlias = (
    Tick
    | Received
    | Propose
    | Persisted
    | ReadBarrier
    | PeerUnreachable
    | EntriesRead
    | Dropped
    | ClockStalled
    | ElectableChanged
    | TransferLeadership
    | ChangeMembers
)


# ---------------------------------------------------------------------------------------- effects


@frozen(kw_only=True)
class Persist:
    """Make durable, in the order of `write`: the term and vote, then cut the log at `first` and
    append `entries`.

    `first` is None and `entries` empty when only term and vote change. Otherwise entry number
    `first` and all after it are cut (often there are none) and `entries[0].index == first`. A
    crash may keep any prefix of what was asked, but never entries without the term and vote of
    the same write. Answered by `Persisted`.
    """

    write: WriteId
    term: Term
    vote: NodeId | None
    first: Index | None
    entries: tuple[Entry, ...]


@frozen(kw_only=True)
class Send:
    """Send `message`, now, at most once, without waiting; dropping it is allowed. One `Append`
    may be sent to several peers: it is then the same object, and so may be encoded once.
    """

    to: NodeId
    message: Message


@frozen(kw_only=True)
class Commit:
    """Everything up to `up_to` is committed and on this member's own disk: apply it. Only rises."""

    up_to: Index


@frozen(kw_only=True)
class Proposed:
    """The proposal `ticket` became the entry at `index`, `term`; it counts only if exactly that
    entry is applied.
    """

    ticket: Ticket
    index: Index
    term: Term


@frozen(kw_only=True)
class NotLeader:
    """Refused (definite): nothing happened here; `leader` is the best guess where to go, if there
    is one.
    """

    leader: NodeId | None


@frozen(kw_only=True)
class Busy:
    """Refused (definite): too many bytes wait to be committed; try again later."""


@frozen(kw_only=True)
class Transferring:
    """Refused (definite): leadership is being handed to `to`; ask there, or here again within an
    election timeout.
    """

    to: NodeId


@frozen(kw_only=True)
class Lost:
    """Indefinite: leadership was lost after the entry was appended; a later leader may still
    commit it.
    """

    index: Index
    term: Term


@frozen(kw_only=True)
class ReadReady:
    """The barrier is passed: a state with everything up to `index` applied is fresh enough."""

    index: Index


@frozen(kw_only=True)
class Transferred:
    """Leadership has moved: `leader`, which was asked for, leads."""

    leader: NodeId


@frozen(kw_only=True)
class TransferFailed:
    """The transfer was given up. If leadership has moved nevertheless, or moves later, that is
    shown by `RoleChanged` like any other change.
    """

    reason: str


@frozen(kw_only=True)
class MembersChanged:
    """The change is committed, and no longer joint, with the configuration entry at `index`."""

    index: Index


@frozen(kw_only=True)
class ChangeRefused:
    """Refused (definite): the change is not possible, or not now; `reason` is for people.
    `passing`: it may be possible in a moment.
    """

    reason: str
    passing: bool = False


Outcome: TypeAlias = (
    NotLeader
    | Busy
    | Transferring
    | Lost
    | ReadReady
    | Transferred
    | TransferFailed
    | MembersChanged
    | ChangeRefused
)


@frozen(kw_only=True)
class Settle:
    """The last word on `ticket`."""

    ticket: Ticket
    outcome: Outcome


@frozen(kw_only=True)
class RoleChanged:
    """Role, term or known leader changed; `leader` is this node itself when it leads."""

    role: RoleName
    term: Term
    leader: NodeId | None


@frozen(kw_only=True)
class ReadEntries:
    """Read durable entries from `first` on, about `max_bytes` of payload but at least one entry;
    post `EntriesRead`.
    """

    peer: NodeId
    first: Index
    max_bytes: int


@frozen(kw_only=True)
class FellBehind:
    """`leader` no longer has what this member lacks next; its log starts at `first_index`. Only a
    copy of a log can help (far_behind.py). Told once per term.
    """

    leader: NodeId
    first_index: Index


Effect: TypeAlias = (
    Persist | Send | Commit | Proposed | Settle | RoleChanged | ReadEntries | FellBehind
)


# ------------------------------------------------------------------------------------------ start


@frozen(kw_only=True)
class HardState:
    """What must survive a restart (§5.1, figure 2). `commit` is a hint: it may lag behind, never
    lead. A durable state of the machine is such a hint as well: everything in it was committed.
    """

    term: Term = 0
    vote: NodeId | None = None
    commit: Index = 0
