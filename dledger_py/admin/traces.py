"""What clients tell of their messages: the records of RocketMQ's message trace, read and joined.

A client that traces sends ordinary messages to a trace topic. The body of one is any number of
records, ended by 0x02 each, their fields separated by 0x01; the first field says what happened:

    Pub                   it was sent: by whom, where to, how long that took, whether it was stored
    SubBefore, SubAfter   a consumer took it up; how that ended. A request id joins the two
    EndTransaction        what became of its transaction
    Recall                its sender took it back before its time

Java's client, Go's and older ones differ in which fields are at the end. Whoever may send to the
trace topic may write anything, so a record that cannot be understood is counted and passed over.

Laws: pure; `parse` takes any bytes.

**Source**: RocketMQ's `TraceDataEncoder.java`; rocketmq-client-go's `internal/trace.go`.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, TypeVar

from attrs import define, field, frozen

RECORD_END: Final = "\x02"
FIELD_END: Final = "\x01"

NO_VALUE: Final = "null"  # Java's, for what is not there

KINDS: Final = ("normal", "half", "commit", "delay", "order")
"""What kind of message it is, by RocketMQ's number."""

OUTCOMES: Final = ("success", "time out", "exception", "returned null", "failed")
"""How consuming ended, by RocketMQ's number."""

_NUMBER = re.compile(r"-?[0-9]{1,18}", re.ASCII)


class _Unreadable(Exception):
    """Refused: this record is none, or of a kind that came later."""


@frozen(kw_only=True)
class Sent:
    """One attempt to send, as the producer saw it."""

    at_ms: int
    """When it began, by the producer's clock."""
    region: str
    group: str
    topic: str
    message_id: str
    tags: str
    keys: str
    broker_address: str
    body_bytes: int
    cost_ms: int
    kind: str
    offset_message_id: str
    success: bool
    client_host: str
    """Where the producer is; empty if it does not say."""


@frozen(kw_only=True)
class TakenUp:
    """A consumer begins."""

    at_ms: int
    region: str
    group: str
    request_id: str
    message_id: str
    retry_times: int
    keys: str
    client_host: str


@frozen(kw_only=True)
class Finished:
    """A consumer has ended; which one, its beginning tells."""

    request_id: str
    message_id: str
    cost_ms: int
    success: bool
    outcome: str
    at_ms: int
    """0 if it does not say."""
    group: str
    """Empty if it does not say."""


@frozen(kw_only=True)
class TransactionEnded:
    """The producer told its broker what became of the transaction."""

    at_ms: int
    group: str
    topic: str
    message_id: str
    broker_address: str
    transaction_id: str
    state: str
    """COMMIT_MESSAGE, ROLLBACK_MESSAGE or UNKNOW."""
    after_check: bool
    """Whether the broker had asked for it."""


@frozen(kw_only=True)
class Recalled:
    """The sender took a timed message back."""

    at_ms: int
    group: str
    topic: str
    message_id: str
    success: bool


Record = Sent | TakenUp | Finished | TransactionEnded | Recalled

TimedT = TypeVar("TimedT", Sent, TransactionEnded, Recalled)


@frozen(kw_only=True)
class Consumed:
    """One delivery to one consumer: how it began, and how it ended if that is known."""

    group: str
    begun_ms: int
    """0 if only the end is known."""
    client_host: str
    retry_times: int
    ended: bool
    success: bool
    outcome: str
    """Empty if the end is not known."""
    cost_ms: int


@frozen(kw_only=True)
class Trace:
    """All that is known of one message."""

    message_id: str
    sent: tuple[Sent, ...] = ()
    consumed: tuple[Consumed, ...] = ()
    transactions: tuple[TransactionEnded, ...] = ()
    recalled: tuple[Recalled, ...] = ()
    unreadable: int = 0
    """Records that could not be understood, of whatever message."""

    @property
    def known(self) -> bool:
        """Whether anything is."""
        return bool(self.sent or self.consumed or self.transactions or self.recalled)


@define
class Parsed:
    """The records of a body, and how many were none."""

    records: list[Record] = field(factory=list)
    unreadable: int = 0


def parse(body: bytes) -> Parsed:
    """What the body of a trace message says."""
    parsed = Parsed()
    for text in body.decode(errors="replace").split(RECORD_END):
        if not text:
            continue
        fields = text.split(FIELD_END)
        read = _READERS.get(fields[0])
        try:
            if read is None:
                raise _Unreadable
            parsed.records.append(read(_Fields(fields)))
        except _Unreadable:
            parsed.unreadable += 1
    return parsed


