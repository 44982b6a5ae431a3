"""How many half messages there may be, and their ends on the way into the log: the leader's part.

Laws
- A half is ended by one proposal at a time, and only while it is pending here: what comes meanwhile
  gets the answer of the first, or a refusal.
- Those that are pending and those on their way into the log together are at most `HALVES_MAX`.

What is remembered here is soft: a new leader begins with nothing, and needs nothing, as it has
applied whatever came before.

Elsewhere: what is pending (`broker.machine.transactions`).
"""

from collections.abc import Callable, Sequence
from typing import Final

from attrs import define, field

from broker.errors import TooManyHalves
from broker.machine.codec import encode_command
from broker.machine.end_transaction import EndTransaction, Verdict
from broker.machine.put_messages import Message, encode_put_messages
from broker.machine.replies import Declined, MessageReply
from broker.machine.transactions import HALVES_MAX, Transactions
from broker.serving.put_batch import Failed, Proposer, Settled, refusal_of
from broker.serving.rates import Rates
from dledger_py.ledger.errors import LedgerError
from dledger_py.remoting.rooms import Refused

ENDED_MAX: Final = 10_000
"""How many ends are remembered, to answer a verdict that comes twice."""

Done = Callable[[Exception | None], None]
"""Called with None once a half has ended, or with what to tell instead."""


@define(eq=False, kw_only=True)
class HalfMessages:
    """Admits halves and proposes their ends; one instance serves the whole member."""

    pending: Transactions
    ledger: Proposer
    rates: Rates
    now_ms: Callable[[], int]
    halves_max: int = HALVES_MAX
    _beginning: int = 0
    _ending: dict[int, tuple[Verdict, list[Done]]] = field(factory=dict, init=False)
    _ended: dict[int, Verdict] = field(factory=dict, init=False)
    """By log position, oldest first."""

    # --- beginning -------------------------------------------------------------------------------

    def admit(self) -> None:
        """Raises: TooManyHalves, if there is no room for another."""
        if len(self.pending) + self._beginning >= self.halves_max:
            raise TooManyHalves(self.halves_max)

    def counted(self, settled: Settled, failed: Failed) -> tuple[Settled, Failed]:
        """The same two, for a half that goes its way into the log now."""
        self._beginning += 1

        def count_and_settle(replies: Sequence[MessageReply]) -> None:
            self._beginning -= 1
            settled(replies)

        def count_and_fail(error: Exception) -> None:
            self._beginning -= 1
            failed(error)

        return count_and_settle, count_and_fail

    # --- ending ----------------------------------------------------------------------------------

    def ending(self, position: int) -> Verdict | None:
        """The verdict on its way into the log for the half at this position, if one is."""
        found = self._ending.get(position)
        return None if found is None else found[0]

    def ended(self, position: int) -> Verdict | None:
        """How the half at this position has ended, as far as that is remembered."""
        return self._ended.get(position)

    def join(self, position: int, done: Done) -> None:
        """Be told as well what comes of the verdict that is on its way."""
        self._ending[position][1].append(done)

    def end(self, position: int, verdict: Verdict, message: Message | None, done: Done) -> None:
        """End the half at this position, which is pending, and put the message in the same entry.

        `done` is called once, later.
        """
        assert self.pending.get(position) is not None
        assert position not in self._ending
        self._ending[position] = verdict, [done]
        now_ms = self.now_ms()
        command = EndTransaction(
            stamped_ms=now_ms,
            half_position=position,
            verdict=verdict,
            put=b"" if message is None else encode_put_messages(now_ms, (message,)),
        )

        def settle(outcome: object) -> None:
            _verdict, waiting = self._ending.pop(position)
            error = _error_of(outcome)
            if error is None:
                self._count(verdict, message)
                self._remember(position, verdict)
            for each in waiting:
                each(error)

        self.ledger.propose(encode_command(command), settle)

    def _remember(self, position: int, verdict: Verdict) -> None:
        self._ended[position] = verdict
        if len(self._ended) > ENDED_MAX:
            del self._ended[next(iter(self._ended))]

    def _count(self, verdict: Verdict, message: Message | None) -> None:
        rates = self.rates
        meter = {
            Verdict.COMMITTED: rates.transactions_committed,
            Verdict.ROLLED_BACK: rates.transactions_rolled_back,
            Verdict.EXPIRED: rates.transactions_expired,
        }[verdict]
        meter.total += 1
        if message is not None:
            rates.topic(message[0]).total += 1


def _error_of(outcome: object) -> Exception | None:
    if isinstance(outcome, LedgerError):
        return refusal_of(outcome)
    if isinstance(outcome, Declined):
        return Refused(outcome.detail)
    return None
