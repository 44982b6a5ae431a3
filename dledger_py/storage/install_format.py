"""The small file that says that this member's log is to be replaced by a copy. Pure.

    offset  size  field                          integers are big-endian and unsigned
    0       8     magic "DLEDGINS"
    8       2     version (1)
    10      2     phase: 1 wanted, 2 switching
    12      8     switching: index of the copy's last entry
    20      8     its term
    28      8     index of the snapshot that comes with it, 0 if none does
    36      8     index of the configuration that comes with it
    44      4     how many files the copy has
    48      …     start position of each (8)
    …       4     CRC-32C of all before

Elsewhere: what it is for (`switching`, `incoming`).
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final

from attrs import frozen
from crc32c import crc32c

from dledger_py.storage.formats import ADVICE_UPGRADE, Corrupt

INSTALL_MAGIC: Final = b"DLEDGINS"
VERSION: Final = 1

_HEAD = struct.Struct(">8sHH")
_COUNT = struct.Struct(">I")
_COPY = struct.Struct(">QQQQ")
_START = struct.Struct(">Q")
_CRC_BYTES: Final = 4


class Phase(IntEnum):
    WANTED = 1
    """The log is to be replaced; it is still there, and what was copied so far is in `incoming`."""
    SWITCHING = 2
    """The copy is whole, and is taking the log's place."""


@frozen(kw_only=True)
class Marker:
    """The `install` file."""

    phase: Phase
    last_index: int = 0
    last_term: int = 0
    snapshot_index: int = 0
    configuration_index: int = 0
    starts: tuple[int, ...] = ()


def encode_marker(marker: Marker) -> bytes:
    content = (
        _HEAD.pack(INSTALL_MAGIC, VERSION, marker.phase)
        + _COPY.pack(
            marker.last_index,
            marker.last_term,
            marker.snapshot_index,
            marker.configuration_index,
        )
        + _COUNT.pack(len(marker.starts))
        + b"".join(_START.pack(start) for start in marker.starts)
    )
    return content + crc32c(content).to_bytes(_CRC_BYTES, "big")


def decode_marker(content: bytes, file: str) -> Marker:
    """Raises Corrupt."""
    checked = content[:-_CRC_BYTES]
    if len(checked) < _HEAD.size or not checked.startswith(INSTALL_MAGIC):
        raise Corrupt(file, 0, f"magic {content[:8]!r} where {INSTALL_MAGIC!r} belongs")
    if crc32c(checked) != int.from_bytes(content[-_CRC_BYTES:], "big"):
        raise Corrupt(file, 0, "the crc does not match")
    _magic, version, phase = _HEAD.unpack_from(checked)
    if version != VERSION:
        raise Corrupt(file, 8, f"version {version}: only {VERSION} is known", ADVICE_UPGRADE)
    try:
        if phase not in set(Phase):
            raise Corrupt(file, 10, f"phase {phase} is not known", ADVICE_UPGRADE)
        numbers = _COPY.unpack_from(checked, _HEAD.size)
        (count,) = _COUNT.unpack_from(checked, _HEAD.size + _COPY.size)
        first = _HEAD.size + _COPY.size + _COUNT.size
        starts = tuple(
            _START.unpack_from(checked, first + _START.size * number)[0] for number in range(count)
        )
    except struct.error as error:
        raise Corrupt(file, 0, f"cut short, with a good crc: {error}") from error
    return Marker(
        phase=Phase(phase),
        last_index=numbers[0],
        last_term=numbers[1],
        snapshot_index=numbers[2],
        configuration_index=numbers[3],
        starts=starts,
    )
