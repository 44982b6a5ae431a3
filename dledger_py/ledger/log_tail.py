"""The newest entries of the log in memory, as the bytes that lie on disk.

Two readers would otherwise go to the disk for what was written a moment ago: the peer links,
which send an entry's own bytes, and the applier, which wants its payload. So nothing here is
re-encoded and hardly anything is copied: an entry is a range of the batch it was sealed in.

Laws: indices are contiguous; the newest entries stay, the oldest leave once the byte bound is
passed and they are on the disk; whoever finds that an entry left reads it from the disk. Memory
is the bound plus what else lay in the oldest batch still referred to.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Protocol

from attrs import define


@define(eq=False)
class TailEntry:
    """One entry: where it is in the log, and where its bytes are in memory."""

    index: int
    term: int
    kind: int
    position: int
    data: bytes | memoryview
    start: int
    end: int


class Written(Protocol):
    """The log, as far as the tail asks."""

    @property
    def durable_position(self) -> int: ...


class LogTail:
    """A bounded, contiguous run of entries that ends where the log ends."""

    def __init__(self, max_bytes: int, written: Written) -> None:
        """`written` tells what could be read from the disk instead."""
        self._max_bytes = max_bytes
        self._written = written
        self._entries: deque[TailEntry] = deque()
        self._size_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    @property
    def first_index(self) -> int | None:
        return self._entries[0].index if self._entries else None

    def append(self, entry: TailEntry) -> None:
        """Add the entry after the last one; what is older than the bound leaves."""
        entries = self._entries
        assert not entries or entry.index == entries[-1].index + 1
        entries.append(entry)
        self._size_bytes += entry.end - entry.start
        while self._size_bytes > self._max_bytes:
            oldest = entries[0]
            length = oldest.end - oldest.start
            if oldest.position + length > self._written.durable_position:
                break  # nobody could read it from the disk yet
            entries.popleft()
            self._size_bytes -= length

    def cut(self, first_index: int) -> None:
        """Forget `first_index` and everything after it."""
        entries = self._entries
        while entries and entries[-1].index >= first_index:
            newest = entries.pop()
            self._size_bytes -= newest.end - newest.start

    def get(self, index: int) -> TailEntry | None:
        """The entry at `index`, or nothing if it is not here (any more, or yet)."""
        entries = self._entries
        if not entries or not entries[0].index <= index <= entries[-1].index:
            return None
        # Counted from the end: a deque is quick there, and that is where readers are.
        return entries[index - entries[-1].index - 1]

    def raw(self, first_index: int, count: int) -> list[memoryview] | None:
        """The bytes of `count` entries as they lie on disk, in as few parts as they have in
        memory."""
        newest = self._entries[-1].index if self._entries else 0
        if self.get(first_index) is None or first_index + count - 1 > newest:
            return None
        return list(self._parts(first_index - newest - 1, count))

    def _parts(self, at: int, count: int) -> Iterable[memoryview]:
        entries = self._entries
        first = entries[at]
        data, start, end = first.data, first.start, first.end
        for offset in range(at + 1, at + count):
            entry = entries[offset]
            if entry.data is data and entry.start == end:
                end = entry.end
                continue
            yield memoryview(data)[start:end]
            data, start, end = entry.data, entry.start, entry.end
        yield memoryview(data)[start:end]
