"""Pops and what settles them, on their way into the log: one entry for all of a turn.

A pop takes an entry, and so does each acknowledgement: one entry for each would cost more than the
messages. So what a turn brings is gathered, as sends are (`put_batch`): while `ENTRIES_AHEAD`
entries are on their way, what comes waits for one of them and becomes a larger entry. One that
nobody else comes with never waits.
"""

from collections.abc import Callable
from typing import Final

from attrs import define, field

from broker.machine.codec import encode_command
from broker.machine.commands import Ack, HandleChange, Pop, PopMessages, SettlePops
from broker.machine.replies import Popped, Reason, Settled
from broker.serving.put_batch import ENTRIES_AHEAD, Proposer, refusal_of
from dledger_py.ledger.errors import LedgerError

POPS_MAX: Final = 256  # of an entry: applying them holds the loop for a millisecond or two
CLAIMS_MAX: Final = 4_096  # reached, and an entry takes no further pop: 0.3 MB, or 1.2 at worst
SETTLED_MAX: Final = 1_024  # acknowledged or changed by an entry

Outcomes = tuple[Reason | tuple[int, ...], ...]

Taken = Callable[[int, Outcomes], None]
"""Called with the stamp of a pop and what became of its claims."""

Changed = Callable[[Reason | int], None]
Done = Callable[[], None]
Failed = Callable[[Exception], None]


@define(eq=False)
class PopBatch:
    """Collects them; `turn_ended` hands them to the ledger."""

    _ledger: Proposer
    _now_ms: Callable[[], int]
    _pops: list[tuple[Pop, Taken, Failed]] = field(factory=list, init=False)
    _claims: int = field(default=0, init=False)
    """Of the pops."""
    _acks: list[Ack] = field(factory=list, init=False)
    _acked: list[tuple[Done, Failed]] = field(factory=list, init=False)
    _changes: list[tuple[HandleChange, Changed, Failed]] = field(factory=list, init=False)
    _ahead: int = field(default=0, init=False)

    def pop(self, pop: Pop, taken: Taken, failed: Failed) -> None:
        """Take messages; `failed` gets what to tell the client if nobody knows, or nothing was."""
        self._pops.append((pop, taken, failed))
        self._claims += len(pop.claims)
        if len(self._pops) >= POPS_MAX or self._claims >= CLAIMS_MAX:
            self._propose_pops()

    def ack(self, acks: list[Ack], done: Done, failed: Failed) -> None:
        """Acknowledge messages; `done` is called when that is applied, whatever it changed."""
        self._acks += acks
        self._acked.append((done, failed))
        self._propose_settled_if_many()

    def change(self, change: HandleChange, changed: Changed, failed: Failed) -> None:
        """Give a message another time."""
        self._changes.append((change, changed, failed))
        self._propose_settled_if_many()

    def turn_ended(self) -> None:
        """Propose what waits, unless enough entries are on their way: then one of them calls."""
        if self._ahead >= ENTRIES_AHEAD:
            return
        if self._acked or self._changes:
            self._propose_settled()
        if self._pops:
            self._propose_pops()

    def _propose_settled_if_many(self) -> None:
        if len(self._acks) + len(self._changes) >= SETTLED_MAX:
            self._propose_settled()

    def _propose_pops(self) -> None:
        pops, self._pops, self._claims = self._pops, [], 0
        stamped_ms = self._now_ms()
        command = PopMessages(stamped_ms=stamped_ms, pops=tuple(each[0] for each in pops))
        self._ahead += 1

        def settle(outcome: object) -> None:
            self._ahead -= 1
            if isinstance(outcome, LedgerError):
                error = refusal_of(outcome)
                for _pop, _taken, failed in pops:
                    failed(error)
                return
            assert isinstance(outcome, Popped)
            for (_pop, taken, _failed), outcomes in zip(pops, outcome.outcomes, strict=True):
                taken(stamped_ms, outcomes)

        self._ledger.propose(encode_command(command), settle)

    def _propose_settled(self) -> None:
        acked, self._acked = self._acked, []
        changes, self._changes = self._changes, []
        acks, self._acks = self._acks, []
        command = SettlePops(
            stamped_ms=self._now_ms(),
            acks=tuple(acks),
            changes=tuple(each[0] for each in changes),
        )
        self._ahead += 1

        def settle(outcome: object) -> None:
            self._ahead -= 1
            if isinstance(outcome, LedgerError):
                error = refusal_of(outcome)
                for failed in (*(each[1] for each in acked), *(each[2] for each in changes)):
                    failed(error)
                return
            assert isinstance(outcome, Settled)
            for done, _failed in acked:
                done()
            for (_change, changed, _failed), new in zip(changes, outcome.changed, strict=True):
                changed(new)

        self._ledger.propose(encode_command(command), settle)
