"""The sends of one turn, on their way into one log entry.

A handler adds its messages and the promise to answer; at the end of the turn everything that waits
becomes one `PutMessages` and one proposal. So a turn costs one entry, however many clients sent.
When the entry has been applied, each send learns where its messages stand.

What is on its way can be found by its identity, so that the same message sent again meanwhile joins
it instead of becoming a second one (`duplicates`).

There is no linger timer. While `ENTRIES_AHEAD` entries are on their way to the disks, what arrives
waits for one of them and becomes one larger entry: the disk is the timer. An entry costs every
member the same whether it holds one message or sixty, so this is where a busy broker's rate comes
from, and an idle one never waits.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

from attrs import define, field

from broker.errors import NoLeader, OutcomeUnknown, TooBusy
from broker.machine.put_messages import Message, encode_put_messages
from broker.machine.replies import MessageReply
from dledger_py.ledger.errors import Busy, Indefinite, LedgerError, NotLeader

MESSAGES_MAX = 512  # per entry: 64 already reach four fifths of the peak rate
BYTES_MAX = 256 * 1024  # per entry: what a follower writes while the leader makes the next

ENTRIES_AHEAD = 4  # one at the leader, one at the followers, one on its way back, one to spare

Settled = Callable[[Sequence[MessageReply]], None]
Failed = Callable[[Exception], None]

Single = tuple[Any, ...]
"""A message that came alone: what its answer needs, behind its place among the entry's replies."""


class Singles(Protocol):
    """Whoever adds messages that came alone: they are answered entry by entry, not one by one."""

    def stored(self, singles: Sequence[Single], replies: Sequence[MessageReply]) -> None:
        """Their entry was applied; `replies` are those of the whole entry."""

    def failed(self, singles: Sequence[Single], error: Exception) -> None:
        """Their entry was not, or nobody knows."""


class Window(Protocol):
    """Where the newest messages are remembered, as far as a batch spares it work."""

    def settled(
        self,
        replies: Sequence[MessageReply],
        identities: Collection[int],
        others: Collection[int] = (),
    ) -> None:
        """An entry got these replies; its messages that have an identity have these."""


class Proposer(Protocol):
    """The ledger, as far as a batch uses it."""

    def propose(self, payload: bytes, settle: Callable[[object], None]) -> None:
        """Append a command; `settle` is called once, later, with its reply or a LedgerError."""


def refusal_of(error: LedgerError) -> Exception:
    """What a client is told when its proposal did not get a reply."""
    match error:
        case NotLeader():
            return NoLeader()
        case Busy():
            return TooBusy()
        case Indefinite():
            return OutcomeUnknown()
        case _:
            return error


@define(eq=False)
class PutBatch:
    """Collects sends; `propose` hands them to the ledger."""

    _ledger: Proposer
    _now_ms: Callable[[], int]
    _window: Window | None = None
    pending: dict[int, list[Message] | Message] = field(factory=dict, init=False)
    """What has an identity and is on its way, gathered or proposed."""
    _identities: dict[int, int] = field(factory=dict)
    """Of what is gathered: to where it begins."""
    _others: list[int] = field(factory=list)
    """Of the further messages of what is gathered: nobody joins them."""
    _joined: dict[int, list[tuple[Settled, Failed]]] = field(factory=dict)
    _messages: list[Message] = field(factory=list)
    _waiting: list[tuple[int, int, Settled, Failed]] = field(factory=list)
    _singles: list[Single] = field(factory=list)
    _answers: Singles = field(init=False)
    _bytes: int = 0
    _ahead: int = 0

    def answer_singles_by(self, singles: Singles) -> None:
        """Name who answers what `add_single` added."""
        self._answers = singles

    def add(
        self,
        messages: Sequence[Message],
        settled: Settled,
        failed: Failed,
        *,
        identity: int = 0,
        others: Sequence[int] = (),
    ) -> None:
        """Store these together: consecutively, and all of them or none.

        `settled` gets one reply per message once they are durable at a quorum and applied; `failed`
        gets what to tell the client instead. With an `identity`, which nothing pending has, they
        can be joined. `others` are those of the messages behind the first, as far as known.
        """
        size = sum([len(message[3]) for message in messages])
        waiting = self._messages
        if waiting and (
            len(waiting) + len(messages) > MESSAGES_MAX or self._bytes + size > BYTES_MAX
        ):
            self.propose()
        waiting = self._messages
        if identity:
            self.pending[identity] = list(messages)
            self._identities[identity] = len(waiting)
            self._others += others
        self._waiting.append((len(waiting), len(messages), settled, failed))
        waiting.extend(messages)
        self._bytes += size

    def join(self, identity: int, settled: Settled, failed: Failed) -> None:
        """Be told as well what comes of those pending ones."""
        self._joined.setdefault(identity, []).append((settled, failed))

    def add_single(self, message: Message, identity: int, *answer: object) -> None:
        """Store this; `answer` comes back to `Singles`, behind the message's place. `identity` is
        as in `add`."""
        size = len(message[3])
        waiting = self._messages
        if waiting and (len(waiting) == MESSAGES_MAX or self._bytes + size > BYTES_MAX):
            self.propose()
            waiting = self._messages
        if identity:
            self.pending[identity] = message
            self._identities[identity] = len(waiting)
        self._singles.append((len(waiting), *answer))
        waiting.append(message)
        self._bytes += size

    def turn_ended(self) -> None:
        """Propose what waits, unless enough entries are on their way: then one of them calls."""
        if self._ahead < ENTRIES_AHEAD:
            self.propose()

    def propose(self) -> None:
        """Propose what waits, if anything does."""
        if not self._messages:
            return
        payload = encode_put_messages(self._now_ms(), self._messages)
        waiting, singles, identities = self._waiting, self._singles, self._identities
        others, self._others = self._others, []
        self._messages, self._waiting, self._singles, self._bytes = [], [], [], 0
        self._identities = {}
        self._ahead += 1

        def settle(outcome: object) -> None:
            self._ahead -= 1
            waiting.extend(self._ended(identities))
            if isinstance(outcome, LedgerError):
                error = refusal_of(outcome)
                if singles:
                    self._answers.failed(singles, error)
                for _at, _count, _settled, failed in waiting:
                    failed(error)
                return
            assert isinstance(outcome, list)
            if self._window is not None:
                self._window.settled(outcome, identities, others)
            if singles:
                self._answers.stored(singles, outcome)
            for at, count, settled, _failed in waiting:
                settled(outcome[at : at + count])

        self._ledger.propose(payload, settle)

    def _ended(self, identities: dict[int, int]) -> list[tuple[int, int, Settled, Failed]]:
        """These are pending no more; who had joined them, as in `_waiting`."""
        pending, joined = self.pending, self._joined
        told = []
        if joined:
            for identity, at in identities.items():
                for settled, failed in joined.pop(identity, ()):
                    told.append((at, len(several(pending[identity])), settled, failed))
        for identity in identities:
            del pending[identity]
        return told


def several(pending: list[Message] | Message) -> Sequence[Message]:
    """What is pending as the messages it is."""
    return pending if isinstance(pending, list) else (pending,)
