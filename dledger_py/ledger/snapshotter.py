"""States written down from time to time, so that a start applies the end of the log only.

Laws:
- A snapshot is taken between two applied entries, of what is committed and on this disk. It is
  written by a worker thread while the member goes on.
- It names the last entry it stands for, with that entry's CRC. At a start the log must have exactly
  this entry: a log that ends before it has lost what was committed, and the member must not start.
- A failed write is FailStop, like any other.

- The front of the log is dropped only behind a snapshot that was taken after the machine was told:
  no start has to apply what is gone, or finds it in the state that it restores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Never

import structlog
import trio
from attrs import frozen

from dledger_py.actors import FailStop, Inbox
from dledger_py.ledger.applier import Applier
from dledger_py.ledger.config import LedgerConfig
from dledger_py.ledger.log_commands import commands_between
from dledger_py.ledger.machine import (
    Machine,
    RememberingMachine,
    Snapshot,
    StatePlace,
)
from dledger_py.ledger.reopening import Reopen
from dledger_py.runtime.host import Host
from dledger_py.storage import (
    Corrupt,
    FileSystem,
    Identity,
    Log,
    SnapshotPlace,
    Snapshots,
    StoredEntry,
    StoredSnapshot,
    WrongIdentity,
    open_snapshots,
)
from dledger_py.storage.formats import entry_crc

log = structlog.get_logger()

FOLDER = "snapshots"
LOOK_S = 0.2
"""How often the log's growth is looked at, and whether it is on the disk."""


@frozen(kw_only=True)
class Memory:
    """A machine that remembers, its snapshots, and where the one it was restored from stands."""

    machine: RememberingMachine
    snapshots: Snapshots
    start: StatePlace | None


async def remember(
    config: LedgerConfig, files: FileSystem, machine: Machine, of: Log, host: Host
) -> Memory | None:
    """Give the machine the newest state that was written down, if it can take it.

    **Raises** FailStop if a snapshot is damaged, or does not fit the log.
    """
    if not isinstance(machine, RememberingMachine):
        return None
    identity = Identity(cluster=config.cluster, group=config.group, member=config.node)
    try:
        snapshots, stored = await host.run_in_thread(
            open_folder, files, config.data_dir, identity, of
        )
    except (Corrupt, WrongIdentity, OSError) as error:
        raise FailStop(f"the snapshots of {config.node} cannot be used: {error}") from error
    start = None
    _check_reach(config, of, stored)
    if stored is not None and await _become(machine, stored, of, host):
        place = stored.place
        start = StatePlace(index=place.index, term=place.term, position=place.position)
        log.info("snapshot.restored", index=start.index, size_bytes=len(stored.body))
    return Memory(machine=machine, snapshots=snapshots, start=start)


def _check_reach(config: LedgerConfig, of: Log, stored: StoredSnapshot | None) -> None:
    """**Raises** FailStop if there are entries missing between the snapshot and the log."""
    reached = stored.place.index if stored is not None else 0
    if reached < of.first_index - 1:
        raise FailStop(
            f"the log of {config.node} begins with entry {of.first_index}, but its newest snapshot"
            f" is of entry {reached}: put the folder {FOLDER} back, or have the member replaced"
            f" (dledger admin replaceMember -m {config.node})"
        )


async def _become(machine: RememberingMachine, stored: StoredSnapshot, of: Log, host: Host) -> bool:
    """False if the whole log has to be applied instead, which is there."""
    if machine.restore(stored.body):
        return True
    if of.first_index == 1:
        return False
    log.warning("snapshot.rebuilding", index=stored.place.index, first_index=of.first_index)
    commands = partial(commands_between, of, of.first_index, stored.place.index)
    await host.run_in_thread(machine.rebuild, stored.body, commands)
    return True