def trace_of(message_id: str, bodies: Iterable[bytes]) -> Trace:
    """The story of one message, from the trace messages that may tell of it, the earliest first.

    A trace message may be there twice, as any message: what it says counts once.
    """
    unreadable = 0
    records: dict[Record, None] = {}  # ordered, and each once
    for body in bodies:
        parsed = parse(body)
        unreadable += parsed.unreadable
        records.update((each, None) for each in parsed.records if each.message_id == message_id)
    ends = {each.request_id: each for each in records if isinstance(each, Finished)}
    begins = [each for each in records if isinstance(each, TakenUp)]
    consumed = [_consumed(begin, ends.pop(begin.request_id, None)) for begin in begins]
    consumed += [_consumed(None, end) for end in ends.values()]
    return Trace(
        message_id=message_id,
        sent=_in_time(each for each in records if isinstance(each, Sent)),
        consumed=tuple(sorted(consumed, key=lambda each: (each.group, each.begun_ms))),
        transactions=_in_time(each for each in records if isinstance(each, TransactionEnded)),
        recalled=_in_time(each for each in records if isinstance(each, Recalled)),
        unreadable=unreadable,
    )


def _in_time(records: Iterable[TimedT]) -> tuple[TimedT, ...]:
    return tuple(sorted(records, key=lambda each: each.at_ms))


def _consumed(begin: TakenUp | None, end: Finished | None) -> Consumed:
    group = begin.group if begin is not None else end.group if end is not None else ""
    return Consumed(
        group=group,
        begun_ms=begin.at_ms if begin is not None else 0,
        client_host=begin.client_host if begin is not None else "",
        retry_times=begin.retry_times if begin is not None else 0,
        ended=end is not None,
        success=end is not None and end.success,
        outcome=end.outcome if end is not None else "",
        cost_ms=end.cost_ms if end is not None else 0,
    )


# --- one record ----------------------------------------------------------------------------------


@frozen
class _Fields:
    """The fields of one record, by place."""

    words: Sequence[str]

    def at_least(self, count: int) -> None:
        if len(self.words) < count:
            raise _Unreadable

    def text(self, at: int) -> str:
        """Empty for Java's null, and for what is not there."""
        word = self.words[at] if at < len(self.words) else ""
        return "" if word == NO_VALUE else word

    def number(self, at: int) -> int:
        if not _NUMBER.fullmatch(self.words[at]):
            raise _Unreadable
        return int(self.words[at])

    def flag(self, at: int) -> bool:
        word = self.words[at].lower()
        if word not in ("true", "false"):
            raise _Unreadable
        return word == "true"

    def named(self, at: int, words: Sequence[str]) -> str:
        number = self.number(at)
        return words[number] if 0 <= number < len(words) else str(number)


def _sent(fields: _Fields) -> Sent:
    fields.at_least(13)
    # Before 4.4 there was no offset message id; Go adds where the client is.
    has_id = len(fields.words) > 13
    return Sent(
        at_ms=fields.number(1),
        region=fields.text(2),
        group=fields.text(3),
        topic=fields.text(4),
        message_id=fields.text(5),
        tags=fields.text(6),
        keys=fields.text(7),
        broker_address=fields.text(8),
        body_bytes=fields.number(9),
        cost_ms=fields.number(10),
        kind=fields.named(11, KINDS),
        offset_message_id=fields.text(12) if has_id else "",
        success=fields.flag(13 if has_id else 12),
        client_host=fields.text(14),
    )


def _taken_up(fields: _Fields) -> TakenUp:
    fields.at_least(8)
    return TakenUp(
        at_ms=fields.number(1),
        region=fields.text(2),
        group=fields.text(3),
        request_id=fields.text(4),
        message_id=fields.text(5),
        retry_times=fields.number(6),
        keys=fields.text(7),
        client_host=fields.text(8),
    )


def _finished(fields: _Fields) -> Finished:
    fields.at_least(6)
    success = fields.flag(4)
    told = len(fields.words) > 6  # older clients say neither how nor when
    return Finished(
        request_id=fields.text(1),
        message_id=fields.text(2),
        cost_ms=fields.number(3),
        success=success,
        outcome=fields.named(6, OUTCOMES) if told else "success" if success else "failed",
        at_ms=fields.number(7) if len(fields.words) > 7 else 0,
        group=fields.text(8),
    )


def _transaction_ended(fields: _Fields) -> TransactionEnded:
    fields.at_least(13)
    return TransactionEnded(
        at_ms=fields.number(1),
        group=fields.text(3),
        topic=fields.text(4),
        message_id=fields.text(5),
        broker_address=fields.text(8),
        transaction_id=fields.text(10),
        state=fields.text(11),
        after_check=fields.flag(12),
    )


def _recalled(fields: _Fields) -> Recalled:
    fields.at_least(7)
    return Recalled(
        at_ms=fields.number(1),
        group=fields.text(3),
        topic=fields.text(4),
        message_id=fields.text(5),
        success=fields.flag(6),
    )


_READERS: Final[Mapping[str, Callable[[_Fields], Record]]] = {
    "Pub": _sent,
    "SubBefore": _taken_up,
    "SubAfter": _finished,
    "EndTransaction": _transaction_ended,
    "Recall": _recalled,
}
