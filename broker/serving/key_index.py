"""The key index: reads what was applied, behind everybody else, and writes down which keys it has.

Sends pay nothing for it: it is made from the log alone, one stretch at a time, each in a worker
thread for less than a millisecond, and with rests that keep it to a share of the time: a small one
while the log grows, a quarter if it does not. So it may fall far behind a busy broker; whoever
searches looks at the log itself from `next_index` on (`key_search`).

Laws: only applied entries are indexed, whole, each once and in their order. Memory is bounded by
one file. The files are derived: what is damaged, missing or of another log is removed and made
again. Nothing here stops the broker: an index that cannot be written, or a log that cannot be read,
is tried again later. (The log's own readers judge it, and the scrubber reads all of it.) Files go
with the entries they are about.

Elsewhere: bytes (`store.key_files`), what a stretch says (`store.key_stretches`).
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Never, Protocol

import structlog
import trio
from attrs import define, field

from broker.store.key_files import KeyFile, key_files, remove, write_key_file
from broker.store.key_stretches import STRETCH_BYTES, Entries, Stretch, read_stretch
from dledger_py.actors import Inbox
from dledger_py.storage import Corrupt
from dledger_py.storage.formats import entry_crc

log = structlog.get_logger()

ROUND_S: Final = 0.05
"""Between two looks at how the log grows, and from one rest to the next."""

IDLE_S: Final = 0.25
"""The same while there is nothing to index."""

SHARE_AT_REST: Final = 0.25
SHARE_IN_USE: Final = 0.05
SHARE_BUSY: Final = 0.01
SHARE_FAR_BEHIND: Final = 0.04
"""Of the time, for reading stretches. Who sends little waits for each answer, so even then most of
the time is his: 0.05 are some 10 MB/s. Far behind, a search would not reach the end of the index
any more, so a busy broker gives a little more."""

IN_USE_BYTES_PER_S: Final = 16 * 1024
BUSY_BYTES_PER_S: Final = 256 * 1024
"""Growth of the log from which on its broker counts as in use, and as busy."""

FAR_BEHIND_BYTES: Final = 256 * 1024 * 1024

FILE_STRETCHES: Final = 1024
"""128 MiB of log: what a start has to index again at most."""

FILE_HASHES: Final = 512 * 1024
"""2 MiB: held in memory until the file is full, and read by a search as one."""

PUT_OFF_S: Final = 60.0
"""After an error, before it tries again."""


class Log(Entries, Protocol):
    """What is wanted of the log."""

    @property
    def first_index(self) -> int: ...
    @property
    def first_position(self) -> int: ...


@define(eq=False, kw_only=True)
class KeyIndex:
    """Actor. Its files and stretches are the event loop's; a search takes a copy of them."""

    directory: Path
    log: Callable[[], Log]
    applied: Callable[[], tuple[int, int]]
    """The last entry applied, and the log position behind it."""
    wait_replayed: Callable[[], Awaitable[None]]
    run_in_thread: Callable[..., Awaitable[Any]]
    files: list[KeyFile] = field(factory=list, init=False)
    """The oldest first; each begins where the one before ends."""
    stretches: list[Stretch] = field(factory=list, init=False)
    """What follows them and is in no file yet."""
    _hashes_bytes: int = field(default=0, init=False)
    """Of the stretches' hashes."""
    next_index: int = field(default=1, init=False)
    """The first entry that is not indexed."""
    next_position: int = field(default=0, init=False)
    """Its log position."""
    last_ms: int = field(default=0, init=False)
    """When the newest put was stamped that this life has indexed."""
    _changes: int = field(default=0, init=False)
    """How often something indexed was given up: what a thread read before that is of no use."""

    async def run(self, inbox: Inbox[Never]) -> None:
        """Until its inbox is closed."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._live)
            inbox.ready()
            await inbox.wait_closed()
            nursery.cancel_scope.cancel()

    async def catch_up(self) -> None:
        """Index all stretches that are full. **Raises** OSError, Corrupt."""
        while self._behind_bytes() >= STRETCH_BYTES:
            await self._advance()

    async def open(self) -> None:
        """Go on from the files there are. **Raises** OSError, Corrupt."""
        files = await self._in_thread(key_files, self.directory)
        last_index = self.applied()[0]
        kept, end = await self._in_thread(_of_this_log, self.log(), files, last_index)
        for file in files[len(kept) :]:
            log.info("key_index.removed", file=str(file.path), reason="not of this log")
            await self._in_thread(remove, file)
        self._begin_anew()
        if kept:
            self.files, self.next_index, self.next_position = kept, kept[-1].last_index + 1, end

    def drop_from(self, file: KeyFile) -> None:
        """This file is damaged: index again from its first entry on."""
        if file not in self.files:
            return
        log.warning("key_index.damaged", file=str(file.path))
        at = self.files.index(file)
        dropped, self.files = self.files[at:], self.files[:at]
        self.stretches, self._hashes_bytes = [], 0
        self._changes += 1
        self.next_index = file.first_index
        self.next_position = self.log().first_position  # a guess: it is set by the next stretch
        for each in dropped:
            with suppress(OSError):
                remove(each)

    # --- pieces ----------------------------------------------------------------------------------

    async def _live(self) -> None:
        await self.wait_replayed()
        while True:
            try:
                await self.open()
                await self._keep_up()
            except (OSError, Corrupt) as error:
                log.warning("key_index.put_off", reason=str(error))
            await trio.sleep(PUT_OFF_S)

    async def _keep_up(self) -> None:
        seen, seen_s = self.applied()[1], trio.current_time()
        rest_s = ROUND_S
        while True:
            await trio.sleep(rest_s)
            applied, now_s = self.applied()[1], trio.current_time()
            grown = (applied - seen) / max(now_s - seen_s, 1e-3)
            seen, seen_s = applied, now_s
            self._let_go()
            share = share_of_time(bytes_per_s=grown, behind_bytes=self._behind_bytes())
            used_s = 0.0
            while self._behind_bytes() >= STRETCH_BYTES and used_s < share * ROUND_S:
                await self._advance()
                used_s = trio.current_time() - now_s
            rest_s = max(ROUND_S, used_s / share) - used_s if used_s else IDLE_S

    async def _advance(self) -> None:
        """Index one more stretch, and write a file if that fills one."""
        changes, first_index, last_index = self._changes, self.next_index, self.applied()[0]
        try:
            stretch = await self._in_thread(read_stretch, self.log(), first_index, last_index)
        except LookupError:
            self._let_go()  # of what retention has taken meanwhile
            return
        if changes != self._changes:
            return  # it was begun anew meanwhile
        assert stretch is not None, f"applied entry {first_index} is not in the log"
        self.stretches.append(stretch)
        self._hashes_bytes += len(stretch.hashes)
        self.next_index, self.next_position = stretch.last_index + 1, stretch.end_position
        self.last_ms = max(self.last_ms, stretch.last_ms)
        if self._hashes_bytes >= 4 * FILE_HASHES or len(self.stretches) >= FILE_STRETCHES:
            file = await self._in_thread(write_key_file, self.directory, self.stretches[:])
            if changes == self._changes:
                self.files.append(file)
                self.stretches, self._hashes_bytes = [], 0

    async def _in_thread(self, fn: Callable[..., Any], *arguments: Any) -> Any:
        # A disk that hangs must not keep the process from ending.
        return await self.run_in_thread(fn, *arguments, abandon_on_cancel=True)

    def _behind_bytes(self) -> int:
        return self.applied()[1] - self.next_position

    def _let_go(self) -> None:
        """Of files about entries that the log has no more. **Raises** OSError."""
        of = self.log()
        while self.files and self.files[0].last_index < of.first_index:
            remove(self.files.pop(0))
        if self.next_index < of.first_index:
            self._begin_anew()

    def _begin_anew(self) -> None:
        """With the log's first entry."""
        of = self.log()
        self.files, self.stretches, self._hashes_bytes = [], [], 0
        self.next_index, self.next_position = of.first_index, of.first_position
        self._changes += 1


