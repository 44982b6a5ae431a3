"""The core's clock: one tick after another, never several at once.

A loop that stalled (a long collection, a stopped machine) owes the core no ticks: made up for in
a row they would look like silence from a leader whose words lie unread in the socket. But whoever
counts on the time that ticks tell (a leader's lease) is told that some is missing, and may look
before it counts on it: what keeps ticks from coming keeps the telling of it, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Never

import structlog
import trio

from dledger_py.actors import Inbox

log = structlog.get_logger()


class Ticker:
    """Actor: calls `tick` every `tick_s` seconds."""

    def __init__(
        self,
        tick_s: float,
        tick: Callable[[], None],
        *,
        stall_s: float,
        stalled: Callable[[], None],
    ) -> None:
        """`stalled` is called before a tick that comes after the next one was due; one that is
        later than `stall_s` is counted and logged, too.
        """
        self._tick_s = tick_s
        self._tick = tick
        self._stall_s = stall_s
        self._stalled = stalled
        self._due = 0.0
        self.stalls = 0

    def look(self) -> None:
        """Call `stalled` if a tick should have come that has not."""
        if trio.current_time() - self._due > self._tick_s:
            self._stalled()

    async def run(self, inbox: Inbox[Never]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tick_for_ever)
            inbox.ready()
            await inbox.wait_closed()
            nursery.cancel_scope.cancel()

    async def _tick_for_ever(self) -> None:
        self._due = trio.current_time()
        while True:
            self._due += self._tick_s
            await trio.sleep_until(self._due)
            late_s = trio.current_time() - self._due
            if late_s > self._stall_s:
                self.stalls += 1
                log.warning("loop.stalled", late_ms=round(late_s * 1000))
            if late_s > self._tick_s:
                self._due += late_s
                self._stalled()
            self._tick()
