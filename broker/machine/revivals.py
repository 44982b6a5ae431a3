"""`RevivePops`: messages whose time in flight is up, moved to where they are tried again.

    offset  size  field                                    integers are big-endian
    0       1     tag (21)
    1       1     version (1)
    2       4     size of the head
    6       ...   the head, as CBOR
    ...     ...   a whole `PutMessages`, to the end of the payload

Laws: the head names checkpoints of one queue, and of each the messages that the proposer saw in
flight. If any was acknowledged or changed meanwhile, nothing happens, and it is proposed again
without it: so a message is either acknowledged or moved, and never both. The records lie at the
very end, as in `PutMessages`, and are read where they stand.

Elsewhere: when something is due and what becomes of a record (`serving.revivals`).
"""

from collections.abc import Sequence
from typing import Final

from attrs import frozen

from broker.machine import put_messages
from broker.machine.errors import MalformedCommand, UnknownCommand
from broker.machine.put_messages import (
    Message,
    PutMessages,
    decode_put_messages,
    encode_put_messages,
)
from broker.machine.shapes import INT, TEXT, decode, encode, many, record, row

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
_HEAD_SIZE_BYTES: Final = 4
_HEAD_AT: Final = 2 + _HEAD_SIZE_BYTES


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
    head = encode(_HEAD.to_plain(revival))
    size = len(head).to_bytes(_HEAD_SIZE_BYTES, "big")
    put = encode_put_messages(revival.stamped_ms, messages)
    return bytes((TAG, VERSION)) + size + head + put


def decode_revival(payload: bytes | memoryview) -> RevivePops:
    """The inverse. **Raises** `UnknownCommand`, `MalformedCommand`."""
    view = memoryview(payload)
    if view[1] != VERSION:
        raise UnknownCommand(TAG, view[1])
    head_bytes = int.from_bytes(view[2:_HEAD_AT], "big")
    messages_at = _HEAD_AT + head_bytes
    if messages_at + 2 > len(view):
        raise MalformedCommand(f"a revival's head of {head_bytes} bytes in {len(view)}")
    revival: Revival = _HEAD.from_plain(decode(bytes(view[_HEAD_AT:messages_at])))
    if not revival.checkpoints:
        raise MalformedCommand("a revival of nothing")
    if view[messages_at] != put_messages.TAG:
        raise MalformedCommand(f"tag {view[messages_at]} where a revival's messages begin")
    return RevivePops(
        revival=revival,
        messages=decode_put_messages(view[messages_at:]),
        messages_at=messages_at,
    )
