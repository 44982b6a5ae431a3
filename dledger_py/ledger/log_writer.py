"""The one place that changes the log's disk: all that is queued, one write, one sync, one report.

Group commit needs no timer: while one group is being synced, the next one gathers. The thread is
our own because handing a call to Trio's pool and back costs more than the sync itself on a quick
disk.

Even the way to our own thread and back costs more than what a quick disk does meanwhile: two
wakings and a dozen hand-overs of the interpreter. So where a group took less than `QUICK_S` in the
mean of late, and nothing is queued, the loop writes a small one by itself. A disk that stalls holds
up the loop once: the longer, the more groups that follow are the thread's, until it is quick again.

Laws:
- The loop or the thread, never both: whoever uses the files holds the lock. The loop never waits
  for it.
- Order: cuts and batches reach the log in the order they were queued; a group's term and vote are
  durable before its entries are written, and both before any of its writes is reported.
- Reports are cumulative: write number n durable means all before it are.
- A failure is final. Nothing is tried again and nothing is written after it: the kernel may have
  dropped the very pages that a second sync would report as safe. The actor raises FailStop.

The loop's side (`submit`, `drop`, `run`) and the thread's side (`_work` and below) share the queue,
the lock and what is guarded by it, and the failure. Elsewhere: what lies where (storage), what must
be durable (raft).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Never, cast

import trio
from attrs import frozen

from dledger_py.actors import FailStop, Inbox
from dledger_py.runtime.host import Host, Work, Worker
from dledger_py.storage import Batch, Cut, HardStateFile, Log

GROUP_LIMIT_BYTES = 8 << 20
"""Largest group: past a few MiB a sync takes longer for each byte, and acknowledgements wait for
it."""

HINT_S = 1.0
"""How old the commit index on disk may get: after a crash, what came later is applied only once a
leader has spoken, and what is copied from the files of a running member ends there. One small write
in a second is not felt."""

LAST_WRITE_S = 2.0
"""How long a ledger that is torn down waits for the write under way. A disk that takes longer is
not waited for: the process must end."""

NEAR_BYTES = 256 << 10
"""Largest group that the loop writes: some 100 µs of copying, as one turn of many messages."""

QUICK_S = 0.002
"""A disk is quick whose groups take less in the mean: longer than this the loop is not to be held
up each time. A group of a quick disk may take longer where others want the processor."""

QUICK_GROUPS = 32
"""The mean is over about so many groups, and nothing is known before there were so many."""

SEAL_IDLE_S = 0.1
"""Silence after which the end of the log is attested, so that later damage cannot pass for a torn
write."""


@frozen
class Write:
    """One `Persist` of the core. `hard` is (term, vote, commit hint) when term or vote changed."""

    number: int
    hard: tuple[int, str | None, int] | None
    cut: Cut | None
    batch: Batch | None


@frozen
class Drop:
    """The log may begin with entry `first_index`, and whole files before it go.

    `configuration` is what `Log.drop_before` wants; `done` is called on the loop with the first
    index there is now."""

    first_index: int
    configuration: tuple[int, bytes]
    done: Callable[[int], None]


@frozen(kw_only=True)
class WriterStatistics:
    """How the disk was used since the start. Writes over groups is what group commit saves."""

    writes: int
    groups: int
    waiting: int
    stalled_ms: int
    longest_group_ms: int
    near: int
    """Groups that the loop wrote by itself."""


class LogWriter:
    """Actor: owns the writer thread and, through it, the log's and the hard state's files."""

    def __init__(
        self,
        log: Log,
        hard_state: HardStateFile,
        *,
        sync: bool,
        async_flush_s: float,
        on_durable: Callable[[int], None],
        commit_hint: Callable[[], int],
        host: Host,
        near: bool,
    ) -> None:
        """`on_durable(number)` is called on the loop, also from within `submit`; `commit_hint()` in
        the thread. `near` is whether the loop may write at all: not where several logs share it.
        """
        self._log = log
        self._hard_state = hard_state
        self._sync = sync
        self._async_flush_s = async_flush_s
        self._on_durable = on_durable
        self._commit_hint = commit_hint
        self._monotonic = host.monotonic_s
        self._thread: Worker[Job] = host.worker("log writer")
        self._waiting: deque[tuple[int, float]] = deque()
        self._failure: BaseException | None = None
        self._ended = trio.Event()
        self._started = False
        self._groups = 0
        self._writes = 0
        self._longest_group_s = 0.0
        self._mean_s = 0.0
        # Guarded by the lock, as the files are: how many groups the loop wrote, and whether the
        # thread knows that it has to look after them.
        self._lock = threading.Lock()
        self._near = near
        self._near_groups = 0
        self._noticed = False
        self._disk_is_quick = host.disk_is_quick

    # ---- the loop's side

    def submit(self, writes: list[Write]) -> None:
        """Queue writes, or do them at once where that is quick; the core bounds how much can be
        waiting."""
        if self._is_near(writes) and self._lock.acquire(blocking=False):
            try:
                self._write_near(writes)
            finally:
                self._lock.release()
            if self._failure is None:
                self._on_durable(writes[-1].number)
            return
        self._waiting.append((writes[-1].number, self._monotonic()))
        self._thread.put(writes)

    def drop(self, drop: Drop) -> None:
        """Queue the removal of old files. Never blocks."""
        self._thread.put([drop])

    def _is_near(self, writes: list[Write]) -> bool:
        """Whether these are but a few bytes for the file that is open, on a quick disk."""
        known = self._groups >= QUICK_GROUPS
        if self._waiting or not known or self._mean_s >= QUICK_S or not self._near:
            return False
        last: Batch | None = None
        for write in writes:
            if write.hard is not None or write.cut is not None:
                return False
            last = write.batch or last
        return (
            last is not None
            and self._failure is None
            and _size(writes) <= NEAR_BYTES
            and self._log.fits(last)
            and self._disk_is_quick()
        )

    def _write_near(self, writes: list[Write]) -> None:
        try:
            self._perform(writes)
        except Exception as error:
            self._failure = error
            self._thread.put(_END)
            return
        self._near_groups += 1
        if not self._noticed:
            self._noticed = True
            self._thread.put(_LOOK)

    @property
    def ended(self) -> bool:
        """The thread uses the files no more, or never did."""
        return not self._started or self._ended.is_set()

    def statistics(self) -> WriterStatistics:
        stalled_s = self._monotonic() - self._waiting[0][1] if self._waiting else 0.0
        return WriterStatistics(
            writes=self._writes,
            groups=self._groups,
            waiting=len(self._waiting),
            stalled_ms=round(stalled_s * 1000),
            longest_group_ms=round(self._longest_group_s * 1000),
            near=self._near_groups,
        )

    async def run(self, inbox: Inbox[Never]) -> None:
        """Let the thread work until a stop is asked for; it finishes what is queued.

        **Raises** FailStop when the disk failed.
        """
        self._started = True
        self._thread.start(self._work())
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._end_when_closed, inbox)
                inbox.ready()
                await self._ended.wait()
                nursery.cancel_scope.cancel()
        finally:
            self._thread.put(_END)
            with trio.move_on_after(LAST_WRITE_S, shield=True):
                await self._ended.wait()
        if self._failure is not None:
            raise FailStop(_story(self._failure)) from self._failure

    async def _end_when_closed(self, inbox: Inbox[Never]) -> None:
        await inbox.wait_closed()
        self._thread.put(_END)

    def _report(self, number: int) -> None:
        waiting = self._waiting
        while waiting and waiting[0][0] <= number:
            waiting.popleft()
        self._on_durable(number)

    # ---- the thread's side

    def _work(self) -> Work[Job]:
        try:
            yield from self._serve()
        except BaseException as error:
            self._failure = self._failure or error
        with suppress(trio.RunFinishedError):  # then nobody is left to tell
            self._thread.call_soon(self._ended.set)

    def _serve(self) -> Work[Job]:
        idle = True
        near_groups = 0
        dirty_since: float | None = None
        monotonic = self._monotonic
        hinted_at = monotonic()
        while True:
            if monotonic() - hinted_at >= HINT_S:
                with self._lock:
                    self._save_hint()
                hinted_at = monotonic()
            if dirty_since is not None and monotonic() - dirty_since >= self._async_flush_s:
                with self._lock:
                    self._log.write([], sync=True)
                dirty_since = None
            first = yield self._patience_s() if idle else SEAL_IDLE_S
            if first is _END:
                self._close()
                return
            if first is None and self._seal(near_groups):
                idle, dirty_since = True, None
                continue
            idle = False
            near_groups = self._near_groups
            if not self._sync and dirty_since is None:
                dirty_since = monotonic()
            if first and not self._write_group(first):
                self._close()
                return

    def _seal(self, near_groups: int) -> bool:
        """There was silence. False if it has just ended."""
        with self._lock:
            if self._near_groups != near_groups:
                return False
            self._log.seal_idle()
            self._noticed = False
            return True

    def _write_group(self, jobs: Job) -> bool:
        """Do these and all that queued up behind them. False if the end was among it."""
        began = self._monotonic()
        go_on = True
        writes, drops = _sorted(jobs)
        size = _size(writes)
        while size < GROUP_LIMIT_BYTES:
            following = self._thread.take_nowait()
            if following is None:
                break
            if following is _END:
                go_on = False
                break
            more, more_drops = _sorted(following)
            writes += more
            drops += more_drops
            size += _size(more)
        try:
            for drop in drops:
                with self._lock:
                    first_index = self._log.drop_before(drop.first_index, drop.configuration)
                self._thread.call_soon(drop.done, first_index)
        except trio.RunFinishedError:
            return False
        return self._write_all(writes, began) and go_on

    def _write_all(self, writes: list[Write], began: float) -> bool:
        """One group. False if there is nobody to tell any more."""
        if not writes:
            return True
        with self._lock:
            self._perform(writes)
        self._longest_group_s = max(self._longest_group_s, self._monotonic() - began)
        try:
            self._thread.call_soon(self._report, writes[-1].number)
        except trio.RunFinishedError:
            return False
        return True

    def _perform(self, writes: list[Write]) -> None:
        began = self._monotonic()
        hard = next((write.hard for write in reversed(writes) if write.hard is not None), None)
        if hard is not None:
            # The last word on term and vote may precede the entries of earlier writes: nothing
            # was promised on either yet, and a term that is too new does no harm.
            term, vote, commit = hard
            self._hard_state.save(term, vote, min(commit, self._log.durable_index))
        batches: list[Batch] = []
        cut: Cut | None = None
        dirty = False
        for write in writes:
            if write.cut is not None:
                if dirty:  # one sync for the group: what comes first is made durable by the last
                    self._log.write(batches, cut, sync=False)
                batches, cut, dirty = [], write.cut, True
            if write.batch is not None:
                batches.append(write.batch)
                dirty = True
        if dirty:
            self._log.write(batches, cut, sync=self._sync)
        self._writes += len(writes)
        self._groups += 1
        took_s = self._monotonic() - began
        self._mean_s += (took_s - self._mean_s) / min(self._groups, QUICK_GROUPS)

    def _patience_s(self) -> float | None:
        """How long to wait for work when there is none: until the commit index that was written
        down has caught up, there is something to come back for."""
        behind = self._hard_state.load().commit < self._log.durable_index
        return HINT_S if behind else None

    def _close(self) -> None:
        with self._lock:
            self._log.seal_idle()
            self._save_hint()

    def _save_hint(self) -> None:
        """How far the log is committed: what the next start may apply before it has met anybody."""
        state = self._hard_state.load()
        commit = min(self._commit_hint(), self._log.durable_index)
        if commit > state.commit:
            self._hard_state.save(state.term, state.vote, commit)


Job = list[Write] | list[Drop]

_END: Job = []
"""The word that nothing more will be submitted; known by its identity."""

_LOOK: Job = []
"""The word that the loop has begun to write: the thread seals, hints and flushes behind it."""


def _sorted(jobs: Job) -> tuple[list[Write], list[Drop]]:
    """Nearly always these are writes."""
    drops = [job for job in jobs if type(job) is Drop]
    return [job for job in jobs if type(job) is Write] if drops else cast(list[Write], jobs), drops


def _size(writes: list[Write]) -> int:
    return sum([len(write.batch.data) for write in writes if write.batch is not None])


def _story(error: BaseException) -> str:
    """One line for an operator: what failed, on which file, with which errno."""
    if isinstance(error, OSError):
        file = error.filename or "the log"
        return f"writing {file} failed: {error.strerror} (errno {error.errno})"
    return f"writing the log failed: {error!r}"
