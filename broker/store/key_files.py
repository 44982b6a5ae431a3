"""Files of the key index: stretches of the log one after the other, with the hashes of their keys.

    offset  size  field                                    integers are big-endian
    0       8     magic "DLEDGKI\\0"
    8       2     version (1)
    10      2     flags (0)
    12      8     first entry
    20      8     last entry
    28      4     crc of the last entry, from the log
    32      8     first_ms: when its oldest put was stamped, signed
    40      8     last_ms: the newest, signed
    48      4     number of stretches s
    52      4     number of hashes h
    56      4     crc of all behind the header
    60      4     crc of bytes 0 to 59
    64      28 s  s times: last entry u64, first_ms i64, last_ms i64, number of hashes u32
    ...     4 h   the hashes, stretch by stretch

CRCs are CRC-32C, as the log has. A file is written once, under another name until it is durable. It
is derived from the log: one that is damaged is removed, and made again. Its name is the first
entry in 20 digits.

Elsewhere: what a hash means (`key_stretches`), which files there are (`serving.key_index`).
"""

import os
import struct
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Final

from attrs import frozen
from crc32c import crc32c

from broker.store.key_stretches import Stretch, places, within

MAGIC: Final = b"DLEDGKI\0"
VERSION: Final = 1

HEADER: Final = struct.Struct(">8sHHQQIqqIII")
_CRC: Final = struct.Struct(">I")
HEADER_BYTES: Final = 64
assert HEADER.size + _CRC.size == HEADER_BYTES

STRETCH: Final = struct.Struct(">QqqI")
assert STRETCH.size == 28

_UNFINISHED: Final = ".new"


class DamagedFile(Exception):
    """The file is not what was written. Kind: refused; remove it, and the log gives it anew."""


@frozen(kw_only=True)
class KeyFile:
    """A file, as its header has it."""

    path: Path
    first_index: int
    last_index: int
    last_crc: int
    first_ms: int
    last_ms: int
    stretches: int
    hashes: int
    body_crc: int

    @property
    def size_bytes(self) -> int:
        return HEADER_BYTES + self.stretches * STRETCH.size + self.hashes * 4


def write_key_file(directory: Path, stretches: Sequence[Stretch]) -> KeyFile:
    """Write down stretches that follow each other. **Blocks**. **Durability**: durable on return.
    **Raises** OSError; then there may be an unfinished file, which `key_files` removes."""
    first, last = stretches[0], stretches[-1]
    rows = b"".join(
        STRETCH.pack(each.last_index, each.first_ms, each.last_ms, len(each.hashes) // 4)
        for each in stretches
    )
    hashes = b"".join([each.hashes for each in stretches])
    file = KeyFile(
        path=directory / f"{first.first_index:020d}",
        first_index=first.first_index,
        last_index=last.last_index,
        last_crc=last.last_crc,
        first_ms=min(each.first_ms for each in stretches),
        last_ms=max(each.last_ms for each in stretches),
        stretches=len(stretches),
        hashes=len(hashes) // 4,
        body_crc=crc32c(hashes, crc32c(rows)),
    )
    directory.mkdir(parents=True, exist_ok=True)
    unfinished = file.path.with_suffix(_UNFINISHED)
    with open(unfinished, "wb") as writing:
        writing.write(_encode(file) + rows)
        writing.write(hashes)
        writing.flush()
        os.fdatasync(writing.fileno())
    unfinished.rename(file.path)
    _sync_folder(directory)
    return file


def key_files(directory: Path) -> list[KeyFile]:
    """The files there that have a whole header, in the order of the log; others are removed, and so
    are all that do not connect to those before. **Blocks**. **Raises** OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    found: list[KeyFile] = []
    for path in sorted(directory.iterdir()):
        file = _headed(path)
        if file is not None and (not found or found[-1].last_index + 1 == file.first_index):
            found.append(file)
        else:
            path.unlink()
    return found


def remove(file: KeyFile) -> None:
    """Remove a file, if it is there. **Blocks**. **Raises** OSError."""
    file.path.unlink(missing_ok=True)


def likely(file: KeyFile, wanted: bytes, begin_ms: int, end_ms: int) -> list[tuple[int, int]]:
    """The stretches that may have a key with this hash, stored within a time, newest first: first
    and last entry. **Blocks**. **Raises** `DamagedFile`, OSError."""
    if not within(file.first_ms, file.last_ms, begin_ms, end_ms):
        return []
    raw = file.path.read_bytes()
    body = memoryview(raw)[HEADER_BYTES:]
    if len(raw) != file.size_bytes or crc32c(body) != file.body_crc:
        raise DamagedFile(f"{file.path}: its bytes are not those that were written")
    hashes_at = HEADER_BYTES + file.stretches * STRETCH.size
    numbers = places(raw, wanted, start=hashes_at)
    if not numbers:
        return []
    rows = list(STRETCH.iter_unpack(raw[HEADER_BYTES:hashes_at]))
    found = []
    for number, end in enumerate(accumulate(row[3] for row in rows)):
        if numbers and numbers[0] < end:
            while numbers and numbers[0] < end:
                numbers.pop(0)
            last_index, first_ms, last_ms, _count = rows[number]
            if within(first_ms, last_ms, begin_ms, end_ms):
                first_index = rows[number - 1][0] + 1 if number else file.first_index
                found.append((first_index, last_index))
    return found[::-1]


def _encode(file: KeyFile) -> bytes:
    head = HEADER.pack(
        MAGIC,
        VERSION,
        0,
        file.first_index,
        file.last_index,
        file.last_crc,
        file.first_ms,
        file.last_ms,
        file.stretches,
        file.hashes,
        file.body_crc,
    )
    return head + _CRC.pack(crc32c(head))


def _headed(path: Path) -> KeyFile | None:
    """What the header says, if it is whole, of this version, and fits name and size."""
    with open(path, "rb") as reading:
        raw = reading.read(HEADER_BYTES)
        size = os.fstat(reading.fileno()).st_size
    if len(raw) < HEADER_BYTES or _CRC.unpack(raw[-4:])[0] != crc32c(raw[:-4]):
        return None
    magic, version, flags, first, last, last_crc, first_ms, last_ms, stretches, hashes, body_crc = (
        HEADER.unpack(raw[:-4])
    )
    if (magic, version, flags) != (MAGIC, VERSION, 0):
        return None
    file = KeyFile(
        path=path,
        first_index=first,
        last_index=last,
        last_crc=last_crc,
        first_ms=first_ms,
        last_ms=last_ms,
        stretches=stretches,
        hashes=hashes,
        body_crc=body_crc,
    )
    return file if path.name == f"{first:020d}" and size == file.size_bytes else None


def _sync_folder(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
