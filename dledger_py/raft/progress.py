"""One follower as its leader sees it: how far it is known to match, what was sent, and in which
manner it is served.

    Streaming   appends are sent ahead of their answers, within a window of messages and bytes;
                the state a new leader starts in, because most followers match
    Probing     the follower refused or its connection broke: one empty append per heartbeat or
                refusal, until one is accepted
    CatchingUp  like streaming, but the next entry is no longer in memory and has to be read
                from disk first
    TooFarBehind  the next entry is gone: the follower is told so with every heartbeat, until it
                has it by other means (far_behind.py)

Deliberately elsewhere: the sending itself (replication.py).
"""

from collections import deque
from enum import StrEnum

from attrs import define, field

from dledger_py.raft.vocabulary import Index, NodeId, Round


class Manner(StrEnum):
    """How a follower is served."""

    STREAMING = "streaming"
    PROBING = "probing"
    CATCHING_UP = "catching-up"
    TOO_FAR_BEHIND = "too-far-behind"


SERVED = (Manner.STREAMING, Manner.CATCHING_UP)
"""Gets entries without being asked first."""


@define(eq=False)
class Progress:
    """What one leader has sent to one follower in one term. What was answered is in
    `roles.Leader`.
    """

    peer: NodeId
    next: Index
    """The first entry not sent yet, as far as we know or hope."""

    window_max: int
    window: int
    """Unanswered appends allowed. A refusal takes it down to one and progress doubles it again: on
    a link that loses or reorders, most of a full window would be refused and sent again."""

    manner: Manner = Manner.STREAMING
    sent_at: int = 0
    """Tick of the last append, with or without entries."""

    commit_sent: Index = 0
    """The commit index that append carried."""

    probed_round: Round = 0
    """Refusals of appends up to this round have been dealt with; a late or repeated one must not
    start over.
    """

    reading: Index = 0
    """`first` of the unanswered `ReadEntries`; 0 if there is none."""

    in_flight: deque[tuple[Index, int]] = field(factory=deque)
    """(last index, payload bytes) of every unanswered append that carried entries."""

    in_flight_bytes: int = 0

    def sent(self, last_index: Index, size_bytes: int) -> None:
        """An append with entries up to `last_index` is on its way."""
        self.next = last_index + 1
        self.in_flight.append((last_index, size_bytes))
        self.in_flight_bytes += size_bytes

    def accepted(self, match: Index) -> None:
        """The follower matches and is durable up to `match`."""
        in_flight = self.in_flight
        while in_flight and in_flight[0][0] <= match:
            self.in_flight_bytes -= in_flight.popleft()[1]
            if self.window < self.window_max:
                self.window = min(2 * self.window, self.window_max)
        if self.next <= match:
            self.next = match + 1
        if self.manner not in SERVED and match >= self.next - 1:
            self.manner = Manner.STREAMING

    def probe_from(self, next_index: Index, round: Round) -> None:
        """Forget what is in flight; find out whether the follower matches just below
        `next_index`.
        """
        self.manner = Manner.PROBING
        self.next = next_index
        self.probed_round = round
        self.reading = 0
        self.window = 1
        self.in_flight.clear()
        self.in_flight_bytes = 0
