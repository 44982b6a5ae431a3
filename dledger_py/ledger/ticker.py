"""The core's clock: one tick after another, never several at once.

A loop that stalled (a long collection, a stopped machine) owes the core no ticks: made up for in
a row they would look like silence from a leader whose words lie unread in the socket.
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

    def __init__(self, tick_s: float, tick: Callable[[], None], *, stall_s: float) -> None:
        """A tick that is later than `stall_s` is counted and told."""
        self._tick_s = tick_s
        self._tick = tick
        self._stall_s = stall_s
        self.stalls = 0

    async def run(self, inbox: Inbox[Never]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tick_for_ever)
            inbox.ready()
            await inbox.wait_closed()
            nursery.cancel_scope.cancel()

    async def _tick_for_ever(self) -> None:
        due = trio.current_time()
        while True:
            due += self._tick_s
            await trio.sleep_until(due)
            late_s = trio.current_time() - due
            if late_s > self._stall_s:
                self.stalls += 1
                log.warning("loop.stalled", late_ms=round(late_s * 1000))
            if late_s > self._tick_s:
                due += late_s
            self._tick()
