"""Where clients write down what they see: one list, one clock, in the order of seeing."""

import time
from collections.abc import Callable

import trio
from attrs import define, field

from chaos.checkers.history import Acknowledged, Event, History, Received


def now_ns() -> int:
    """The clock of a history."""
    return time.monotonic_ns()


@define(eq=False)
class Recorder:
    """Collects events; a scenario waits for conditions on them."""

    acknowledged: set[str] = field(factory=set)
    received: set[str] = field(factory=set)
    _events: list[Event] = field(factory=list)
    _added: trio.Event = field(factory=trio.Event)

    def add(self, event: Event) -> None:
        self._events.append(event)
        if isinstance(event, Acknowledged):
            self.acknowledged.add(event.value)
        elif isinstance(event, Received):
            self.received.add(event.value)
        self._added.set()
        self._added = trio.Event()

    async def wait_until(self, holds: Callable[[], bool]) -> None:
        """Until `holds`, which is looked at after each event."""
        while not holds():
            await self._added.wait()

    def history(self) -> History:
        """All that was seen so far."""
        return History(tuple(self._events))
