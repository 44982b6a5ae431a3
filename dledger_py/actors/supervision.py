"""Supervisors: start in order, restart what crashes, stop in reverse.

Laws:

- The next child starts once the previous one is ready. Trio starts tasks in random order, so this
  is needed.
- A crash during the start is a crash like any other: the strategy applies to it and it counts.
- More than `max_restarts` in `period_s` seconds and the supervisor gives up: it stops its children
  and raises `RestartsExhausted` to its own supervisor. Intensities multiply per level, so deep
  trees want small numbers.
- No back-off: that belongs to whoever dials, and a restart must not hide a fault for long.
- `FailStop` is never restarted. It is looked for inside exception groups, cancels the siblings at
  once (draining them would only run into the thing that failed) and is raised bare, level by level,
  to the process.

A supervisor is itself an actor, so trees nest. The outermost one is run by `serve`; cancelling that
is a polite stop. The lives of a single child are in `incarnation`.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Never

import structlog
import trio
from attrs import define, field, frozen

from dledger_py.actors.actors import ActorDown, Call, Inbox, Mailbox
from dledger_py.actors.incarnation import ALIVE, Child, Restart, Slot, State, TreeNode, fail_stop_in

log = structlog.get_logger()

RESTARTS_MAX = 3
"""Restarts allowed per period: survives a flaky moment, gives up on a fault that comes back at
once.
"""

PERIOD_S = 60.0


class Strategy(enum.Enum):
    """Who is restarted with a child that ended."""

    ONE_FOR_ONE = "one for one"
    """Only itself."""
    REST_FOR_ONE = "rest for one"
    """Itself and the children started after it, which depend on it."""
    ONE_FOR_ALL = "one for all"
    """All of them."""


class RestartsExhausted(Exception):
    """A child crashed more often than its supervisor may restart it. To the parent this is a crash
    like any other.
    """

    def __init__(self, supervisor: str, child: str, *, max_restarts: int, period_s: float) -> None:
        super().__init__(
            f"{supervisor!r} gave up on {child!r}: "
            f"more than {max_restarts} restarts in {period_s:g} s"
        )
        self.supervisor = supervisor
        self.child = child


@frozen(kw_only=True)
class SupervisorStatistics:
    """`restarts` counts since this incarnation of the supervisor began."""

    children: int
    running: int
    restarts: int


@define(eq=False)
class _Keeper:
    """What both supervisors share: the nursery the children live in, the intensity, the way out."""

    name: str
    max_restarts: int
    period_s: float
    restarts: int = field(default=0, init=False)
    slots: dict[str, Slot] = field(factory=dict, init=False)
    stopping: bool = field(default=False, init=False)
    nursery: trio.Nursery = field(init=False)
    _recent: deque[float] = field(factory=deque, init=False)
    _fatal: BaseException | None = field(default=None, init=False)
    _exhausted: RestartsExhausted | None = field(default=None, init=False)
    _scope: trio.CancelScope = field(factory=trio.CancelScope, init=False)

    async def keep(self, inbox: Inbox[Any], supervise: Callable[[], Awaitable[None]]) -> None:
        """Run `supervise` until it returns, a stop is asked for, or all is lost; then leave nobody
        behind.
        """
        try:
            async with trio.open_nursery() as self.nursery:
                self.nursery.start_soon(self._cancel_when_closed, inbox)
                try:
                    with self._scope:
                        await supervise()
                finally:
                    self.stopping = True
                    try:
                        # An open inbox means that somebody cancelled the whole tree from outside:
                        # stop politely all the same. A closed one means that we are being polite
                        # already, and cancelling means hurry.
                        with trio.CancelScope(shield=not inbox.closed):
                            await self._stop_all()
                    finally:
                        self._cancel_all()
                        self.nursery.cancel_scope.cancel()
        finally:
            if self._fatal is not None:
                raise self._fatal
        if self._exhausted is not None:
            raise self._exhausted

    def is_fatal(self, slot: Slot) -> bool:
        """True if `slot` ended in a way that nobody may survive; then everything here is being
        cancelled.
        """
        if slot.error is None:
            return False
        fatal = fail_stop_in(slot.error)
        if fatal is None and isinstance(slot.error, Exception):
            return False
        if self._fatal is None:
            self._fatal = fatal or slot.error
        self.stopping = True
        self._scope.cancel()
        self._cancel_all()
        return True

    def may_restart(self, slot: Slot) -> bool:
        """Count one restart. False if it is one too many; then the supervision is over."""
        now = trio.current_time()
        while self._recent and self._recent[0] <= now - self.period_s:
            self._recent.popleft()
        if len(self._recent) >= self.max_restarts:
            self._exhausted = RestartsExhausted(
                self.name, slot.child.name, max_restarts=self.max_restarts, period_s=self.period_s
            )
            self._exhausted.__cause__ = slot.error
            self.stopping = True
            self._scope.cancel()
            return False
        self._recent.append(now)
        self.restarts += 1
        return True

    def statistics(self) -> SupervisorStatistics:
        running = sum(slot.state is State.RUNNING for slot in self.slots.values())
        return SupervisorStatistics(
            children=len(self.slots), running=running, restarts=self.restarts
        )

    def tree(self) -> TreeNode:
        failure = self._fatal or self._exhausted
        return TreeNode(
            name=self.name,
            state=State.STOPPING if self.stopping else State.RUNNING,
            incarnations=1,
            mailbox_length=0,
            mailbox_length_max=0,
            messages_taken=0,
            last_error=None if failure is None else repr(failure),
            statistics=self.statistics(),
            children=tuple(slot.node() for slot in self.slots.values()),
        )

    async def _stop_all(self) -> None:
        for slot in reversed(list(self.slots.values())):
            await slot.stop()

    def _cancel_all(self) -> None:
        for slot in self.slots.values():
            slot.cancel()

    async def _cancel_when_closed(self, inbox: Inbox[Any]) -> None:
        await inbox.wait_closed()
        self._scope.cancel()


async def _serve(
    actor: Supervisor | DynamicSupervisor, mailbox: Mailbox[Any], task_status: trio.TaskStatus[None]
) -> None:
    started = False

    def report_ready() -> None:
        nonlocal started
        if not started:
            started = True
            task_status.started()

    try:
        await actor.run(mailbox.open(report_ready))
    finally:
        mailbox.end(closed=True)


class Supervisor:
    """A fixed list of children, in the order of their dependencies."""

    def __init__(
        self,
        name: str,
        children: Sequence[Child[Any]],
        strategy: Strategy = Strategy.ONE_FOR_ONE,
        *,
        max_restarts: int = RESTARTS_MAX,
        period_s: float = PERIOD_S,
    ) -> None:
        self.name = name
        self.strategy = strategy
        self._keeper = _Keeper(name, max_restarts, period_s)
        self._due: set[Slot] = set()
        self._ended: deque[Slot] = deque()
        self._news = trio.Event()
        for child in children:
            if child.name in self._keeper.slots:
                raise ValueError(f"supervisor {name!r}: two children named {child.name!r}")
            self._keeper.slots[child.name] = Slot(child, name, self._on_end)

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run as the outermost supervisor; `started` once every child is ready.

        Cancelling it stops the tree in reverse order within the children's graces.
        Raises `FailStop`, `RestartsExhausted`.
        """
        await _serve(self, Mailbox[Never](self.name, 1), task_status)

    async def run(self, inbox: Inbox[Never]) -> None:
        self._due = set(self._keeper.slots.values())
        await self._keeper.keep(inbox, lambda: self._supervise(inbox))

    def statistics(self) -> SupervisorStatistics:
        return self._keeper.statistics()

    def tree(self) -> TreeNode:
        """This supervisor and everything below it, as it is now."""
        return self._keeper.tree()

    async def _supervise(self, inbox: Inbox[Never]) -> None:
        """Bring reality to the plan: first answer what ended, then start the first child that is
        due, in order.
        """
        while True:
            if self._ended:
                await self._answer(self._ended.popleft())
                continue
            due = next((slot for slot in self._keeper.slots.values() if slot in self._due), None)
            if due is not None:
                self._due.discard(due)
                await due.start(self._keeper.nursery)
                continue
            inbox.ready()
            self._news = trio.Event()
            await self._news.wait()

    def _on_end(self, slot: Slot) -> None:
        if self._keeper.is_fatal(slot) or self._keeper.stopping or slot.asked_to_end:
            return
        self._ended.append(slot)
        self._news.set()

    async def _answer(self, ended: Slot) -> None:
        if ended.state in ALIVE or ended in self._due or not _wants_restart(ended):
            return
        if not self._keeper.may_restart(ended):
            await trio.sleep_forever()  # the scope around us is cancelled
        log.info(
            "actor.restart_decided",
            supervisor=self.name,
            actor=ended.child.name,
            strategy=self.strategy.value,
        )
        self._due.add(ended)
        for slot in reversed(self._company(ended)):
            await slot.stop()
            if slot.child.restart is not Restart.NEVER:
                self._due.add(slot)

    def _company(self, ended: Slot) -> list[Slot]:
        """Who is restarted with `ended`, in the order of starting."""
        slots = list(self._keeper.slots.values())
        match self.strategy:
            case Strategy.ONE_FOR_ONE:
                return []
            case Strategy.REST_FOR_ONE:
                return slots[slots.index(ended) + 1 :]
            case Strategy.ONE_FOR_ALL:
                return [slot for slot in slots if slot is not ended]


