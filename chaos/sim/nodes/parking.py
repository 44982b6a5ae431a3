"""Where tasks wait for something simulated, and are found when their process dies."""

from __future__ import annotations

import outcome
import trio
from attrs import define, field

from dledger_py.storage.lying import PowerCut

ANYTHING = -1
"""Woken by whatever happens."""


@define(eq=False)
class Parked:
    """Every waiting task of one process, so that all can be ended at once."""

    _tasks: dict[trio.lowlevel.Task, tuple[Parking, int]] = field(factory=dict)

    def add(self, task: trio.lowlevel.Task, where: Parking) -> None:
        self._tasks[task] = (where, 0)

    def remove(self, task: trio.lowlevel.Task) -> None:
        self._tasks.pop(task, None)

    def end_all(self) -> None:
        """Let each of them find that there is no machine under it any more."""
        tasks, self._tasks = self._tasks, {}
        for task, (where, _) in tasks.items():
            where.forget(task)
            trio.lowlevel.reschedule(task, outcome.Error(PowerCut()))


@define(eq=False)
class Parking:
    """Tasks that wait for one thing to become readable, writable or otherwise ready."""

    _tasks: dict[trio.lowlevel.Task, tuple[int, Parked]] = field(factory=dict)

    def __bool__(self) -> bool:
        return bool(self._tasks)

    async def wait(self, parked: Parked, mask: int = ANYTHING, *, cancellable: bool = True) -> None:
        """Until woken with one of these events. **Raises** PowerCut if the process dies."""
        task = trio.lowlevel.current_task()
        self._tasks[task] = (mask, parked)
        parked.add(task, self)

        def abort(_raise: object) -> trio.lowlevel.Abort:
            if not cancellable:
                return trio.lowlevel.Abort.FAILED
            self.forget(task)
            parked.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def wake(self, events: int = ANYTHING) -> None:
        for task, (mask, parked) in list(self._tasks.items()):
            if mask & events:
                self.forget(task)
                parked.remove(task)
                trio.lowlevel.reschedule(task)

    def forget(self, task: trio.lowlevel.Task) -> None:
        self._tasks.pop(task, None)
