"""The birth of a data folder: a number chosen at random when the folder is made.

    offset  size  field                          integers are big-endian and unsigned
    0       8     magic "DLEDGBTH"
    8       2     version (1)
    10      2     flags: 1 = the folder is older than its birth
    12      8     the number, never 0
    20      4     CRC-32C of bytes 0-19

The same again at byte 512, in a sector of its own. A member whose folder was emptied comes back
under its name, but has forgotten what it voted for and acknowledged: its birth tells it from the
one the group knew. The file is made before the hard state, and replaced only where a group is
broken with on purpose (`ledger.founding`).

A folder without one was made by a program that knew none; it gets one when it is opened, which
says so, since such a folder may hold votes.

Elsewhere: who remembers births, and what follows from a wrong one (the ledger).
"""

from __future__ import annotations

import struct
from typing import Final

from attrs import frozen
from crc32c import crc32c

from dledger_py.storage.files import FileSystem
from dledger_py.storage.formats import ADVICE_UPGRADE, SECTOR_BYTES, Corrupt

BIRTH_NAME: Final = "birth"
_NEW_NAME: Final = "birth.new"
BIRTH_BITS: Final = 62  # chance gives two folders one number in a billion billion
_MAGIC: Final = b"DLEDGBTH"
_VERSION: Final = 1
_FLAG_OLDER: Final = 1
_COPIES: Final = (0, SECTOR_BYTES)
_RECORD: Final = struct.Struct(">8sHHQI")
assert _RECORD.size == 24


@frozen
class Birth:
    """A folder's number. `older`: the folder was there before it."""

    number: int
    older: bool


def create_birth(files: FileSystem, directory: str, birth: Birth) -> None:
    """Durable on return, its name too; one that a crash left half-made is replaced."""
    path = f"{directory}/{BIRTH_NAME}"
    if BIRTH_NAME in files.list(directory):
        files.remove(path)
    _write(files, path, birth)
    files.fsync_directory(directory)


def replace_birth(files: FileSystem, directory: str, birth: Birth) -> None:
    """The folder is born anew: whoever knew it takes it for a stranger from now on. As one change,
    durable on return."""
    new = f"{directory}/{_NEW_NAME}"
    if _NEW_NAME in files.list(directory):
        files.remove(new)
    _write(files, new, birth)
    files.rename(new, f"{directory}/{BIRTH_NAME}")
    files.fsync_directory(directory)


def read_birth(files: FileSystem, directory: str) -> Birth:
    """Raises Corrupt, FileNotFoundError."""
    path = f"{directory}/{BIRTH_NAME}"
    file = files.open(path)
    try:
        content = file.pread(_COPIES[-1] + _RECORD.size, 0)
    except OSError as error:
        raise Corrupt(path, 0, f"the disk cannot read it: {error}") from error
    finally:
        file.close()
    return decode_birth(content, path)


def _write(files: FileSystem, path: str, birth: Birth) -> None:
    file = files.create(path)
    try:
        for at in _COPIES:
            file.pwrite(encode_birth(birth), at)
        file.fsync()
    finally:
        file.close()


def encode_birth(birth: Birth) -> bytes:
    """One copy."""
    packed = _RECORD.pack(_MAGIC, _VERSION, birth.older * _FLAG_OLDER, birth.number, 0)
    return packed[:-4] + crc32c(packed[:-4]).to_bytes(4, "big")


def decode_birth(content: bytes, file: str) -> Birth:
    """Raises Corrupt."""
    for at in _COPIES:
        copy = content[at : at + _RECORD.size]
        if len(copy) < _RECORD.size:
            continue
        magic, version, flags, number, crc = _RECORD.unpack(copy)
        if magic != _MAGIC or crc32c(copy[:-4]) != crc:
            continue
        if version != _VERSION or flags & ~_FLAG_OLDER:
            reason = f"birth version {version}, flags {flags}: only version {_VERSION} known"
            raise Corrupt(file, at + 8, reason, ADVICE_UPGRADE)
        return Birth(number, bool(flags & _FLAG_OLDER))
    raise Corrupt(file, 0, "no copy of the folder's birth is readable")
