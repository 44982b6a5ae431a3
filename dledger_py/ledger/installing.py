"""Copying the log of another member, for one that lacks what nobody keeps any more.

Members drop the front of their logs. One that was away for too long, or is new, then lacks entries
that no append can bring: it takes over what a member has instead, its log from where that begins up
to what it knows to be committed, and a state of the machine to go with it.

No Raft runs meanwhile. So there is no moment in which this member leads, votes or acknowledges with
a state but not the messages before it, or with half a log, and nothing has to keep it from being
elected: who says nothing is nobody's candidate. What it promised before, its term and its vote, it
keeps; why its log may be replaced is told in `dledger_py.raft.far_behind`, and asked of the log as
it is when the copy is begun. That does not change until the copy takes its place.

A log with damage cannot be asked. It may be replaced by a copy that ends behind all it ever held:
at each position below that the committed log has an entry. Either that is the one that was here, or
it proves, by being another one, that what was here is not committed and never will be.

The copy survives crashes, and goes on at the byte it has reached, at whichever member still has
what comes next. It is begun anew only when none has.

Elsewhere: the files (storage.incoming, storage.switching), the asking (fetch_client), who finds out
that a member fell behind (raft).
"""

from __future__ import annotations

from enum import Enum, auto

import structlog
import trio
from attrs import define, field

from dledger_py.ledger.config import LedgerConfig
from dledger_py.ledger.fetch_client import Fetch, FetchFailed
from dledger_py.ledger.fetch_frames import LogDescribed
from dledger_py.ledger.others import Others
from dledger_py.raft.far_behind import may_replace
from dledger_py.raft.log_view import LogView
from dledger_py.runtime.host import Host
from dledger_py.storage import (
    BadBatch,
    BadSnapshot,
    FileSystem,
    Identity,
    Incoming,
    SnapshotPlace,
    SnapshotSummary,
    begin_incoming,
    drop_installation,
    open_incoming,
)
from dledger_py.storage.recovery import LOCK_NAME

log = structlog.get_logger()

RETRY_S = 1.0
"""Pause after all the others were asked in vain."""

TELL_S = 5.0
"""How often a copy that waits says so."""


class Outcome(Enum):
    """What asking one member came to."""

    INSTALLED = auto()
    NOT_BEHIND = auto()
    """It has all that this member lacks: appends will do."""
    TOO_LATE = auto()
    """It dropped what the copy lacks next."""
    FAILED = auto()


