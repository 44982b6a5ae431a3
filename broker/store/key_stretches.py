"""Which keys a stretch of the log has, by their hashes, so that a search may pass over most of it.

A stretch is a run of whole entries of about `STRETCH_BYTES`. It is looked at as bytes: whatever
stands behind the name of a property that holds keys counts, also where a body only looks like that.
So a hash that is there means that the stretch is worth searching; one that is not, that no record
in it has the key.

Laws: no key of a record is missed. A value ends at the byte 0x02; or, as the last property need not
have one, where the next record begins, whose first byte is 0 as no record has 16 MiB. Keys that
hold one of the bytes 0, 1 and 2 are not found by this, and `is_key` says so. Times are those that
the puts were stamped with; their records were stamped at most `STAMP_SLACK_MS` away.

Elsewhere: searching a stretch (`stored_records`), files (`key_files`).
"""

import sys
from array import array
from collections.abc import Sequence
from typing import Final, Protocol
from zlib import crc32

from attrs import frozen

from broker.store.stored_records import StoredEntry, puts_in
from dledger_py.storage.formats import KIND_COMMAND, entry_crc

STRETCH_BYTES: Final = 128 * 1024
"""Looking at one takes some 0.3 to 0.7 ms; a search in vain as much."""

STAMP_SLACK_MS: Final = 5 * 60_000
"""A record waits for its turn, or for earlier entries to be committed, before it is put."""

NEVER_MS: Final = (1 << 63) - 1

_KEYS: Final = b"KEYS\x01"
_UNIQUE_KEY: Final = b"UNIQ_KEY\x01"

assert array("I").itemsize == 4


class Entries(Protocol):
    """The log, as far as it is read here."""

    def read(self, first_index: int, max_bytes: int) -> Sequence[StoredEntry]: ...


@frozen(kw_only=True)
class Stretch:
    """Some entries, and the keys of their records."""

    first_index: int
    last_index: int
    end_position: int
    """Log position behind the last entry."""
    last_crc: int
    """Of the last entry: the log's chain, so it tells this log from others."""
    first_ms: int
    last_ms: int
    """When the oldest and the newest put was stamped; of none: first > last."""
    hashes: bytes
    """CRC-32 of each key, 4 bytes, big-endian; in no order, none twice."""


def is_key(text: str) -> bool:
    """Whether a message with this key would be found."""
    return bool(text) and not any(separator in text for separator in "\x00\x01\x02")


def hash_of(key: str) -> bytes:
    """As a stretch holds it."""
    return crc32(key.encode()).to_bytes(4, "big")


def read_stretch(log: Entries, first_index: int, through_index: int) -> Stretch | None:
    """The stretch that begins at an entry, and ends at `through_index` at most; None if the log
    does not have that entry yet. **Blocks**. **Raises** what reading the log raises."""
    entries = [e for e in log.read(first_index, STRETCH_BYTES) if e.index <= through_index]
    if not entries:
        return None
    payloads = [entry.payload for entry in entries if entry.kind == KIND_COMMAND]
    stamps = [put.stamped_ms for payload in payloads for _start, put in puts_in(payload)]
    last = entries[-1]
    return Stretch(
        first_index=first_index,
        last_index=last.index,
        end_position=last.payload_position + len(last.payload),
        last_crc=entry_crc(last.raw),
        first_ms=min(stamps, default=NEVER_MS),
        last_ms=max(stamps, default=-NEVER_MS),
        hashes=hashes_in(b"\0".join(payloads)) if stamps else b"",
    )


def hashes_in(raw: bytes) -> bytes:
    """The hashes of all that may be a key in these bytes."""
    # Two passes of `split` cost a third of taking each record apart; a pattern that finds both
    # names costs more than both passes.
    words = [
        piece.partition(b"\x02")[0].partition(b"\0")[0] for piece in raw.split(_UNIQUE_KEY)[1:]
    ]
    for piece in raw.split(_KEYS)[1:]:
        words += piece.partition(b"\x02")[0].partition(b"\0")[0].split(b" ")
    hashes = array("I", set(map(crc32, words)))
    if sys.byteorder == "little":
        hashes.byteswap()
    return hashes.tobytes()


def likely_of(
    stretches: Sequence[Stretch], wanted: bytes, begin_ms: int, end_ms: int
) -> list[tuple[int, int]]:
    """Those that may have a key with this hash, stored within a time, newest first: first and last
    entry."""
    return [
        (each.first_index, each.last_index)
        for each in reversed(stretches)
        if within(each.first_ms, each.last_ms, begin_ms, end_ms) and places(each.hashes, wanted)
    ]


def within(first_ms: int, last_ms: int, begin_ms: int, end_ms: int) -> bool:
    """Whether a record of puts stamped then may have been stored within a time."""
    return first_ms - STAMP_SLACK_MS <= end_ms and begin_ms <= last_ms + STAMP_SLACK_MS


def places(hashes: bytes, wanted: bytes, *, start: int = 0) -> list[int]:
    """Which of the hashes, that begin at byte `start`, are the one wanted, by number."""
    found = []
    at = hashes.find(wanted, start)
    while at >= 0:
        number, rest = divmod(at - start, 4)
        if not rest:
            found.append(number)
        at = hashes.find(wanted, at + 1)
    return found
