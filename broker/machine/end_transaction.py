"""`EndTransaction`: the command that ends a half message and puts what takes its place, in one.

    offset  size  field                                    integers are big-endian
    0       1     tag (15)
    1       1     version (1)
    2       8     stamped_ms
    10      8     log position of the half message's record
    18      1     verdict: 1 committed, 2 rolled back, 3 expired
    19      ...   committed, expired: a whole `PutMessages` of one message; rolled back: nothing

Laws: two entries, one that puts the message and one that ends the half, could be torn apart by a
change of leader: the message would be lost or come twice. The record lies at the very end here as
it does in `PutMessages`, so that it is read where it stands, and nothing may follow it.
"""

import struct
from enum import IntEnum
from typing import Final

from attrs import frozen

from broker.machine import put_messages
from broker.machine.errors import MalformedCommand, UnknownCommand
from broker.machine.put_messages import MESSAGE, PutMessages, decode_put_messages

TAG: Final = 15
VERSION: Final = 1

HEAD = struct.Struct(">BBqqB")
assert HEAD.size == 19


class Verdict(IntEnum):
    """How a half message ends."""

    COMMITTED = 1
    """Its message is stored in the real topic."""
    ROLLED_BACK = 2
    """Nothing takes its place."""
    EXPIRED = 3
    """Nobody ended it in time: a copy is kept in a topic for such."""


@frozen(kw_only=True)
class EndTransaction:
    """End a half message that is pending; what is pending no more stays as it is."""

    stamped_ms: int
    half_position: int
    verdict: Verdict
    put: bytes = b""
    """The payload of a `PutMessages` with the one message; empty if there is none."""

    @property
    def messages(self) -> PutMessages | None:
        """What is put. **Raises** as `decode_put_messages`."""
        return decode_put_messages(self.put) if self.put else None


def encode_end_transaction(command: EndTransaction) -> bytes:
    """The payload of the command."""
    head = HEAD.pack(TAG, VERSION, command.stamped_ms, command.half_position, command.verdict.value)
    return head + command.put


def decode_end_transaction(payload: bytes | memoryview) -> EndTransaction:
    """The command of a payload; whether the record fills it is seen when it is applied.

    **Raises** `UnknownCommand` for another version, of either command; `MalformedCommand` for
    anything not written by `encode_end_transaction`.
    """
    view = memoryview(payload)
    tag, version = view[0], view[1]
    assert tag == TAG
    if version != VERSION:
        raise UnknownCommand(tag, version)
    try:
        _tag, _version, stamped_ms, position, number = HEAD.unpack_from(view)
        verdict = Verdict(number)
    except (struct.error, ValueError) as error:
        raise MalformedCommand(f"EndTransaction: {error}") from error
    put = bytes(view[HEAD.size :])
    if bool(put) == (verdict is Verdict.ROLLED_BACK):
        raise MalformedCommand(f"EndTransaction: {verdict.name} with {len(put)} bytes of messages")
    command = EndTransaction(
        stamped_ms=stamped_ms, half_position=position, verdict=verdict, put=put
    )
    if put:
        if len(put) < 2 or put[0] != put_messages.TAG:
            raise MalformedCommand("EndTransaction: what is put are no messages")
        messages = command.messages
        assert messages is not None
        if len(messages.queues) != 1 or len(messages.table) != MESSAGE.size:
            raise MalformedCommand("EndTransaction: it puts one message, into one queue")
    return command
