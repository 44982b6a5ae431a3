"""Bytes of the derived files: everything under the store's folder but the log itself.

Laws: positions and offsets are unsigned in meaning, signed on disk (as RocketMQ's Java longs); a
layout never changes in place. These files are derived from the log and carry no checksum: a doubt
is settled by deleting and rebuilding them. Elsewhere: log segments (`dledger_py.storage.formats`),
records (`dledger_py.remoting.wire.message`), replicated commands (`broker.machine.codec`).

**Source**: RocketMQ's `ConsumeQueue.java`, so that its tools can read our folder.
"""

import struct

UNIT = struct.Struct(">qiq")
"""One message in its queue: log position of the record, its size, its tags code."""
assert UNIT.size == 20

UNIT_PLACE = struct.Struct(">qi8x")
"""The same unit, when only the place of the record is wanted."""
assert UNIT_PLACE.size == UNIT.size

UNIT_TAGS_CODE = struct.Struct(">12xq")
"""The same unit, when only the tags code is wanted."""
assert UNIT_TAGS_CODE.size == UNIT.size

UNITS_PER_FILE = 300_000
"""6,000,000 bytes a file; RocketMQ's default."""

FILE_BYTES = UNITS_PER_FILE * UNIT.size


def queue_file_name(offset: int) -> str:
    """The file that holds the unit of `offset`: the byte where the file begins, in 20 digits."""
    return f"{offset // UNITS_PER_FILE * FILE_BYTES:020d}"


def place_in_file(offset: int) -> int:
    """The byte of the unit of `offset` within its file."""
    return offset % UNITS_PER_FILE * UNIT.size
