"""Consumer offsets on their way into the log, many at a time.

Every client commits every few seconds for each of its queues, mostly without waiting for an answer,
and each pull may carry a commit too. One log entry for each would cost more than the messages, so
they are gathered: for at most `GATHER_MS` (of a monotonic clock), or until somebody waits.
"""

from collections.abc import Callable
from typing import Final

from attrs import define, field

from broker.machine.codec import encode_command
from broker.machine.commands import CommitOffsets, EndResets
from broker.serving.put_batch import Proposer, refusal_of
from dledger_py.ledger.errors import LedgerError

GATHER_MS: Final = 50  # RocketMQ flushes its offset file every 5 s; a crash may not cost as much
GATHERED_MAX: Final = 1_000  # offsets per entry

Answered = Callable[[Exception | None], None]


@define(eq=False)
class OffsetCommits:
    """Gathers commits; the newest offset of a queue is the one that counts."""

    _ledger: Proposer
    _now_ms: Callable[[], int]
    _monotonic_ms: Callable[[], int]
    _gathered: dict[tuple[str, str, int], int] = field(factory=dict)
    _waiting: list[Answered] = field(factory=list)
    _since_ms: int = 0
    _under_way: int = 0

    def add(
        self, group: str, topic: str, queue_id: int, offset: int, answered: Answered | None = None
    ) -> None:
        """Remember that the group stands at `offset`.

        With `answered` the commit goes out at the end of this turn, and `answered` is called once
        it is durable at a quorum and applied (with None), or with what to tell the client instead.
        """
        if not self._gathered:
            self._since_ms = self._monotonic_ms()
        self._gathered[group, topic, queue_id] = offset
        if answered is not None:
            self._waiting.append(answered)
        if len(self._gathered) >= GATHERED_MAX:
            self.propose()

    def end_reset(self, group: str, topic: str, queue_id: int, offset: int) -> None:
        """Remember that the group's consumers go on from `offset`, as an operator told them to.

        What was taken in before is void (`machine.resets`), so it goes into the log first.
        """
        if self._gathered:
            self.propose()
        command = EndResets(
            stamped_ms=self._now_ms(), group=group, topic=topic, queues=((queue_id, offset),)
        )
        self._ledger.propose(encode_command(command), _nobody_waits)

    @property
    def pending(self) -> bool:
        """Whether offsets were taken in that no question can see yet."""
        return bool(self._gathered) or self._under_way > 0

    def propose_if_due(self) -> None:
        """The turn is over: propose what somebody waits for, or what has waited long enough."""
        if self._waiting or (self._gathered and self._monotonic_ms() - self._since_ms >= GATHER_MS):
            self.propose()

    def propose(self, answered: Answered | None = None) -> None:
        """Propose all that is gathered now, even if that is nothing: `answered` is called when
        everything taken in so far can be seen, or certainly never will."""
        if answered is not None:
            self._waiting.append(answered)
        commits = tuple((*key, offset) for key, offset in self._gathered.items())
        waiting = self._waiting
        self._gathered, self._waiting = {}, []

        def settle(outcome: object) -> None:
            self._under_way -= 1
            error = refusal_of(outcome) if isinstance(outcome, LedgerError) else None
            for answer in waiting:
                answer(error)

        self._under_way += 1
        command = CommitOffsets(stamped_ms=self._now_ms(), commits=commits)
        self._ledger.propose(encode_command(command), settle)


def _nobody_waits(_outcome: object) -> None:
    """If it was refused, the next pull ends the reset."""
