"""Finding messages by key: the newest in the log itself, the rest by the key index.

    log     ├─ files ─────┼─ files ─────┼─ in memory ─┼─ not indexed ─┤ applied
            4. likely stretches, newest first           1. all of it

Laws: a message is found as soon as it is applied. What comes out is a record in the table of an
applied put, of the topic, with the key, in the time asked for, and its queue has it at this
position: messages of a deleted topic, or below the first offset of their queue, are not there. A
search that had to stop before its end says so, rather than that there is nothing.

It runs in slices: a thread for at most some milliseconds at a time, and one search after the other.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, TypeVar

import structlog
import trio
from attrs import define, field, frozen

from broker.errors import LogUnreadable, TooManyQueries
from broker.serving.key_index import KeyIndex, Log
from broker.store.consume_queues import ConsumeQueues
from broker.store.key_files import DamagedFile, KeyFile, likely
from broker.store.key_stretches import Stretch, hash_of, likely_of, within
from broker.store.message_lookup import record_at
from broker.store.message_reader import LogReader
from broker.store.stored_records import Wanted, matches
from dledger_py.storage import Corrupt

log = structlog.get_logger()

T = TypeVar("T")

MESSAGES_MAX: Final = 64  # RocketMQ's maxMsgsNumBatch
BYTES_MAX: Final = 4 * 1024 * 1024  # of an answer; a larger first message goes alone

SLICE_BYTES: Final = 256 * 1024
"""Of the log, searched in one go by a thread: some 0.5 ms."""

UNINDEXED_BYTES_MAX: Final = 512 * 1024 * 1024
"""Of what is not indexed, only the newest is searched: about a second. Clients wait 5 or 6."""

INDEXED_BYTES_MAX: Final = 512 * 1024 * 1024
"""Searched in likely stretches, in vain or not: a key may be in all of them, in another topic."""

WAITING_MAX: Final = 32
"""Searches that wait for another one to end."""

_NEWEST_MAX: Final = 4 * MESSAGES_MAX
"""Kept of the records that are not indexed: more than are wanted, as a put may have been refused or
its topic deleted."""


@frozen(kw_only=True)
class Found:
    """Records, the newest first."""

    records: tuple[bytes, ...]
    complete: bool
    """Whether older ones were left out at most because of the limits of an answer."""


@define(eq=False, kw_only=True)
class KeySearch:
    """Searches one member's log."""

    index: KeyIndex
    log: Callable[[], Log]
    applied: Callable[[], tuple[int, int]]
    reader: LogReader
    queues: ConsumeQueues
    run_in_thread: Callable[..., Awaitable[Any]]
    _one: trio.Lock = field(factory=trio.Lock, init=False)

    async def find(self, wanted: Wanted, messages_max: int) -> Found:
        """**Raises** TooManyQueries, LogUnreadable; `Reopen` if a body is not what was stored."""
        if self._one.statistics().tasks_waiting >= WAITING_MAX:
            raise TooManyQueries()
        async with self._one:
            return await self._find(wanted, min(messages_max, MESSAGES_MAX))

    async def _find(self, wanted: Wanted, messages_max: int) -> Found:
        # Taken at one moment, so that they fit together whatever is indexed meanwhile.
        files, stretches = self.index.files[:], self.index.stretches[:]
        found = _Gathering(messages_max)
        complete = await self._search_newest(wanted, found)
        budget = INDEXED_BYTES_MAX
        sources: list[list[Stretch] | KeyFile] = [stretches, *reversed(files)]
        for source in sources:
            places = await self._likely(source, wanted)
            if places is None:
                complete = False
                continue
            for first_index, last_index in places:
                if found.full:
                    return Found(records=tuple(found.records), complete=True)
                if budget <= 0:
                    return Found(records=tuple(found.records), complete=False)
                positions, looked_at = await self._search(first_index, last_index, wanted)
                budget -= looked_at
                await self._gather(reversed(positions), found)
        return Found(records=tuple(found.records), complete=complete or found.full)

    async def _search_newest(self, wanted: Wanted, found: "_Gathering") -> bool:
        """Search what is not indexed; whether that was all of it."""
        last_index, end = self.applied()
        first_index = max(self.index.next_index, self.log().first_index)
        complete = True
        if end - self.index.next_position > UNINDEXED_BYTES_MAX:
            near = end - UNINDEXED_BYTES_MAX
            skipped_to = await self._of_log(_entry_at, near, first_index, last_index)
            complete = skipped_to == first_index
            first_index = skipped_to
        positions, _looked_at = await self._search(first_index, last_index, wanted)
        await self._gather(reversed(positions), found)
        return complete

    async def _search(
        self, first_index: int, last_index: int, wanted: Wanted
    ) -> tuple[deque[int], int]:
        """The log positions of the newest records there that fit, and how much was looked at."""
        positions: deque[int] = deque(maxlen=_NEWEST_MAX)
        looked_at = 0
        while first_index <= last_index:
            some, first_index, size = await self._of_log(
                _search_slice, first_index, last_index, wanted
            )
            positions += some
            looked_at += size
        return positions, looked_at

    async def _likely(
        self, source: list[Stretch] | KeyFile, wanted: Wanted
    ) -> list[tuple[int, int]] | None:
        """The stretches of a file, or of those in memory, that are worth searching, the newest
        first; None if the file cannot tell."""
        in_time = (hash_of(wanted.key), wanted.begin_ms, wanted.end_ms)
        if isinstance(source, list):
            return await self._in_thread(likely_of, source, *in_time)
        if not within(source.first_ms, source.last_ms, wanted.begin_ms, wanted.end_ms):
            return []
        try:
            return await self._in_thread(likely, source, *in_time)
        except (DamagedFile, OSError):
            if source not in self.index.files:
                return []  # it went with the entries it was about
            self.index.drop_from(source)
            return None

    async def _gather(self, positions: Iterable[int], found: "_Gathering") -> None:
        for position in positions:
            if found.full:
                return
            record = await record_at(self.reader, self.queues, position, self.run_in_thread)
            if record is not None:
                found.add(record)
            await trio.lowlevel.checkpoint()

    async def _of_log(self, read: Callable[..., T], *arguments: Any) -> T:
        """What a function of the log returns. **Raises** LogUnreadable."""
        try:
            return await self._in_thread(read, self.log(), *arguments)
        except (Corrupt, OSError) as error:
            # Not a reason to stop: a search reads what nobody may ever ask for.
            log.warning("key_search.failed", reason=str(error))
            raise LogUnreadable() from error

    async def _in_thread(self, read: Callable[..., T], *arguments: Any) -> T:
        # A disk that hangs must not keep the process from ending.
        found: T = await self.run_in_thread(read, *arguments, abandon_on_cancel=True)
        return found


