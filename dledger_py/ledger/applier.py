"""Committed entries, in order, into the machine; what comes out of it, to whoever waits.

In health an entry is applied in the very turn that commits it, from the tail in memory, without a
task switch. When there is much to catch up with (the whole log at a start, or a burst) it is done
in slices with checkpoints between them, and what left the tail is read from the disk in a worker
thread.

Laws:
- Each command is applied exactly once by one incarnation, in the order of the log, and every
  effect is performed before the reply that follows from it is given.
- Either the turn or the task applies, never both: while `_catching_up`, turns only move the target.
- An exception in the machine or in a performer is not survivable: the state may be half changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Never

import trio

from dledger_py.actors import Inbox
from dledger_py.ledger.log_tail import LogTail
from dledger_py.ledger.machine import Applied, Committed, Machine, StatePlace
from dledger_py.runtime.host import Host
from dledger_py.storage import Log
from dledger_py.storage.formats import ENTRY_HEADER_BYTES, KIND_COMMAND

SLICE_S = 0.01
"""Longest time the loop is kept from others. Half of a tick, and a command takes microseconds."""

READ_BYTES = 1 << 20
"""Log read from disk at a time while catching up: some milliseconds of applying."""


class Applier:
    """Actor: drives the machine. `advance` is its door for the turn, `run` its task for
    backlogs."""

    def __init__(
        self,
        machine: Machine,
        log: Log,
        tail: LogTail,
        *,
        perform: Callable[[Committed, Applied], None] | None,
        on_applied: Callable[[int, int, int, Applied | None], None],
        on_slice: Callable[[], None],
        target: int,
        start: StatePlace | None = None,
        host: Host,
    ) -> None:
        """`on_applied(index, term, kind, applied)` follows every entry, with None for those that
        are no command; `on_slice()` follows every slice of the task; `target` is what is known as
        committed; `start` is the place of the state that the machine has already.
        """
        self._machine = machine
        self._log = log
        self._tail = tail
        self._perform = perform
        self._on_applied = on_applied
        self._on_slice = on_slice
        self._monotonic = host.monotonic_s
        self._run_in_thread = host.run_in_thread
        self._target = target
        self._backlog = trio.Event()
        self.replayed = trio.Event()
        self._catching_up = True  # until the task has seen to what was committed before the start
        start = start or StatePlace(index=log.first_index - 1, term=0, position=0)
        self.applied_index = start.index
        self.applied_term = start.term
        self.applied_position = start.position

    @property
    def target(self) -> int:
        """The last entry known to be committed."""
        return self._target

    def advance(self, target: int) -> None:
        """Entries up to `target` are committed: apply them now if that is quick, else soon."""
        self._target = target
        if not self._catching_up and not self._apply_slice():
            self._catching_up = True
            self._backlog.set()

    async def run(self, inbox: Inbox[Never]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._work_off_backlogs)
            inbox.ready()
            await inbox.wait_closed()
            nursery.cancel_scope.cancel()

    async def _work_off_backlogs(self) -> None:
        while True:
            await self._catch_up()
            self._catching_up = False
            self.replayed.set()
            self._backlog = trio.Event()
            await self._backlog.wait()

    async def _catch_up(self) -> None:
        while self.applied_index < self._target:
            if self._tail.get(self.applied_index + 1) is None:
                await self._apply_from_disk()
            else:
                self._apply_slice()
                self._on_slice()
                await trio.lowlevel.checkpoint()

    def _apply_slice(self) -> bool:
        """Apply from the tail. False if time or the tail ran out first."""
        deadline = 0.0
        while self.applied_index < self._target:
            entry = self._tail.get(self.applied_index + 1)
            if entry is None:
                return False
            start = entry.start + ENTRY_HEADER_BYTES
            payload = memoryview(entry.data)[start : entry.end]
            self._apply(entry.index, entry.term, entry.kind, entry.position, payload)
            if self.applied_index == self._target:
                return True
            # The clock is read only when there is more than one entry to apply.
            now = self._monotonic()
            if deadline == 0.0:
                deadline = now + SLICE_S
            elif now > deadline:
                return False
        return True

    async def _apply_from_disk(self) -> None:
        # What was read may end with entries that nobody has committed. While the thread reads, a
        # leader may cut them off, put others in their place and have those committed: so what
        # counts is how far commitment reached before.
        target = self._target
        entries = await self._run_in_thread(
            self._log.read, self.applied_index + 1, READ_BYTES, abandon_on_cancel=True
        )
        assert entries, f"committed entry {self.applied_index + 1} is not written"
        rest = [entry for entry in entries if entry.index <= target]
        deadline = self._monotonic() + SLICE_S
        for entry in rest:
            self._apply(entry.index, entry.term, entry.kind, entry.position, entry.payload)
            if self._monotonic() > deadline:
                self._on_slice()
                await trio.lowlevel.checkpoint()
                deadline = self._monotonic() + SLICE_S
        self._on_slice()

    def _apply(self, index: int, term: int, kind: int, position: int, payload: memoryview) -> None:
        assert index == self.applied_index + 1
        applied: Applied | None = None
        payload_position = position + ENTRY_HEADER_BYTES
        if kind == KIND_COMMAND:
            committed = Committed(
                index=index, term=term, position=payload_position, payload=payload
            )
            applied = self._machine.apply(committed)
            if self._perform is not None and applied.effects:
                self._perform(committed, applied)
        self.applied_index = index
        self.applied_term = term
        self.applied_position = payload_position + len(payload)
        self._on_applied(index, term, kind, applied)
