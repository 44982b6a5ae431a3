"""Getting back, from the other members, what rotted in this one's log.

Done before anything else of the ledger runs: no Raft, so this member neither votes nor leads nor
acknowledges while its log has a hole. It promised things about these entries; with less of them it
must not speak. So it also waits as long as it takes, and never shortens the log.

Only committed bytes are asked for, of any member. One that does not have them committed may have
them soon: as long as a majority of the others runs, they elect a leader, who commits what this
member is missing, or something later that proves that it was never committed.

Mending needs bytes that continue the good ones here and are continued by them. Where these were
never committed themselves, and others have committed something else in their place, there are
none: then, as where all others have dropped what is missing, the whole log is replaced by a copy
of theirs.

Elsewhere: what is good and when a file is whole (storage.repair), the copy (installing), the asking
(fetch_client).
"""

from __future__ import annotations

import structlog
import trio
from attrs import define, field

from dledger_py.ledger.config import LedgerConfig
from dledger_py.ledger.fetch_client import FetchFailed
from dledger_py.ledger.others import Others
from dledger_py.runtime.host import Host
from dledger_py.storage import (
    BadBatch,
    Contradicted,
    Corrupt,
    FileSystem,
    Identity,
    Mending,
    Repair,
    open_repair,
)

log = structlog.get_logger()


class NeedsCopy(Exception):
    """No other member has what would mend this log: they dropped it, or have committed other
    entries in its place. Kind: refused; nothing was changed."""

    def __init__(self, others: Others, end_position: int) -> None:
        self.others = others
        self.end_position = end_position
        super().__init__(f"nobody has, or keeps, what would mend the log below {end_position}")


class _Dropped(FetchFailed):
    """This member has dropped it."""


RETRY_S = 1.0
"""Pause after all the others were asked in vain: an election takes about as long."""

TELL_S = 5.0
"""How often a repair that waits says so."""


@define(eq=False, kw_only=True)
class Repairing:
    """The repair of one member's folder."""

    config: LedgerConfig
    identity: Identity
    files: FileSystem
    host: Host
    _others: Others = field(init=False)

    async def run(self, error: Corrupt) -> None:
        """Mend what made recovery raise `error`, however long that takes.

        Durability: what was mended is on disk. Cancelled or killed, it is begun again by the next
        start. **Raises** Corrupt if others cannot help: `error` itself, or the damage they have no
        copy of; NeedsCopy; OSError.
        """
        repair = await self.host.run_in_thread(
            open_repair, self.files, self.config.data_dir, self.identity
        )
        try:
            self._others = Others.of(self.config, repair.birth, repair.configuration)
            if not repair.mendings or not self._others.names:
                raise error
            await self._mend(repair)
        finally:
            repair.close()

    async def _mend(self, repair: Repair) -> None:
        for mending in repair.mendings:
            file, offset = mending.place
            log.warning("log.damaged", node=self.config.node, file=file, offset=offset)
        for mending in repair.mendings:
            await self.host.run_in_thread(mending.begin)
            sources = await self._fetch(mending, repair.end_position)
            await self.host.run_in_thread(mending.finish)
            file, offset = mending.place
            log.warning(
                "log.repaired",
                node=self.config.node,
                file=file,
                offset=offset,
                entries=mending.fetched,
                peers=sources,
            )

    async def _fetch(self, mending: Mending, end_position: int) -> list[str]:
        """Have it complete; the members that gave something."""
        sources: dict[str, None] = {}
        told_at = trio.current_time()
        if mending.complete:
            return []
        while True:
            reasons: list[str] = []
            hopeless = 0
            for peer in self._others.names:
                failure = await self._try(peer, mending, sources)
                if failure is None:
                    return list(sources)
                if isinstance(failure, Contradicted):  # by what is committed, so by everybody's
                    raise NeedsCopy(self._others, end_position)
                reasons.append(f"{peer}: {failure}")
                # Bytes that do not continue ours may have rotted there, but not on every member.
                hopeless += isinstance(failure, _Dropped | BadBatch)
            if hopeless == len(reasons):
                raise NeedsCopy(self._others, end_position)
            if trio.current_time() - told_at >= TELL_S:
                told_at = trio.current_time()
                file, offset = mending.place
                log.warning(
                    "log.repair_delayed",
                    node=self.config.node,
                    file=file,
                    offset=offset,
                    wanted_position=mending.wanted,
                    reasons=reasons,
                )
            await trio.sleep(RETRY_S)

    async def _try(
        self, peer: str, mending: Mending, sources: dict[str, None]
    ) -> FetchFailed | BadBatch | Contradicted | None:
        """Fetch from this member what it has; why that was not all."""
        try:
            await self._fetch_from(peer, mending, sources)
        except (FetchFailed, BadBatch, Contradicted) as error:
            return error
        return None

    async def _fetch_from(self, peer: str, mending: Mending, sources: dict[str, None]) -> None:
        async with self._others.fetch_from(peer, self.host) as fetch:
            told = await fetch.describe()
            if mending.wanted < told.start_position:
                raise _Dropped(f"it keeps nothing before {told.start_position}")
            while not mending.complete:
                raw = await fetch.read_log(mending.wanted)
                await self.host.run_in_thread(mending.take, raw)
                sources[peer] = None
