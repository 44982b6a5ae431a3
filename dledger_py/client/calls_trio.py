"""Calls under Trio: see `calls`.  The one place of the client that knows Trio."""

from collections.abc import Awaitable, Callable
from typing import Any

import outcome
import trio
from trio.lowlevel import current_task, reschedule, wait_task_rescheduled

from dledger_py.remoting.wire.frame import Frame


def clock() -> Callable[[], float]:
    """The clock of this run: a real one, or a test's."""
    return trio.lowlevel.current_clock().current_time


class Call:
    """See `calls.Call`."""

    __slots__ = ("_task", "asked_at", "due")

    def __init__(self, asked_at: float, due: float) -> None:
        self.asked_at = asked_at
        self.due = due
        self._task: trio.lowlevel.Task | None = None

    def wait(self) -> Awaitable[Frame]:
        self._task = current_task()
        return wait_task_rescheduled(self._abort)  # noqa: ASYNC105 - by the caller

    def answer(self, frame: Frame) -> None:
        self._wake(outcome.Value(frame))

    def fail(self, error: Exception) -> None:
        self._wake(outcome.Error(error))

    def _wake(self, result: outcome.Outcome[Any]) -> None:
        task = self._task
        if task is not None:
            self._task = None
            reschedule(task, result)

    def _abort(self, raise_cancel: Callable[[], Any]) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED
