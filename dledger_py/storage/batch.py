"""A batch: entries in their final bytes, with their place in the log. Pure.

The same `data` goes to the disk and to the peers; nothing is encoded twice. Made by `Log.seal`
and `Log.seal_raw` only, because a batch connects to the end of one log.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from dledger_py.storage.formats import (
    ENTRY_HEADER_BYTES,
    KIND_CONFIG,
    Bad,
    End,
    EntryLike,
    WalkedEntry,
    encode_entry,
    peek_place,
    walk,
)


class BadBatch(ValueError):
    """Raw entries do not continue this log, or are damaged. Kind: refused; nothing happened.

    The bytes came from a peer: drop the message (or the connection), it is no reason to stop.
    """

    def __init__(self, bad: Bad) -> None:
        self.bad = bad
        super().__init__(f"raw entries, byte {bad.at}: {bad.reason}")


@frozen(kw_only=True)
class StoredEntry:
    """One entry and its bytes. `raw` includes the header; both views share one buffer."""

    index: int
    term: int
    kind: int
    position: int
    raw: memoryview

    @property
    def payload(self) -> memoryview:
        return self.raw[ENTRY_HEADER_BYTES:]

    @property
    def payload_position(self) -> int:
        """The log position of the payload's byte 0."""
        return self.position + ENTRY_HEADER_BYTES


@frozen(kw_only=True, eq=False)
class Run:
    """Consecutive entries of the log in one buffer, verified."""

    data: bytearray
    position: int
    """The log position of data[0]."""
    entries: Sequence[WalkedEntry]
    """Each is data[start:stop]. The first need not begin the buffer, nor the last end it."""


@frozen(kw_only=True, eq=False)
class Batch:
    """Consecutive entries as they lie in the log, from `before.position` up to `end.position`."""

    before: End
    end: End
    data: bytes
    starts: tuple[int, ...]  # where each entry begins in `data`
    terms: tuple[tuple[int, int], ...]  # (first index, term) of each run of equal terms
    configurations: tuple[tuple[int, bytes], ...]  # index and payload of the CONFIG entries

    @property
    def first_index(self) -> int:
        return self.before.index + 1

    @property
    def last_index(self) -> int:
        return self.end.index

    @property
    def start_position(self) -> int:
        return self.before.position

    @property
    def end_position(self) -> int:
        return self.end.position

    def position_of(self, index: int) -> int:
        """The log position of the header of entry `index`."""
        return self.before.position + self.starts[index - self.before.index - 1]

    def payload_position_of(self, index: int) -> int:
        """The log position of the payload's byte 0 of entry `index`."""
        return self.position_of(index) + ENTRY_HEADER_BYTES

    def raw(self, first_index: int, last_index: int) -> memoryview:
        """The bytes of entries first_index..last_index, without a copy."""
        first = first_index - self.before.index - 1
        stop = last_index - self.before.index
        assert 0 <= first < stop <= len(self.starts)
        to = self.starts[stop] if stop < len(self.starts) else len(self.data)
        return memoryview(self.data)[self.starts[first] : to]


def seal(end: End, entries: Sequence[EntryLike]) -> Batch:
    """Give entries their bytes after `end`: one pass of CRC, one join."""
    assert entries
    before = end
    parts: list[bytes | memoryview] = []
    starts: list[int] = []
    terms: list[tuple[int, int]] = []
    configurations: list[tuple[int, bytes]] = []
    for entry in entries:
        assert entry.index == end.index + 1
        starts.append(end.position - before.position)
        if not terms or entry.term != end.term:
            terms.append((entry.index, entry.term))
        payload = entry.payload
        if entry.kind == KIND_CONFIG:
            configurations.append((entry.index, bytes(payload)))
        checked, crc, end = encode_entry(end, entry.term, entry.kind, payload)
        parts += (checked, crc, payload)
    return Batch(
        before=before,
        end=end,
        data=b"".join(parts),
        starts=tuple(starts),
        terms=tuple(terms),
        configurations=tuple(configurations),
    )


def seal_raw(end: End, raw: bytes | bytearray | memoryview) -> Batch:
    """Accept the bytes of another member's log that continue `end`.

    Copies only what is not `bytes` already. Raises BadBatch.
    """
    data = raw if type(raw) is bytes else bytes(raw)
    walked = walk(data, end)
    if walked.bad is not None:
        raise BadBatch(walked.bad)
    if not walked.entries:
        raise BadBatch(Bad(at=0, reason="no entry at all"))
    terms: list[tuple[int, int]] = []
    configurations: list[tuple[int, bytes]] = []
    for index, term, kind, start, stop in walked.entries:
        if not terms or terms[-1][1] != term:
            terms.append((index, term))
        if kind == KIND_CONFIG:
            configurations.append((index, data[start + ENTRY_HEADER_BYTES : stop]))
    starts = tuple(start for _index, _term, _kind, start, _stop in walked.entries)
    return Batch(
        before=end,
        end=walked.end,
        data=data,
        starts=starts,
        terms=tuple(terms),
        configurations=tuple(configurations),
    )


def split_raw(
    raw: bytes | memoryview, before_index: int, before_term: int
) -> tuple[StoredEntry, ...]:
    """Entries in raw bytes from a peer, CRC-checked and chained among themselves.

    For the receiver that must show them to the Raft core before it knows whether they continue
    its log; `Log.seal_raw` checks that they do. Raises BadBatch.
    """
    view = memoryview(raw)
    if len(view) < ENTRY_HEADER_BYTES:
        raise BadBatch(Bad(at=0, reason="ends inside an entry header", needed=ENTRY_HEADER_BYTES))
    _index, position, crc = peek_place(view)
    walked = walk(view, End(before_index, before_term, position, crc))
    if walked.bad is not None:
        raise BadBatch(walked.bad)
    return stored_entries(view, walked.entries, position)


def stored_entries(
    view: memoryview, entries: Sequence[WalkedEntry], position: int
) -> tuple[StoredEntry, ...]:
    """Views of walked entries; `position` is that of view[0]."""
    return tuple(
        StoredEntry(
            index=index, term=term, kind=kind, position=position + start, raw=view[start:stop]
        )
        for index, term, kind, start, stop in entries
    )
