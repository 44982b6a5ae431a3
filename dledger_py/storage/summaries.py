"""What an opening has to know of a sealed segment, so that it need not read the segment.

A segment that another one follows never changes, but for a cut. Beside it lies a file that says
what a walk over its entries would find:

    offset  size  field                          integers are big-endian and unsigned
    0       8     magic "DLEDGSUM"
    8       2     version (1)
    10      2     flags (0)
    12      28    the end of the log before it: index, term, position (8 each), crc (4)
    40      28    the end of the log behind it
    68      4     number of anchors
    72      4     number of runs of equal terms
    76      4     number of configurations
    80            anchors: index, position (8 each)
                  runs: first index, term (8 each)
                  configurations: index (8), length (4), payload
    …       4     CRC-32C of all before

File `<start position, 20 digits>.summary`. Laws:

1. *It is a cache.* Missing, torn, of another version or not fitting, it is none: the segment is
   read instead, and a new one written. So it is never synced, and no crash matters to it.
2. *It speaks for the segment beside it only*: the header of the next segment, which is older than
   the summary, says where this one ends, by the CRC of its last entry; the file has exactly that
   size, and its last entries are read and end there (`fits`).
3. *It vouches for what was written, not for what the disk still has.* Who finds damage in a log
   drops them all (`forget_summaries`), so that the next opening reads everything.

Elsewhere: when a segment is sealed (`appender`), how an opening uses this (`recovery`), who reads
the segments again meanwhile (the ledger's scrubber).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from attrs import frozen
from crc32c import crc32c

from dledger_py.storage.anchors import Anchors
from dledger_py.storage.files import File, FileSystem
from dledger_py.storage.formats import (
    ENTRY_HEADER_BYTES,
    HEADER_BLOCK_BYTES,
    SEGMENT_SUFFIX,
    End,
    peek_place,
    segment_name,
    segment_start,
    walk,
)

Pairs = tuple[tuple[int, int], ...]
Configurations = tuple[tuple[int, bytes], ...]

_MAGIC: Final = b"DLEDGSUM"
_VERSION: Final = 1
_HEAD: Final = struct.Struct(">8sHHQQQIQQQIIII")
_PAIR: Final = struct.Struct(">QQ")
_CONFIGURATION: Final = struct.Struct(">QI")
_CRC: Final = struct.Struct(">I")
_SUFFIX: Final = ".summary"
assert _HEAD.size == 80


@frozen(kw_only=True)
class Summary:
    """A sealed segment: the log's end before and behind it, (index, position) about every 64 KiB,
    (first index, term) of each run of terms, (index, payload) of its CONFIG entries."""

    before: End
    end: End
    anchors: Pairs
    terms: Pairs
    configurations: Configurations


def summarise(
    before: End,
    end: End,
    anchors: Anchors,
    terms: Sequence[tuple[int, int]],
    configurations: Sequence[tuple[int, bytes]],
) -> Summary:
    """Of the entries between two ends of a log, from what is known of the whole log."""
    first = before.index + 1
    runs = [(max(index, first), term) for index, term in terms if index <= end.index]
    begun = sum(index == first for index, _term in runs)
    return Summary(
        before=before,
        end=end,
        anchors=anchors.between(before.position, end.position),
        terms=tuple(runs[max(0, begun - 1) :]),
        configurations=tuple(each for each in configurations if first <= each[0] <= end.index),
    )


def encode(summary: Summary) -> bytes:
    """The bytes of the file."""
    before, end = summary.before, summary.end
    parts = [
        _HEAD.pack(
            _MAGIC,
            _VERSION,
            0,
            *(before.index, before.term, before.position, before.crc),
            *(end.index, end.term, end.position, end.crc),
            *(len(summary.anchors), len(summary.terms), len(summary.configurations)),
        )
    ]
    parts += (_PAIR.pack(*pair) for pair in summary.anchors + summary.terms)
    for index, payload in summary.configurations:
        parts += (_CONFIGURATION.pack(index, len(payload)), payload)
    content = b"".join(parts)
    return content + _CRC.pack(crc32c(content))


def decode(content: bytes) -> Summary | None:
    """None for whatever is not whole and of this version."""
    if len(content) < _HEAD.size + _CRC.size:
        return None
    body, (crc,) = content[: -_CRC.size], _CRC.unpack(content[-_CRC.size :])
    if crc32c(body) != crc:
        return None
    magic, version, flags, *rest = _HEAD.unpack_from(body)
    if (magic, version, flags) != (_MAGIC, _VERSION, 0):
        return None
    anchors, terms, count = rest[8:]
    at = _HEAD.size + _PAIR.size * anchors
    stop = at + _PAIR.size * terms
    configurations = []
    position = stop
    for _each in range(count):
        index, size = _CONFIGURATION.unpack_from(body, position)
        position += _CONFIGURATION.size + size
        configurations.append((index, body[position - size : position]))
    return Summary(
        before=End(*rest[:4]),
        end=End(*rest[4:8]),
        anchors=tuple(_PAIR.iter_unpack(body[_HEAD.size : at])),
        terms=tuple(_PAIR.iter_unpack(body[at:stop])),
        configurations=tuple(configurations),
    )


# ---- files


def summary_name(start: int) -> str:
    """Of the segment that starts at this position."""
    return segment_name(start).removesuffix(SEGMENT_SUFFIX) + _SUFFIX


def summary_start(name: str) -> int | None:
    """The start position a file name tells, or None if it is no summary's name."""
    digits = name.removesuffix(_SUFFIX)
    return None if digits == name else segment_start(digits + SEGMENT_SUFFIX)


