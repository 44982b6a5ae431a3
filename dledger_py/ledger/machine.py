"""What a replicated state machine is to the ledger, and what the ledger tells about itself.

The ledger calls `Machine.apply` once for each committed command, on every member, in the order of
the log, and after each start again from the beginning of the log. So `apply` decides by its
argument and its own state alone: no clock, no dice, no look at the role. What it wants done
outside goes into `Applied.effects`; these are performed on every member and may be performed
again after a restart, so each must be harmless twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

from attrs import field, frozen

RoleName = Literal["leader", "follower", "candidate"]


@frozen(kw_only=True)
class Committed:
    """One command of the log, durable on a quorum."""

    index: int
    term: int
    position: int
    """Log position of the payload's byte 0: the same on all members, for ever."""
    payload: memoryview
    """Valid as long as it is held, but it may keep a batch of the log in memory: copy what is to
    stay."""


@frozen(kw_only=True)
class Applied:
    """What applying one command came to."""

    reply: Any = None
    """For the proposer, if it still waits on this member. `Any`: the machine's business alone."""
    effects: Sequence[Any] = field(default=(), kw_only=True)
    """For the performer, on every member. `Any`: the machine's business alone."""


class Machine(Protocol):
    """The replicated state. Only the ledger's applier calls it, always on the event loop."""

    def apply(self, committed: Committed) -> Applied:
        """Change the state by one command. An exception here ends the process: members must not
        differ."""
        ...


@frozen(kw_only=True)
class StatePlace:
    """The last entry a state stands for."""

    index: int
    term: int
    position: int
    """Log position behind the entry."""


class Snapshot(Protocol):
    """A machine's state of one moment, on its way to the disk. Called in the order below."""

    def prepare(self) -> bool:
        """Do some of what has to be done on the event loop; whether there is more."""
        ...

    def sync(self) -> None:
        """Make durable what the state refers to outside of the log. Worker thread; may block."""
        ...

    def chunks(self) -> Iterable[bytes]:
        """The state as bytes, from which `restore` makes it again. Worker thread."""
        ...

    def release(self) -> None:
        """The snapshot is durable: let go of what only older ones need. Worker thread."""
        ...

    def end(self) -> None:
        """It is over, well or not. Event loop."""
        ...


@runtime_checkable
class RememberingMachine(Machine, Protocol):
    """A machine whose state can be written down, so that a start need not apply the whole log."""

    def capture(self, place: StatePlace) -> Snapshot:
        """The state of this moment, which is the one after `place`. Event loop, between entries."""
        ...

    def restore(self, body: bytes) -> bool:
        """Become what the snapshot says, before anything is applied; False to apply the whole log.

        An exception ends the process: a snapshot that is damaged is an operator's business.
        """
        ...

    def rebuild(self, body: bytes, commands: Callable[[], Iterator[Committed]]) -> None:
        """The same for a log that cannot be applied whole, because it does not begin with entry 1:
        become what the snapshot says, and make what is kept outside of it anew from `commands`,
        those that the log still has up to the snapshot. Worker thread; may go through them again
        and again. What they no longer tell is gone.
        """
        ...


@frozen(kw_only=True)
class RoleView:
    """The role of this member as far as others may act on it."""

    role: RoleName
    term: int
    leader: str | None
    ready: bool
    """Leader only: the first entry of its own term is applied, so its state is not behind any reply
    that an earlier leader gave."""
