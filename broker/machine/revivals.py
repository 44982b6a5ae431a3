"""`RevivePops`: messages whose time in flight is up, moved to where they are tried again.

Laws: the head names checkpoints of one queue, and of each the messages that the proposer saw in
flight. If any was acknowledged or changed meanwhile, nothing happens, and it is proposed again
without it: so a message is either acknowledged or moved, and never both.

Elsewhere: the layout (`headed_puts`), when something is due and what becomes of a record
(`serving.revivals`).
"""

from collections.abc import Sequence
from typing import Final

from attrs import frozen

from broker.machine.errors import MalformedCommand
from broker.machine.headed_puts import encode_headed, split_headed
from broker.machine.put_messages import Message, PutMessages, decode_put_messages
from broker.machine.shapes import INT, TEXT, many, record, row

TAG: Final = 21
VERSION: Final = 1

Expired = tuple[int, int, int]
"""(first offset, stamp of the pop in ms, a bit for each message in flight)."""


@frozen(kw_only=True)
class Revival:
    """What a revival says of itself."""

    stamped_ms: int
    group: str
    topic: str
    queue_id: int
    checkpoints: tuple[Expired, ...]


_HEAD: Final = record(
    Revival,
    stamped_ms=INT,
    group=TEXT,
    topic=TEXT,
    queue_id=INT,
    checkpoints=many(row(INT, INT, INT)),
)


@frozen(kw_only=True)
class RevivePops:
    """A revival with the messages to put: either both happen or nothing does."""

    revival: Revival
    messages: PutMessages
    messages_at: int
    """Where in the payload the layout of `PutMessages` begins."""

    @property
    def stamped_ms(self) -> int:
        """When it was proposed."""
        return self.revival.stamped_ms


def encode_revival(revival: Revival, messages: Sequence[Message]) -> bytes:
    """The payload."""
    return encode_headed(TAG, VERSION, _HEAD.to_plain(revival), revival.stamped_ms, messages)


def decode_revival(payload: bytes | memoryview) -> RevivePops:
    """The inverse. **Raises** `UnknownCommand`, `MalformedCommand`."""
    view = memoryview(payload)
    head, messages_at = split_headed(view, VERSION, "a revival")
    revival: Revival = _HEAD.from_plain(head)
    if not revival.checkpoints:
        raise MalformedCommand("a revival of nothing")
    return RevivePops(
        revival=revival,
        messages=decode_put_messages(view[messages_at:]),
        messages_at=messages_at,
    )
