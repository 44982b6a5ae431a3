"""One child and its lives: the record that describes it, and the place where one incarnation at a
time runs.

Laws:

- Every incarnation runs in a shielded cancel scope of its own. Cancelling a tree from outside
  therefore reaches its supervisor only, which stops the children in its order; nothing is torn down
  at random.
- Stopping is polite first: the mailbox closes, the actor drains it and returns; after `grace_s` its
  scope is cancelled.
- A crash is logged here, once, with its traceback. What follows from it is decided in
  `supervision`.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import structlog
import trio
from attrs import define, field, frozen

from dledger_py.actors.actors import MAILBOX_LENGTH_MAX, Actor, Mailbox, Ref

M = TypeVar("M")
log = structlog.get_logger()

GRACE_S = 5.0
"""Long enough for a last batch and its fdatasync on a busy disk, short enough that an operator does
not reach for SIGKILL (init systems wait tens of seconds)."""

EXIT_FAIL_STOP = 70
"""Exit code of a process that stopped itself; EX_SOFTWARE of sysexits.h, which neither Python nor a
shell uses.
"""


class FailStop(Exception):
    """Stop: this process cannot go on without risking what it promised. Never restarted, passes
    every supervisor.

    The message is shown to an operator in one line: say which file or command, and what was wrong
    with it.
    """

    exit_code = EXIT_FAIL_STOP


def fail_stop_in(error: BaseException) -> FailStop | None:
    """The first `FailStop` in `error`, which may be an exception group of any depth, as nurseries
    raise them.
    """
    if isinstance(error, FailStop):
        return error
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            if (found := fail_stop_in(part)) is not None:
                return found
    return None


class Restart(enum.Enum):
    """What happens when a child ends without having been asked to."""

    ALWAYS = "always"
    ON_FAILURE = "on failure"
    NEVER = "never"


@define(eq=False)
class Child(Generic[M]):
    """How to make one actor, again and again. `ref` is valid at once and for ever.

    `make` builds a fresh actor for every incarnation and runs in its task, so it may raise: that is
    a crash. For nested supervisors make the grandchildren's records once, outside `make`: then
    their refs survive too. `grace_s` is the time between the polite and the impolite stop; a
    supervisor has no such limit, its children do.
    """

    name: str
    make: Callable[[], Actor[M]]
    restart: Restart = field(default=Restart.ALWAYS, kw_only=True)
    mailbox: int = field(default=MAILBOX_LENGTH_MAX, kw_only=True)
    grace_s: float = field(default=GRACE_S, kw_only=True)
    _mailbox: Mailbox[M] = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._mailbox = Mailbox(self.name, self.mailbox)

    @property
    def ref(self) -> Ref[M]:
        return Ref(self._mailbox)


class State(enum.Enum):
    """Where a child is in its life."""

    WAITING = "waiting"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    RETURNED = "returned"
    CRASHED = "crashed"
    STOPPED = "stopped"


ALIVE = frozenset({State.STARTING, State.RUNNING, State.STOPPING})


@frozen(kw_only=True)
class TreeNode:
    """One child as metrics, console and tests see it. `statistics` is the actor's own record, if it
    has one.
    """

    name: str
    state: State
    incarnations: int
    mailbox_length: int
    mailbox_length_max: int
    messages_taken: int
    last_error: str | None
    statistics: object | None
    children: tuple[TreeNode, ...]


@runtime_checkable
class Parent(Protocol):
    """An actor with children: it is given all the time they need to stop, and it has logged their
    ends.
    """

    def tree(self) -> TreeNode: ...


@define(eq=False)
class Slot:
    """The place of one child under its supervisor. At most one incarnation lives in it."""

    child: Child[Any]
    supervisor: str
    on_end: Callable[[Slot], None]
    state: State = field(default=State.WAITING, init=False)
    incarnations: int = field(default=0, init=False)
    error: BaseException | None = field(default=None, init=False)
    asked_to_end: bool = field(default=False, init=False)
    actor: Actor[Any] | None = field(default=None, init=False)
    _scope: trio.CancelScope = field(factory=trio.CancelScope, init=False)
    _risen: trio.Event = field(factory=trio.Event, init=False)
    _over: trio.Event = field(factory=trio.Event, init=False)

    def spawn(self, nursery: trio.Nursery) -> None:
        """Begin an incarnation without waiting for it."""
        assert self.state not in ALIVE, f"{self.child.name!r} is {self.state.value}"
        self.state = State.STARTING
        self.incarnations += 1
        self.error = None
        self._scope, self._risen, self._over = (
            trio.CancelScope(shield=True),
            trio.Event(),
            trio.Event(),
        )
        nursery.start_soon(
            self._live, name=f"{self.supervisor}/{self.child.name}#{self.incarnations}"
        )

    async def start(self, nursery: trio.Nursery) -> None:
        """Begin an incarnation and wait until it is ready, or has ended before it was."""
        self.spawn(nursery)
        await self.wait_risen()

    async def wait_risen(self) -> None:
        """Wait until the incarnation is ready or over; `state` tells which."""
        await self._risen.wait()

    async def stop(self) -> None:
        """Stop politely, then not. Cancelled meanwhile, it leaves the incarnation stopping."""
        if self.state not in ALIVE:
            return
        self.state = State.STOPPING
        self.child._mailbox.close()
        grace_s = math.inf if isinstance(self.actor, Parent) else self.child.grace_s
        with trio.move_on_after(grace_s):
            await self._over.wait()
        if not self._over.is_set():
            log.warning(
                "actor.overstayed",
                actor=self.child.name,
                supervisor=self.supervisor,
                grace_s=grace_s,
            )
            self._scope.cancel()
            await self._over.wait()

    def cancel(self) -> None:
        """Stop at once; the incarnation is over when the nursery it lives in is."""
        if self.state in ALIVE:
            self.state = State.STOPPING
            self.child._mailbox.close()
            self._scope.cancel()

    def node(self) -> TreeNode:
        actor, mailbox = self.actor, self.child._mailbox
        statistics = getattr(actor, "statistics", None)
        return TreeNode(
            name=self.child.name,
            state=self.state,
            incarnations=self.incarnations,
            mailbox_length=len(mailbox),
            mailbox_length_max=mailbox.length_max,
            messages_taken=mailbox.taken_total,
            last_error=repr(self.error) if self.error is not None else None,
            statistics=statistics() if statistics is not None else None,
            children=actor.tree().children if isinstance(actor, Parent) else (),
        )

    async def _live(self) -> None:
        inbox = self.child._mailbox.open(self._rise)
        if self.state is State.STOPPING:  # stopped before its task had a turn
            self.child._mailbox.close()
        error: BaseException | None = None
        try:
            with self._scope:
                self.actor = self.child.make()
                await self.actor.run(inbox)
        except BaseException as raised:  # what is not an Exception goes up through on_end
            error = raised
        self._end(error)

    def _rise(self) -> None:
        if self.state is State.STARTING:
            self.state = State.RUNNING
        self._risen.set()

    def _end(self, error: BaseException | None) -> None:
        self.asked_to_end = self.state is State.STOPPING
        self.error = error
        if error is not None:
            self.state = State.CRASHED
            self._log_crash(error)
        else:
            self.state = State.STOPPED if self.asked_to_end else State.RETURNED
        self.child._mailbox.end(closed=self.asked_to_end)
        self.actor = None
        self._risen.set()
        self._over.set()
        self.on_end(self)

    def _log_crash(self, error: BaseException) -> None:
        where = {
            "actor": self.child.name,
            "supervisor": self.supervisor,
            "incarnation": self.incarnations,
        }
        stop = fail_stop_in(error)
        if stop is None:
            log.error("actor.crashed", **where, exc_info=error)
        elif not isinstance(self.actor, Parent):  # a supervisor only passes on what was logged
            alone = isinstance(error, FailStop)  # else it came in a group: show what else was wrong
            log.error(
                "actor.stopped_the_process",
                **where,
                reason=str(stop),
                exc_info=None if alone else error,
            )