@define(eq=False)
class StartChild(Call[None]):
    """Ask a `DynamicSupervisor` for one more child; answered when it is ready.

    Refused with `ValueError` if the name is taken, with `ActorDown` (indefinite) if it
    ended before it was ready; then it is being restarted as its record says.
    """

    child: Child[Any]


@define(eq=False)
class StopChild(Call[None]):
    """Ask a `DynamicSupervisor` to stop a child and forget it; answered when it is gone.
    `ValueError` if unknown.
    """

    name: str


class DynamicSupervisor:
    """Children that come and go by message, each restarted on its own. Starts empty, also after its
    own restart.
    """

    def __init__(
        self, name: str, *, max_restarts: int = RESTARTS_MAX, period_s: float = PERIOD_S
    ) -> None:
        self.name = name
        self._keeper = _Keeper(name, max_restarts, period_s)

    async def run(self, inbox: Inbox[StartChild | StopChild]) -> None:
        await self._keeper.keep(inbox, lambda: self._supervise(inbox))

    def statistics(self) -> SupervisorStatistics:
        return self._keeper.statistics()

    def tree(self) -> TreeNode:
        """This supervisor and everything below it, as it is now."""
        return self._keeper.tree()

    async def _supervise(self, inbox: Inbox[StartChild | StopChild]) -> None:
        async for call in inbox:
            match call:
                case StartChild(child=child):
                    await self._start(child, call)
                case StopChild(name=name):
                    await self._stop(name, call)

    async def _start(self, child: Child[Any], call: StartChild) -> None:
        if child.name in self._keeper.slots:
            call.refuse(ValueError(f"supervisor {self.name!r}: {child.name!r} is there already"))
            return
        slot = self._keeper.slots[child.name] = Slot(child, self.name, self._on_end)
        await slot.start(self._keeper.nursery)
        if slot.state is State.RUNNING:
            call.reply(None)
        else:
            call.refuse(ActorDown(child.name, definite=False))

    async def _stop(self, name: str, call: StopChild) -> None:
        slot = self._keeper.slots.get(name)
        if slot is None:
            call.refuse(ValueError(f"supervisor {self.name!r} has no child named {name!r}"))
            return
        await slot.stop()
        self._keeper.slots.pop(name, None)
        call.reply(None)

    def _on_end(self, slot: Slot) -> None:
        if self._keeper.is_fatal(slot) or self._keeper.stopping or slot.asked_to_end:
            return
        if not _wants_restart(slot):
            self._keeper.slots.pop(slot.child.name, None)
        elif self._keeper.may_restart(slot):
            log.info("actor.restarted", supervisor=self.name, actor=slot.child.name)
            slot.spawn(self._keeper.nursery)


def _wants_restart(slot: Slot) -> bool:
    match slot.child.restart:
        case Restart.ALWAYS:
            return True
        case Restart.ON_FAILURE:
            return slot.state is State.CRASHED
        case Restart.NEVER:
            return False
