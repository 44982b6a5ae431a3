"""The segment files of one log: which exist, and reading from them in any thread.

Only the writer changes the list (`add`, `drop_last`, `drop_first`); readers see it
under a lock and hold a file open while they read from it, so that a dropped segment's descriptor
is never closed (and its number reused) under a reader's feet.

Elsewhere: writing (`appender`), what entries mean (`log`).
"""

from __future__ import annotations

import errno
import os
import threading
from bisect import bisect_left, bisect_right
from collections import OrderedDict

from attrs import define, field

from dledger_py.storage.files import File, FileSystem
from dledger_py.storage.formats import HEADER_BLOCK_BYTES, End, segment_name

# Descriptors kept for reading: 64 segments of 64 MiB are the newest 4 GiB. Consumers that read
# further back than that share the rest of the places; an open costs a few microseconds.
READ_FILES_MAX = 64


@define(eq=False)
class _Opened:
    file: File
    users: int = 0
    evicted: bool = False


@define(eq=False)
class Segments:
    """The ordered segments of a directory; never empty once a log is open."""

    _files: FileSystem
    directory: str
    _befores: list[End]  # the end each segment continues, in order
    _starts: list[int] = field(init=False)
    _opened: OrderedDict[int, _Opened] = field(init=False, factory=OrderedDict)
    _lock: threading.Lock = field(init=False, factory=threading.Lock)

    def __attrs_post_init__(self) -> None:
        self._starts = [before.position for before in self._befores]

    # -- the list (the writer)

    @property
    def last(self) -> End:
        """The end of the log that the last segment continues."""
        return self._befores[-1]

    @property
    def first(self) -> End:
        """The end of the log that the first segment continues: EMPTY, or what was dropped."""
        return self._befores[0]

    def add(self, before: End) -> None:
        with self._lock:
            assert before.position > self._starts[-1]
            self._befores.append(before)
            self._starts.append(before.position)

    def drop_last(self) -> None:
        """Forget the last segment; its file is the caller's to remove."""
        with self._lock:
            assert len(self._starts) > 1
            self._befores.pop()
            self._forget(self._starts.pop())

    def drop_first(self) -> str:
        """Forget the first segment; its file, whose path is returned, is the caller's to remove."""
        with self._lock:
            assert len(self._starts) > 1
            del self._befores[0]
            start = self._starts.pop(0)
            self._forget(start)
        return self.path(start)

    def boundaries(self) -> tuple[End, ...]:
        """The end of the log that each segment but the first continues. Any thread."""
        with self._lock:
            return tuple(self._befores[1:])

    def floor(self, index: int) -> End:
        """What the last segment continues that begins with entry `index` or an earlier one; the
        first segment's if there is none."""
        at = bisect_left(self._befores, index, key=lambda before: before.index)
        return self._befores[max(0, at - 1)]

    def start_of(self, position: int) -> int:
        """The start of the segment that `position` is, or would be written, in."""
        return self._span(position)[0]

    def start_before_last(self) -> int:
        return self._starts[-2]

    def path(self, start: int) -> str:
        return f"{self.directory}/{segment_name(start)}"

    # -- reading (any thread)

    def read_into(self, buffer: memoryview, position: int, *, nowait: bool = False) -> int:
        """Fill the buffer from log position on, across segments; less only where files end.

        Raises BlockingIOError with nowait; FileNotFoundError when a segment was just dropped.
        """
        done = 0
        while done < len(buffer):
            at = position + done
            start, stop = self._span(at)
            count = len(buffer) - done
            if stop is not None:
                count = min(count, stop - at)
            opened = self._acquire(start)
            try:
                part = buffer[done : done + count]
                got = opened.file.pread_into(part, HEADER_BLOCK_BYTES + at - start, nowait=nowait)
            finally:
                self._release(opened)
            done += got
            if got < count:
                break
        return done

    def locate(self, position: int) -> tuple[str, int]:
        """(file, offset in it) of a log position, for messages about damage."""
        start, _stop = self._span(position)
        return self.path(start), HEADER_BLOCK_BYTES + position - start

    def count(self) -> int:
        return len(self._starts)

    def open_count(self) -> int:
        return len(self._opened)

    def close(self) -> None:
        with self._lock:
            for opened in self._opened.values():
                self._evict(opened)
            self._opened.clear()

    def _span(self, position: int) -> tuple[int, int | None]:
        """Start of the segment with `position`, and of the next one if there is one."""
        with self._lock:
            at = bisect_right(self._starts, position)
            if not at:
                raise self._dropped(position)
            return self._starts[at - 1], self._starts[at] if at < len(self._starts) else None

    def _acquire(self, start: int) -> _Opened:
        with self._lock:
            opened = self._opened.get(start)
            if opened is None:
                # Dropped since `_span`: its file may still be there, but a descriptor kept now
                # would hold the disk space, and pass for a later segment of the same name.
                if start not in self._starts:
                    raise self._dropped(start)
                opened = _Opened(self._files.open(self.path(start)))
                self._opened[start] = opened
                if len(self._opened) > READ_FILES_MAX:
                    _start, oldest = self._opened.popitem(last=False)
                    self._evict(oldest)
            else:
                self._opened.move_to_end(start)
            opened.users += 1
            return opened

    def _release(self, opened: _Opened) -> None:
        with self._lock:
            opened.users -= 1
            if opened.evicted and not opened.users:
                opened.file.close()

    def _dropped(self, position: int) -> FileNotFoundError:
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.path(position))

    def _forget(self, start: int) -> None:
        opened = self._opened.pop(start, None)
        if opened is not None:
            self._evict(opened)

    def _evict(self, opened: _Opened) -> None:
        opened.evicted = True
        if not opened.users:
            opened.file.close()
