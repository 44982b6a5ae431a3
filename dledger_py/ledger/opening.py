"""From a data folder to what a ledger runs on: recovered, and repaired first where that is needed.

Elsewhere: what recovery accepts (storage), how damage is mended (repairing).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import structlog
from attrs import define

from dledger_py.actors import FailStop
from dledger_py.ledger.config import LedgerConfig
from dledger_py.ledger.repairing import Repairing
from dledger_py.runtime.host import Host
from dledger_py.storage import (
    Corrupt,
    DirectoryInUse,
    FileSystem,
    Identity,
    Recovered,
    WrongIdentity,
    recover,
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
            random_bits=self.host.random.getrandbits,
        )
        try:
            return await self.host.run_in_thread(recovering)
        except Corrupt as error:
            damage = error
        self.on_delay()
        repairing = Repairing(config=config, identity=identity, files=self.files, host=self.host)
        await repairing.run(damage)
        return await self.host.run_in_thread(recovering)
