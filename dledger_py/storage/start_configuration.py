"""Who the members were before the log's beginning: kept beside a log whose front was dropped.

    offset  size  field                          integers are big-endian and unsigned
    0       8     magic "DLEDGCFG"
    8       2     version (1)
    10      2     flags (0)
    12      8     index of the configuration; 0: the founders'
    20      4     payload length
    24      4     CRC-32C of bytes 0-23 and the payload
    28            payload: a configuration as its entry has it

File `configuration-<index, 20 digits>`. Laws: it is durable before the entries that it speaks for
are dropped, and an older one goes only afterwards; so a torn one is made up for by the one before,
and a log that begins late has at least one that is whole.

Elsewhere: what the payload means (raft).
"""

from __future__ import annotations

import struct
from typing import Final

from crc32c import crc32c

from dledger_py.storage.files import FileSystem
from dledger_py.storage.formats import ADVICE_UPGRADE, Corrupt

_MAGIC: Final = b"DLEDGCFG"
_VERSION: Final = 1
_HEAD: Final = struct.Struct(">8sHHQI")
_CRC: Final = struct.Struct(">I")
_PREFIX: Final = "configuration-"
_NAME_DIGITS: Final = 20
assert _HEAD.size == 24


def configuration_name(index: int) -> str:
    return f"{_PREFIX}{index:0{_NAME_DIGITS}d}"


def configuration_index(name: str) -> int | None:
    """The index a file name tells, or None if it is no such file's name."""
    digits = name.removeprefix(_PREFIX)
    if name == digits or len(digits) != _NAME_DIGITS or not digits.isdecimal():
        return None
    return int(digits)


def write_start_configuration(
    files: FileSystem, directory: str, index: int, payload: bytes
) -> None:
    """Durable on return, its name too. Any number of times."""
    path = f"{directory}/{configuration_name(index)}"
    if configuration_name(index) in files.list(directory):
        if _read(files, path) == (index, payload):
            return
        files.remove(path)
    file = files.create(path)
    try:
        file.pwrite(encode(index, payload), 0)
        file.fsync()
    finally:
        file.close()
    files.fsync_directory(directory)


def remove_start_configurations(files: FileSystem, directory: str, *, below: int) -> None:
    """Remove those of smaller indices. A crash may bring them back; they do no harm."""
    for index in _indices(files, directory):
        if index < below:
            files.remove(f"{directory}/{configuration_name(index)}")


def read_start_configuration(files: FileSystem, directory: str) -> tuple[int, bytes]:
    """(index, payload) of the newest that is whole. Raises Corrupt if none is."""
    for index in reversed(_indices(files, directory)):
        found = _read(files, f"{directory}/{configuration_name(index)}")
        if found is not None:
            return found
    reason = "the log's front was dropped, and no file says who the members were before"
    raise Corrupt(directory, 0, reason)


def encode(index: int, payload: bytes) -> bytes:
    """The bytes of the file."""
    head = _HEAD.pack(_MAGIC, _VERSION, 0, index, len(payload))
    return head + _CRC.pack(crc32c(payload, crc32c(head))) + payload


def _indices(files: FileSystem, directory: str) -> list[int]:
    found = (configuration_index(name) for name in files.list(directory))
    return sorted(index for index in found if index is not None)


def _read(files: FileSystem, path: str) -> tuple[int, bytes] | None:
    """None if it is torn."""
    file = files.open(path)
    try:
        content = file.pread(file.size(), 0)
    except OSError as error:
        raise Corrupt(path, 0, f"the disk cannot read it: {error}") from error
    finally:
        file.close()
    if len(content) < _HEAD.size + _CRC.size:
        return None
    magic, version, flags, index, length = _HEAD.unpack_from(content)
    (crc,) = _CRC.unpack_from(content, _HEAD.size)
    payload = content[_HEAD.size + _CRC.size :]
    if magic != _MAGIC or len(payload) != length:
        return None
    if crc32c(payload, crc32c(content[: _HEAD.size])) != crc:
        return None
    if version != _VERSION or flags:
        reason = f"configuration file version {version}, flags {flags}: only {_VERSION} known"
        raise Corrupt(path, 8, reason, ADVICE_UPGRADE)
    return index, payload