@define(eq=False, kw_only=True)
class Installing:
    """One copy, into one member's folder. `of` is the log it is to replace, or, if that is damaged,
    the position below which all of it lies."""

    config: LedgerConfig
    identity: Identity
    files: FileSystem
    host: Host
    others: Others
    of: LogView | int
    _incoming: Incoming | None = field(init=False, default=None)
    _reasons: list[str] = field(init=False, factory=list)
    _body_of: tuple[int, int] | None = field(init=False, default=None)
    """Index and crc of the snapshot whose body is being fetched."""

    async def run(self) -> None:
        """Until the folder holds the copy, or nothing needs to be copied any more.

        The folder must be closed. Durability: on disk on return. Cancelled or killed, it goes on
        with the next start. **Raises** OSError, Corrupt, DirectoryInUse.
        """
        directory = self.config.data_dir
        lock = self.files.lock(f"{directory}/{LOCK_NAME}")
        try:
            self._incoming = await self.host.run_in_thread(
                open_incoming,
                self.files,
                directory,
                self.identity,
                self.config.segment_size_bytes,
            )
            await self._ask_all()
        finally:
            if self._incoming is not None:
                self._incoming.close()
            lock.release()

    async def _ask_all(self) -> None:
        told_at = trio.current_time()
        while True:
            self._reasons = []
            outcomes = [Outcome.FAILED]
            for peer in self.others.names:
                outcomes.append(await self._try(peer))
                if outcomes[-1] is Outcome.INSTALLED:
                    self._incoming = None  # it is the log now
                    return
            answered = set(outcomes) - {Outcome.FAILED}
            if answered == {Outcome.NOT_BEHIND}:
                log.info("log.install_dropped", node=self.config.node)
                await self.host.run_in_thread(drop_installation, self.files, self.config.data_dir)
                return
            if answered == {Outcome.TOO_LATE} and self._incoming is not None:
                self._incoming.close()
                self._incoming = None
                continue
            if trio.current_time() - told_at >= TELL_S:
                told_at = trio.current_time()
                log.warning("log.install_delayed", node=self.config.node, reasons=self._reasons)
            await trio.sleep(RETRY_S)

    async def _try(self, peer: str) -> Outcome:
        try:
            async with self.others.fetch_from(peer, self.host) as fetch:
                return await self._copy_from(fetch)
        except (FetchFailed, BadBatch, BadSnapshot) as error:
            self._reasons.append(f"{peer}: {error}")
            return Outcome.FAILED

    async def _copy_from(self, fetch: Fetch) -> Outcome:
        told = await fetch.describe()
        if self._incoming is None:
            if not self._may_replace(told):
                return Outcome.NOT_BEHIND
            if told.snapshot_index < told.start_index:
                raise FetchFailed(f"its snapshot is of {told.snapshot_index}, before its log")
            self._incoming = await self._begin(fetch.peer, told)
        incoming = self._incoming
        if incoming.wanted < told.start_position:
            return Outcome.TOO_LATE
        if told.snapshot_index < incoming.start.index:
            raise FetchFailed(f"its snapshot is of {told.snapshot_index}, before the copy")
        # The snapshot may have been taken since that was read.
        target = max(told.commit_index, told.snapshot_index)
        while incoming.last_index < target:
            raw = await fetch.read_log(incoming.wanted)
            await self.host.run_in_thread(incoming.take, raw)
        if told.snapshot_index:
            await self._copy_snapshot(fetch, incoming, told)
        first, last = incoming.start.index + 1, incoming.last_index
        await self.host.run_in_thread(incoming.finish, told.snapshot_index)
        log.warning(
            "log.installed",
            node=self.config.node,
            first_index=first,
            last_index=last,
            snapshot_index=told.snapshot_index,
            peer=fetch.peer,
        )
        return Outcome.INSTALLED

    def _may_replace(self, told: LogDescribed) -> bool:
        """**Raises** FetchFailed if that may change by waiting."""
        if isinstance(self.of, LogView):
            first, last = told.start_index + 1, told.commit_index
            return may_replace(self.of, first, told.start_term, last)
        if told.commit_position < self.of:
            raise FetchFailed(
                f"it knows {told.commit_position} bytes to be committed, {self.of} were here"
            )
        return True

    async def _begin(self, peer: str, told: LogDescribed) -> Incoming:
        log.warning(
            "log.install_began",
            node=self.config.node,
            peer=peer,
            first_index=told.start_index + 1,
            last_index=told.commit_index,
            size_bytes=told.commit_position - told.start_position,
        )
        return await self.host.run_in_thread(
            begin_incoming,
            self.files,
            self.config.data_dir,
            self.identity,
            told.start,
            (told.configuration_index, told.configuration),
            self.config.segment_size_bytes,
        )

    async def _copy_snapshot(self, fetch: Fetch, incoming: Incoming, told: LogDescribed) -> None:
        which = (told.snapshot_index, told.snapshot_crc)
        if self._body_of not in (None, which):  # of before a crash it may be, and is tried
            await self.host.run_in_thread(incoming.drop_body)
        self._body_of = which
        while (at := await self.host.run_in_thread(incoming.body_bytes)) < told.snapshot_bytes:
            piece = await fetch.read_snapshot(told.snapshot_index, at)
            await self.host.run_in_thread(incoming.take_body, at, piece)
        announced = SnapshotSummary(
            place=SnapshotPlace(
                index=told.snapshot_index,
                term=told.snapshot_term,
                position=told.snapshot_position,
                crc=told.snapshot_entry_crc,
            ),
            body_bytes=told.snapshot_bytes,
            body_crc=told.snapshot_crc,
        )
        await self.host.run_in_thread(incoming.finish_body, announced)
