"""The header block of a snapshot file. Pure.

    offset  size  field                          integers are big-endian and unsigned
    0       8     magic "DLEDGSNP"
    8       2     version (1)
    10      2     flags (0)
    12      8     index of the last entry the state stands for
    20      8     its term
    28      8     log position behind it
    36      8     body length in bytes
    44      4     CRC-32C of the body
    48      4     CRC of that last entry: what the next entry's chain begins with
    52      192   cluster, group and member id, 64 bytes each, padded with zeros
    244     4     CRC-32C of bytes 0-243

The body follows at byte 4096. Law: the block is written last, after the body is on disk, so a block
that reads says that the body was whole once; a file without one is a snapshot that was never
finished, and is nobody's loss.
"""

from __future__ import annotations

import struct
from typing import Final

from attrs import frozen
from crc32c import crc32c

from dledger_py.storage.formats import ADVICE_UPGRADE, Corrupt, Identity

HEADER_BLOCK_BYTES: Final = 4096
MAGIC: Final = b"DLEDGSNP"
VERSION: Final = 1

_HEADER = struct.Struct(">8sHHQQQQII64s64s64sI")
assert _HEADER.size == 248
_CHECKED_BYTES: Final = _HEADER.size - 4
_NAME_DIGITS: Final = 20
_SUFFIX: Final = ".snapshot"


@frozen(kw_only=True)
class SnapshotHeader:
    """What a snapshot stands for, and how to tell that its body is whole."""

    identity: Identity
    index: int
    term: int
    position: int
    entry_crc: int
    body_bytes: int
    body_crc: int


def snapshot_name(index: int) -> str:
    """The file of the snapshot at this index; names sort as indices do."""
    return f"{index:0{_NAME_DIGITS}d}{_SUFFIX}"


def snapshot_index(name: str) -> int | None:
    """The index a file name tells, or None if it is no snapshot's name."""
    digits = name.removesuffix(_SUFFIX)
    if name == digits or len(digits) != _NAME_DIGITS or not digits.isdecimal():
        return None
    return int(digits)


def encode_header(header: SnapshotHeader) -> bytes:
    """The whole block."""
    identity = header.identity
    packed = _HEADER.pack(
        MAGIC,
        VERSION,
        0,
        header.index,
        header.term,
        header.position,
        header.body_bytes,
        header.body_crc,
        header.entry_crc,
        identity.cluster.encode(),
        identity.group.encode(),
        identity.member.encode(),
        0,
    )
    checked = packed[:_CHECKED_BYTES]
    return (checked + crc32c(checked).to_bytes(4, "big")).ljust(HEADER_BLOCK_BYTES, b"\0")


def decode_header(block: bytes, file: str) -> SnapshotHeader | None:
    """The header in a block; None if there never was one (the block is zeros, or not all there).

    Raises: Corrupt for anything else.
    """
    if len(block) < _HEADER.size or not any(block[: _HEADER.size]):
        return None
    fields = _HEADER.unpack_from(block)
    (magic, version, flags, index, term, position, length, body_crc, entry_crc) = fields[:9]
    cluster, group, member, crc = fields[9:]
    if magic != MAGIC:
        raise Corrupt(file, 0, f"magic {magic!r} is not a snapshot's")
    if crc32c(block[:_CHECKED_BYTES]) != crc:
        raise Corrupt(file, 0, "crc of the snapshot header does not match")
    if version != VERSION or flags:
        reason = f"snapshot version {version}, flags {flags}: only version {VERSION} is known"
        raise Corrupt(file, 8, reason, ADVICE_UPGRADE)
    names = [padded.rstrip(b"\0").decode() for padded in (cluster, group, member)]
    return SnapshotHeader(
        identity=Identity(cluster=names[0], group=names[1], member=names[2]),
        index=index,
        term=term,
        position=position,
        entry_crc=entry_crc,
        body_bytes=length,
        body_crc=body_crc,
    )