@define(eq=False)
class _Gathering:
    """Records, until there are enough."""

    messages_max: int
    records: list[bytes] = field(factory=list)
    full: bool = False
    _bytes: int = 0

    def add(self, record: bytes) -> None:
        self._bytes += len(record)
        if self.records and self._bytes > BYTES_MAX:
            self.full = True
            return
        self.records.append(record)
        self.full = len(self.records) >= self.messages_max


def _search_slice(
    of: Log, first_index: int, last_index: int, wanted: Wanted
) -> tuple[list[int], int, int]:
    """The log positions of the records that fit in the first entries from one on; where to go on;
    how many bytes that were."""
    try:
        entries = [each for each in of.read(first_index, SLICE_BYTES) if each.index <= last_index]
    except LookupError:
        return [], max(first_index + 1, of.first_index), 0  # retention has just taken it
    assert entries, f"applied entry {first_index} is not in the log"
    return matches(entries, wanted), entries[-1].index + 1, sum(len(each.raw) for each in entries)


def _entry_at(of: Log, position: int, first_index: int, last_index: int) -> int:
    """The first entry that begins at a log position or behind it."""
    while first_index < last_index:
        middle = (first_index + last_index) // 2
        try:
            before = of.read(middle, 1)[0].payload_position < position
        except LookupError:
            before = True  # retention has just taken it
        if before:
            first_index = middle + 1
        else:
            last_index = middle
    return first_index