def write_summary(files: FileSystem, directory: str, summary: Summary) -> None:
    """In the place of an older one. Not durable. Raises OSError."""
    name = summary_name(summary.before.position)
    remove_summaries(files, directory, [summary.before.position])
    file = files.create(f"{directory}/{name}")
    try:
        file.pwrite(encode(summary), 0)
    finally:
        file.close()


def read_summary(files: FileSystem, directory: str, start: int) -> Summary | None:
    """None if there is none, or none that can be read."""
    try:
        file = files.open(f"{directory}/{summary_name(start)}")
    except OSError:
        return None
    try:
        return decode(file.pread(file.size(), 0))
    except OSError:
        return None
    finally:
        file.close()


def fits(summary: Summary, before: End, end: End, segment: File) -> bool:
    """Whether it tells of this segment, which lies between these ends of the log: the file ends
    where it says, and the entries from its last anchor on do. Raises OSError."""
    if (summary.before, summary.end) != (before, end):
        return False
    if segment.size() != HEADER_BLOCK_BYTES + end.position - before.position:
        return False
    index, position = ((before.index + 1, before.position), *summary.anchors)[-1]
    at = HEADER_BLOCK_BYTES + position - before.position
    content = segment.pread(end.position - position, at)
    if len(content) < ENTRY_HEADER_BYTES:
        return False
    _index, _position, crc = peek_place(content)
    found = walk(content, End(index - 1, 0, position, crc))
    return found.bad is None and found.end == end


def remove_summaries(files: FileSystem, directory: str, starts: Sequence[int]) -> None:
    """Those of segments that start there, if they have any. Not durable, nor need it be."""
    names = {summary_name(start) for start in starts}
    for name in names.intersection(files.list(directory)):
        files.remove(f"{directory}/{name}")


def summary_starts(files: FileSystem, directory: str) -> list[int]:
    """Where the segments start that have one."""
    found = (summary_start(name) for name in files.list(directory))
    return [start for start in found if start is not None]


def forget_summaries(files: FileSystem, directory: str) -> None:
    """The log is damaged somewhere: the next opening reads all of it. Nobody has it open."""
    remove_summaries(files, directory, summary_starts(files, directory))
    files.fsync_directory(directory)
