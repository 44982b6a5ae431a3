"""One request that waits for its answer, in the event loop's own terms; and the loop's clock.

AnyIO's event and clock find out each time which loop runs.  That is right for what happens now and
then; for every message it costs a third of a send.  So a connection asks once, here.
"""

import sys
from collections.abc import Awaitable, Callable
from typing import Protocol

from dledger_py.remoting.wire.frame import Frame


class Call(Protocol):
    """Made and awaited in one go by one task; answered or failed by another one, later."""

    asked_at: float
    due: float

    def __init__(self, asked_at: float, due: float) -> None: ...

    def wait(self) -> Awaitable[Frame]:
        """To be awaited at once, for the answer; **raises** what the call failed with."""

    def answer(self, frame: Frame) -> None:
        """Wake the task that waits; nothing, if it was cancelled or is awake already."""

    def fail(self, error: Exception) -> None:
        """As `answer`, with an exception."""


def of_this_loop() -> tuple[type[Call], Callable[[], float]]:
    """The kind of call for the loop that runs now, and its clock: that of `anyio.current_time`."""
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_run():
        from dledger_py.client import calls_trio

        return calls_trio.Call, calls_trio.clock()
    from dledger_py.client import calls_asyncio

    return calls_asyncio.Call, calls_asyncio.clock()