def share_of_time(*, bytes_per_s: float, behind_bytes: int) -> float:
    """How much of the time goes into indexing while the log grows like that."""
    if bytes_per_s < IN_USE_BYTES_PER_S:
        return SHARE_AT_REST
    if bytes_per_s < BUSY_BYTES_PER_S:
        return SHARE_IN_USE
    return SHARE_FAR_BEHIND if behind_bytes > FAR_BEHIND_BYTES else SHARE_BUSY


def _of_this_log(of: Log, files: list[KeyFile], last_index: int) -> tuple[list[KeyFile], int]:
    """The first files, up to the last that ends with an entry of this log, and the log position
    behind that; none if the log has entries before them, or no such entry."""
    if not files or files[0].first_index > of.first_index:
        return [], 0
    for count in range(len(files), 0, -1):
        file = files[count - 1]
        if file.last_index <= last_index:
            crc, end = _place(of, file.last_index)
            if crc == file.last_crc:
                return files[:count], end
    return [], 0


def _place(of: Log, index: int) -> tuple[int | None, int]:
    """An entry's crc, and the log position behind it; None if the log does not have it."""
    try:
        (entry, *_) = of.read(index, 1)
    except LookupError:
        return None, 0
    return entry_crc(entry.raw), entry.payload_position + len(entry.payload)
