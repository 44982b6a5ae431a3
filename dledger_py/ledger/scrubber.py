"""Reads the whole log again and again, slowly, to find rot while other members still have the
bytes: an old entry may not be read by anybody else for weeks, and by then two copies may be bad.

Where there is damage, the member gives way, if it leads, and asks to be opened again: opening
fetches what is missing. A member that is alone goes on as it is: nobody could give it back, and
what is not damaged is still of use.

Elsewhere: verifying (`Log.scrub`), mending (repairing).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Never

import structlog
import trio
from attrs import define

from dledger_py.actors import Inbox
from dledger_py.ledger.reopening import Reopen
from dledger_py.runtime.host import Host
from dledger_py.storage import Corrupt, Log
from dledger_py.storage.log import Scrubbed

log = structlog.get_logger()

SLICE_BYTES = 256 << 10
"""Verified at a time: less than a millisecond of a thread."""

PASS_S = 3600.0
"""Shortest time from one pass to the next: a small log need not be read all day."""


@define(eq=False, kw_only=True)
class Scrubber:
    """Actor."""

    of: Log
    bytes_per_s: int
    alone: Callable[[], bool]
    give_way: Callable[[], Awaitable[None]]
    """Let another member lead, if that is possible soon."""
    host: Host

    async def run(self, inbox: Inbox[Never]) -> None:
        """**Raises** Reopen."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._scrub)
            inbox.ready()
            await inbox.wait_closed()
            nursery.cancel_scope.cancel()

    async def _scrub(self) -> None:
        while True:
            began = trio.current_time()
            position, at_end = 0, False
            while not at_end:
                await trio.sleep(SLICE_BYTES / self.bytes_per_s)
                found = await self._look(position)
                if isinstance(found, Exception):
                    if self.alone():
                        log.error("log.rotted", reason=str(found))
                        return
                    await self.give_way()
                    raise Reopen(f"the log is damaged: {found}") from found
                position, at_end = found.stop_position, found.at_end
            await trio.sleep_until(began + PASS_S)

    async def _look(self, position: int) -> Scrubbed | Corrupt | OSError:
        try:
            return await self.host.run_in_thread(
                self.of.scrub, position, SLICE_BYTES, abandon_on_cancel=True
            )
        except (Corrupt, OSError) as error:
            return error
