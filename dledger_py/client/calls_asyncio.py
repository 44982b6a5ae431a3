"""Calls under asyncio: see `calls`."""

import asyncio
from collections.abc import Awaitable, Callable

from dledger_py.remoting.wire.frame import Frame


def clock() -> Callable[[], float]:
    """The clock of the running loop."""
    return asyncio.get_running_loop().time


class Call:
    """See `calls.Call`."""

    __slots__ = ("_future", "asked_at", "due")

    def __init__(self, asked_at: float, due: float) -> None:
        self.asked_at = asked_at
        self.due = due
        self._future: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()

    def wait(self) -> Awaitable[Frame]:
        return self._future

    def answer(self, frame: Frame) -> None:
        if not self._future.done():  # else the task was cancelled, and has not run since
            self._future.set_result(frame)

    def fail(self, error: Exception) -> None:
        if not self._future.done():
            self._future.set_exception(error)
