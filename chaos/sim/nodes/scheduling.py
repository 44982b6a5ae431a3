"""One deterministic event loop: Trio with a seeded order of tasks and a clock that only jumps.

Laws:
- The order in which tasks run is drawn from the seed, among tasks sorted by age; so neither
  addresses nor hashes have a say, also not in another process.
- Nothing waits for the machine: no thread runs and no socket is open, so the clock jumps to the
  next deadline whenever nobody can run.
- A paused process's tasks do not run. What wakes them meanwhile is kept, and takes effect when
  the pause is over, as after SIGSTOP and SIGCONT.

Trio has no public way to this (python-trio/trio#2675); the private names are used here and
nowhere else, with a release that they are known to fit.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from heapq import heappop, heappush
from random import Random
from typing import Any, TypeVar

import trio
from trio._core import _run as scheduler
from trio.testing import MockClock

T = TypeVar("T")

RELEASES = ("0.35.",)
"""Releases of Trio whose private names were looked at."""

assert trio.__version__.startswith(RELEASES), f"look at trio {trio.__version__}'s scheduler first"


class Tasks:
    """The tasks of one process; whether they may run."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.paused = False
        self._kept: list[trio.lowlevel.Task] = []
        self._calls: list[Callable[[], None]] = []

    def pause(self) -> None:
        self.paused = True

    def go_on(self) -> None:
        self.paused = False
        kept, self._kept = self._kept, []
        scheduler.GLOBAL_RUN_CONTEXT.runner.runq.extend(kept)
        calls, self._calls = self._calls, []
        for call in calls:
            call()

    def keep(self, task: trio.lowlevel.Task) -> None:
        self._kept.append(task)

    def keep_call(self, call: Callable[[], None]) -> None:
        """Call this when the pause is over."""
        self._calls.append(call)


TASKS: ContextVar[Tasks] = ContextVar("TASKS")
"""Whose task this is. Inherited by every task it starts."""


class Agenda:
    """What is to happen in the world outside of all processes, each at its time.

    It is worked off by the clock, between two turns of the loop: an arrival that wakes nobody
    costs no turn, and one that wakes somebody is served in the turn it causes.
    """

    def __init__(self) -> None:
        self.now = 0.0
        # Any: the arguments of whatever is to be called.
        self._calls: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._sequence = 0

    def at(self, at_s: float, call: Callable[..., None], *args: Any) -> None:
        self._sequence += 1
        heappush(self._calls, (at_s, self._sequence, call, args))

    def work_off(self, runner: scheduler.Runner) -> None:
        """Move the time on, until somebody can run or a deadline is due."""
        deadline = runner.deadlines.next_deadline()
        calls = self._calls
        while not runner.runq and calls and calls[0][0] <= deadline:
            self.now = max(self.now, calls[0][0])
            while calls and calls[0][0] <= self.now:
                _, _, call, args = heappop(calls)
                call(*args)
            deadline = runner.deadlines.next_deadline()
        if not runner.runq:
            assert deadline < float("inf"), "nobody can run, and nobody ever will"
            self.now = max(self.now, deadline)


def clock_of(agenda: Agenda) -> MockClock:
    """A clock that stands still while anybody can run, then jumps to what comes next.

    Trio's own, which may not be subclassed, without its arithmetic of rates: that costs a tenth of
    a run, and its rounding may take two jumps for one deadline.
    """
    clock = MockClock(autojump_threshold=0)
    clock.current_time = lambda: agenda.now  # type: ignore[method-assign]
    clock._autojump = lambda: agenda.work_off(  # type: ignore[method-assign]
        scheduler.GLOBAL_RUN_CONTEXT.runner
    )
    return clock


def run(main: Callable[..., Awaitable[T]], *args: Any, seed: str) -> T:
    """`trio.run`, deterministically. `main` gets the agenda before its other arguments."""
    agenda = Agenda()
    with _seeded(seed), _pausable():
        return trio.run(main, agenda, *args, clock=clock_of(agenda))


@contextmanager
def _seeded(seed: str) -> Iterator[None]:
    before = scheduler._ALLOW_DETERMINISTIC_SCHEDULING, scheduler._r.getstate()
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    scheduler._r.seed(f"{seed}/scheduler")
    try:
        yield
    finally:
        scheduler._ALLOW_DETERMINISTIC_SCHEDULING = before[0]  # type: ignore[misc]
        scheduler._r.setstate(before[1])


@contextmanager
def _pausable() -> Iterator[None]:
    """Take a task whose process is paused out of the run queue as soon as it is put there."""
    reschedule = scheduler.Runner.reschedule

    def or_keep(runner: scheduler.Runner, task: trio.lowlevel.Task, *how: Any) -> None:
        reschedule(runner, task, *how)
        tasks = task.context.get(TASKS)
        if tasks is not None and tasks.paused:
            taken = runner.runq.pop()
            assert taken is task
            tasks.keep(task)

    scheduler.Runner.reschedule = or_keep  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        scheduler.Runner.reschedule = reschedule  # type: ignore[method-assign]


def dice(seed: str, name: str) -> Random:
    """A source of chance of its own for everything that has a name: a draw more in one place moves
    nothing in another."""
    return Random(f"{seed}/{name}")
