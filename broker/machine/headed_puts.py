"""Commands that put messages and say something of their own: one layout for all of them.

    offset  size  field                                    integers are big-endian
    0       1     tag
    1       1     version
    2       4     size of the head
    6       ...   the head, as CBOR
    ...     ...   a whole `PutMessages`, to the end of the payload

The records lie at the very end, as in `PutMessages`, and are read where they stand.

Elsewhere: what the heads say (`moves`, `revivals`).
"""

from collections.abc import Sequence
from typing import Any, Final

from broker.machine import put_messages
from broker.machine.errors import MalformedCommand, UnknownCommand
from broker.machine.put_messages import Message, encode_put_messages
from broker.machine.shapes import decode, encode

_SIZE_BYTES: Final = 4
_HEAD_AT: Final = 2 + _SIZE_BYTES


def encode_headed(
    tag: int, version: int, head: Any, stamped_ms: int, messages: Sequence[Message]
) -> bytes:
    """The payload; `head` in plain types."""
    encoded = encode(head)
    size = len(encoded).to_bytes(_SIZE_BYTES, "big")
    return bytes((tag, version)) + size + encoded + encode_put_messages(stamped_ms, messages)


def split_headed(view: memoryview, version: int, name: str) -> tuple[Any, int]:
    """The head of a payload in plain types, and where in it the `PutMessages` begins. `name` is for
    what is said of damage. **Raises** `UnknownCommand`, `MalformedCommand`."""
    if view[1] != version:
        raise UnknownCommand(view[0], view[1])
    head_bytes = int.from_bytes(view[2:_HEAD_AT], "big")
    messages_at = _HEAD_AT + head_bytes
    if messages_at + 2 > len(view):
        raise MalformedCommand(f"{name}'s head of {head_bytes} bytes in {len(view)}")
    if view[messages_at] != put_messages.TAG:
        raise MalformedCommand(f"tag {view[messages_at]} where {name}'s messages begin")
    return decode(bytes(view[_HEAD_AT:messages_at])), messages_at
