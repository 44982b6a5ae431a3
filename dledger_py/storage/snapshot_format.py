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

The same again at byte 512, in a sector of its own; the body follows at byte 4096. Laws: the copies
are written after the body is on disk, the second after the first is. So one readable copy says that
the body was whole once. Where neither reads, a second copy that was never begun says that the first
was torn: the snapshot was not finished, and is nobody's loss. Otherwise it is damage.
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

COPIES: Final = (0, 512)

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
    """One copy."""
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
    return checked + crc32c(checked).to_bytes(4, "big")


def decode_header(block: bytes, file: str) -> SnapshotHeader | None:
    """The header in the block a file begins with; None if the snapshot was never finished.

    Raises: Corrupt if both copies are damaged, or of a version this program does not know.
    """
    copies = [block[at : at + _HEADER.size] for at in COPIES]
    for at, copy in zip(COPIES, copies, strict=True):
        if len(copy) == _HEADER.size and crc32c(copy[:_CHECKED_BYTES]) == int.from_bytes(
            copy[_CHECKED_BYTES:], "big"
        ):
            return _decode_copy(copy, file, at)
    if any(copies[-1]):
        raise Corrupt(file, 0, "no copy of the snapshot header can be read")
    return None


def _decode_copy(copy: bytes, file: str, at: int) -> SnapshotHeader:
    """A copy whose CRC is right."""
    (magic, version, flags, index, term, position, length, body_crc, entry_crc, *names, _crc) = (
        _HEADER.unpack(copy)
    )
    if magic != MAGIC:
        raise Corrupt(file, at, f"magic {magic!r} is not a snapshot's")
    if version != VERSION or flags:
        reason = f"snapshot version {version}, flags {flags}: only version {VERSION} is known"
        raise Corrupt(file, at + 8, reason, ADVICE_UPGRADE)
    cluster, group, member = (padded.rstrip(b"\0").decode() for padded in names)
    return SnapshotHeader(
        identity=Identity(cluster=cluster, group=group, member=member),
        index=index,
        term=term,
        position=position,
        entry_crc=entry_crc,
        body_bytes=length,
        body_crc=body_crc,
    )
