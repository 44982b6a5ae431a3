"""Who waits for a proposal or a read barrier, and how each of them is told, once.

Laws:
- `settle` is called exactly once for every accepted call, and never before that call has
  returned: what would be answered at once is answered from the event loop's next turn.
- A proposal's reply is the machine's reply to exactly its entry. If another entry turns out to
  stand at its index, it can no longer happen, and that is said.
- After each burst of answers (or effects) `after_turn` runs once, so that a server flushes once.

Loop thread only. Elsewhere: what is refused and lost (raft, through the driver), replies (the
machine).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

import trio
from attrs import define

from dledger_py.ledger.errors import Busy, Indefinite, LedgerError, NotLeader

SettleFn = Callable[[Any], None]
"""Takes the machine's reply, or a LedgerError. `Any`: replies are the machine's business."""


@define(eq=False)
class _Proposal:
    settle: SettleFn
    size: int
    index: int = 0
    term: int = 0


class Settlements:
    """The waiting proposals and barriers of one member."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.guard: Callable[[Callable[[], None]], None] = _unguarded
        """Runs what answers callers outside of any burst. The driver puts itself here: a callback
        that raises must end the process, not the event loop's innards."""
        self._ticket = 0
        self._proposals: dict[int, _Proposal] = {}
        self._by_index: dict[int, int] = {}
        self._barriers: dict[int, SettleFn] = {}
        self._unapplied: list[tuple[int, int, SettleFn]] = []
        self._deferred: deque[tuple[SettleFn, Any]] = deque()
        self._deferring = False
        self._scheduled = False
        self._touched = False
        self._after_turn: list[Callable[[], None]] = []
        self.waiting_bytes = 0

    @property
    def waiting(self) -> int:
        """Proposals without an answer."""
        return len(self._proposals)

    def after_turn(self, callback: Callable[[], None]) -> None:
        self._after_turn.append(callback)

    # ---- callers

    def admit(self, size: int, settle: SettleFn) -> int | None:
        """The ticket of a new proposal, or nothing: then it is (or will be) settled as Busy."""
        if self._proposals and self.waiting_bytes + size > self._max_bytes:
            self.refuse(settle, Busy(f"{self.waiting_bytes} bytes wait to be committed"))
            return None
        self._ticket += 1
        self._proposals[self._ticket] = _Proposal(settle, size)
        self.waiting_bytes += size
        return self._ticket

    def admit_barrier(self, settle: SettleFn) -> int:
        self._ticket += 1
        self._barriers[self._ticket] = settle
        return self._ticket

    def refuse(self, settle: SettleFn, error: LedgerError) -> None:
        """Say no, after the caller's call has returned."""
        self._defer(settle, error)

    @property
    def deferring(self) -> bool:
        return self._deferring

    @deferring.setter
    def deferring(self, value: bool) -> None:
        """True while a caller is inside `propose` or `read_barrier`: nobody is answered then."""
        self._deferring = value

    # ---- what the driver learns

    def proposed(self, ticket: int, index: int, term: int) -> None:
        proposal = self._proposals[ticket]
        proposal.index = index
        proposal.term = term
        self._by_index[index] = ticket

    def applied(self, index: int, term: int, reply: Any) -> None:
        """The entry at `index` was applied: answer its proposer, and the barriers it lets pass."""
        ticket = self._by_index.pop(index, None)
        if ticket is not None:
            proposal = self._proposals.pop(ticket)
            self.waiting_bytes -= proposal.size
            self._give(proposal.settle, reply if proposal.term == term else NotLeader(None))
        while self._unapplied and self._unapplied[0][0] <= index:
            self._give(heappop(self._unapplied)[2], None)

    def lost(self, ticket: int, error: LedgerError) -> None:
        """The core will not speak of this ticket again."""
        settle = self._barriers.pop(ticket, None)
        if settle is None:
            proposal = self._proposals.pop(ticket)
            self._by_index.pop(proposal.index, None)
            self.waiting_bytes -= proposal.size
            settle = proposal.settle
        self._give(settle, error)

    def confirmed(self, ticket: int, index: int, applied_index: int) -> None:
        """A barrier holds for whoever has applied up to `index`."""
        settle = self._barriers.pop(ticket)
        if index <= applied_index:
            self._give(settle, None)
        else:
            heappush(self._unapplied, (index, ticket, settle))

    def touch(self) -> None:
        """Something happened that `after_turn` should know of."""
        self._touched = True

    def end_turn(self) -> None:
        """The burst is over: run `after_turn` if anybody was answered."""
        if self._touched and not self._deferring:
            self._touched = False
            for callback in self._after_turn:
                callback()

    def abandon(self) -> None:
        """The ledger ends: whoever still waits learns that it cannot know."""
        error = Indefinite("the ledger stopped before the entry was known to be committed")
        waiting = [proposal.settle for proposal in self._proposals.values()]
        refused = [*self._barriers.values(), *(each[2] for each in self._unapplied)]
        self._proposals.clear()
        self._by_index.clear()
        self._barriers.clear()
        self._unapplied.clear()
        self.waiting_bytes = 0
        for settle in waiting:
            self._defer(settle, error)
        for settle in refused:
            self._defer(settle, NotLeader(None))
        self._answer_deferred()

    # ---- answering

    def _give(self, settle: SettleFn, result: Any) -> None:
        if self._deferring:
            self._defer(settle, result)
        else:
            self._touched = True
            settle(result)

    def _defer(self, settle: SettleFn, result: Any) -> None:
        self._deferred.append((settle, result))
        if not self._scheduled:
            self._scheduled = True
            trio.lowlevel.current_trio_token().run_sync_soon(self._answer_soon)

    def _answer_soon(self) -> None:
        self._scheduled = False
        self.guard(self._answer_deferred)

    def _answer_deferred(self) -> None:
        # Those who are refused again while we answer wait for the next turn of the loop.
        for _ in range(len(self._deferred)):
            settle, result = self._deferred.popleft()
            self._touched = True
            settle(result)
        self.end_turn()


def _unguarded(answer: Callable[[], None]) -> None:
    answer()


class Waiter:
    """One task that waits to be settled."""

    def __init__(self) -> None:
        self._settled = trio.Event()
        self._result: Any = None

    def settle(self, result: Any) -> None:
        self._result = result
        self._settled.set()

    async def wait(self) -> Any:
        await self._settled.wait()
        if isinstance(self._result, LedgerError):
            raise self._result
        return self._result
