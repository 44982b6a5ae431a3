"""What a leader does before a planned stop: it hands leadership over.

Started last, hence stopped first: everything else still works meanwhile, so that nobody has to
notice the leader's end. Where a process leads several groups, all are handed over side by side.
"""

from typing import Final, Never

import structlog
import trio
from attrs import define

from dledger_py.actors import Inbox
from dledger_py.ledger.errors import LedgerError
from dledger_py.ledger.ledger import Ledger

log = structlog.get_logger()

FAREWELL_S: Final = 1.5  # for handing leadership over at a stop; without it there is an election


@define(eq=False)
class Farewell:
    """The actor that waits for the stop."""

    ledgers: tuple[Ledger, ...]

    async def run(self, inbox: Inbox[Never]) -> None:
        inbox.ready()
        await inbox.wait_closed()
        with trio.move_on_after(FAREWELL_S):
            async with trio.open_nursery() as nursery:
                for ledger in self.ledgers:
                    nursery.start_soon(_hand_over, ledger)


async def _hand_over(ledger: Ledger) -> None:
    successor = ledger.best_successor()
    if successor is None:
        return
    group = ledger.config.group
    try:
        await ledger.transfer_leadership(successor)
        log.info("broker.handed_over", group=group, successor=successor)
    except LedgerError as error:
        log.info("broker.not_handed_over", group=group, successor=successor, reason=str(error))
