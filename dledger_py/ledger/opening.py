"""From a data folder to what a ledger runs on: recovered, and before that repaired, or replaced by
a copy, where that is needed.

Elsewhere: what recovery accepts (storage), how damage is mended (repairing), how a member that fell
behind gets a copy (installing).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import structlog
from attrs import define

from dledger_py.actors import FailStop
from dledger_py.ledger.config import LedgerConfig
from dledger_py.ledger.installing import Installing
from dledger_py.ledger.others import Others
from dledger_py.ledger.repairing import NeedsCopy, Repairing
from dledger_py.raft.log_view import LogView
from dledger_py.runtime.host import Host
from dledger_py.storage import (
    Corrupt,
    DirectoryInUse,
    FileSystem,
    Identity,
    Recovered,
    WrongIdentity,
    installation_wanted,
    recover,
    want_installation,
)

log = structlog.get_logger()


@define(eq=False, kw_only=True)
class Opening:
    """How one member's folder is opened."""

    config: LedgerConfig
    files: FileSystem
    host: Host
    on_delay: Callable[[], None]
    """Called when others have to be asked: that may take long."""

    async def open(self) -> Recovered:
        """The folder, locked and whole.

        Takes as long as the other members need to give back what rotted here. Cancelled, it
        leaves a folder that the next start opens. **Raises** FailStop.
        """
        node = self.config.node
        try:
            recovered = await self._recover()
        except (Corrupt, WrongIdentity, DirectoryInUse, OSError) as error:
            raise FailStop(f"the data folder of {node} cannot be opened: {error}") from error
        if recovered.cut is not None:
            log.warning("log.torn_tail_cut", report=recovered.cut)
        log.info(
            "log.opened",
            node=node,
            last_index=recovered.log.last_index,
            end_position=recovered.log.end_position,
            term=recovered.hard_state.term,
            commit=recovered.hard_state.commit,
            checked_bytes=recovered.checked_bytes,
            created=recovered.created,
        )
        return recovered

    async def _recover(self) -> Recovered:
        config = self.config
        identity = Identity(cluster=config.cluster, group=config.group, member=config.node)
        recovering = partial(
            recover,
            self.files,
            config.data_dir,
            identity,
            config.segment_size_bytes,
            check_all=not config.scrub_max_bytes_per_s,
            random_bits=self.host.random.getrandbits,
        )
        try:
            recovered = await self._recover_whole(recovering, identity)
        except NeedsCopy as needed:
            await self.host.run_in_thread(want_installation, self.files, config.data_dir)
            await self._installing(identity, needed.others, needed.end_position).run()
            return await self.host.run_in_thread(recovering)
        if await self.host.run_in_thread(installation_wanted, self.files, config.data_dir):
            await self._install(recovered, identity)
            recovered = await self.host.run_in_thread(recovering)
        return recovered

    async def _recover_whole(
        self, recovering: Callable[[], Recovered], identity: Identity
    ) -> Recovered:
        try:
            return await self.host.run_in_thread(recovering)
        except Corrupt as error:
            damage = error
        self.on_delay()
        repairing = Repairing(
            config=self.config, identity=identity, files=self.files, host=self.host
        )
        await repairing.run(damage)
        return await self.host.run_in_thread(recovering)

    async def _install(self, recovered: Recovered, identity: Identity) -> None:
        of = recovered.log
        view = LogView(
            first_index=of.first_index,
            last_index=of.last_index,
            terms=of.terms,
            previous_term=of.start.term,
        )
        newest = recovered.configurations[-1][1] if recovered.configurations else None
        others = Others.of(self.config, recovered.birth.number, newest)
        await self.host.run_in_thread(recovered.close)
        self.on_delay()
        await self._installing(identity, others, view).run()

    def _installing(self, identity: Identity, others: Others, of: LogView | int) -> Installing:
        return Installing(
            config=self.config,
            identity=identity,
            files=self.files,
            host=self.host,
            others=others,
            of=of,
        )