def open_folder(
    files: FileSystem, data_dir: str, identity: Identity, of: Log
) -> tuple[Snapshots, StoredSnapshot | None]:
    """The member's snapshots and the newest of them, checked against the log. Blocks.

    Raises: Corrupt, WrongIdentity, OSError; Reopen for rot in the log: the next opening mends it.
    """
    snapshots = open_snapshots(files, f"{data_dir}/{FOLDER}", identity)
    if not snapshots.newest_index:
        return snapshots, None
    stored = snapshots.read(snapshots.newest_index)
    place = stored.place
    if place.index > of.last_index:
        raise Corrupt(
            data_dir,
            of.end_position,
            f"the log ends with entry {of.last_index}, but the state of entry {place.index} was"
            " written down: committed entries are missing",
        )
    if place.index < of.start.index:
        return snapshots, stored  # it does not reach; `remember` says what follows
    if place.index == of.start.index:
        found = (of.start.term, of.start.crc)
    else:
        try:
            (entry,) = of.read(place.index, 1)
        except Corrupt as error:
            raise Reopen(f"the entry that the newest snapshot stands behind: {error}") from error
        found = (entry.term, entry_crc(entry.raw))
    if found != (place.term, place.crc):
        raise Corrupt(
            data_dir,
            place.position,
            f"entry {place.index} is not the one that the snapshot of it was taken behind",
        )
    return snapshots, stored


@frozen
class _Trim:
    """Up to `index` nothing is needed; the machine was told so by entry `told_at`."""

    index: int
    told_at: int


class Snapshotter:
    """Actor: takes a snapshot once the log has grown enough, before its front is dropped, and at a
    stop."""

    def __init__(
        self,
        memory: Memory,
        applier: Applier,
        of: Log,
        *,
        every_bytes: int,
        drop_before: Callable[[int], None],
        host: Host,
    ) -> None:
        self._drop_before = drop_before
        self._trim: _Trim | None = None
        self._snapshots = memory.snapshots
        self._machine = memory.machine
        self._applier = applier
        self._log = of
        self._every_bytes = every_bytes
        self._run_in_thread = host.run_in_thread
        self._last_position = applier.applied_position

    def trim(self, index: int) -> None:
        """Drop the entries up to `index` once there is a snapshot of what is being applied now."""
        before = self._trim.index if self._trim is not None else 0
        self._trim = _Trim(max(index, before), self._applier.applied_index + 1)

    async def run(self, inbox: Inbox[Never]) -> None:
        """**Raises** FailStop."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._take_from_time_to_time)
            inbox.ready()
            await inbox.wait_closed()
            nursery.cancel_scope.cancel()
        if self._applier.applied_position > self._last_position:
            await self._take()

    async def _take_from_time_to_time(self) -> None:
        while True:
            await trio.sleep(LOOK_S)
            grown_bytes = self._applier.applied_position - self._last_position
            trim = self._trim
            due = trim is not None and self._applier.applied_index >= trim.told_at
            if due or grown_bytes >= self._every_bytes:
                with trio.CancelScope(shield=True):  # a stop waits for it, it takes moments
                    await self._take()
            if due and trim is not None and self._snapshots.newest_index >= trim.told_at:
                self._drop_before(trim.index + 1)
                if self._trim is trim:
                    self._trim = None

    async def _take(self) -> None:
        applier = self._applier
        place = StatePlace(
            index=applier.applied_index,
            term=applier.applied_term,
            position=applier.applied_position,
        )
        if place.index <= self._snapshots.newest_index:
            return  # the log is being applied again, up to where it was written down before
        snapshot = self._machine.capture(place)
        try:
            while snapshot.prepare():
                await trio.lowlevel.checkpoint()
            # Asynchronous flush lags behind, in a thread that tells the loop of no sync of its own.
            while self._log.durable_index < place.index:  # noqa: ASYNC110
                await trio.sleep(LOOK_S)
            size = await self._run_in_thread(self._write, place, snapshot)
        except OSError as error:
            raise FailStop(f"the snapshot at {place.index} cannot be written: {error}") from error
        finally:
            snapshot.end()
        self._last_position = place.position
        log.info("snapshot.taken", index=place.index, term=place.term, size_bytes=size)

    def _write(self, place: StatePlace, snapshot: Snapshot) -> int:
        entry: StoredEntry
        (entry,) = self._log.read(place.index, 1)
        size = 0

        def counted() -> Iterator[bytes]:
            nonlocal size
            for chunk in snapshot.chunks():
                size += len(chunk)
                yield chunk

        snapshot.sync()
        self._snapshots.write(
            SnapshotPlace(
                index=place.index,
                term=place.term,
                position=place.position,
                crc=entry_crc(entry.raw),
            ),
            counted(),
        )
        snapshot.release()
        return size
