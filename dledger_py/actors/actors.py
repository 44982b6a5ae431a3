"""Mailboxes, addresses and typed questions: what an actor is made of.

An actor is anything with `run(inbox)`. It owns state that nobody else may touch, and it is
justified by that alone: a connection is a task, a table is an object, a codec is a function. One
round trip through a mailbox costs tens of microseconds, so hot paths send batches, never single
messages.

Laws:

- A mailbox is bounded. `tell` waits for room, `tell_nowait` raises `trio.WouldBlock`; nothing is
  dropped in silence.
- The mailbox belongs to the *child*, not to one incarnation of it, so a `Ref` exists before its
  actor and survives its restarts. What is queued does not: it dies with the incarnation it was sent
  to, and askers are told so.
- Nobody waits for a dead actor. When an incarnation ends, a question still queued fails with
  `ActorDown(definite=True)` (it never started), one already taken with `ActorDown(definite=False)`
  (it may have happened).
- No deadlines here: the caller writes `with trio.fail_after(seconds)`. A cancelled `ask` leaves its
  question in the mailbox.

Everything runs on one Trio loop; a worker thread answers through
`trio.from_thread.run_sync(call.reply, value)`. Starting, restarting and stopping is in
`supervision`; messages that arrive by the clock are in `timers`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar, cast

import outcome
import trio
from attrs import define, field

M = TypeVar("M")
M_contra = TypeVar("M_contra", contravariant=True)
T = TypeVar("T")

MAILBOX_LENGTH_MAX = 256
"""Default room in a mailbox: deep enough to ride out one slow turn, small enough that a stuck actor
is noticed within a burst. Senders of batches should ask for less, fan-in points for more."""


class ActorDown(Exception):
    """The incarnation that should have answered is gone.

    Refused if `definite` (the question was never taken up), else indefinite (it may have happened).
    """

    def __init__(self, actor: str, *, definite: bool) -> None:
        fate = (
            "the question was not taken up" if definite else "the question may have been acted on"
        )
        super().__init__(f"actor {actor!r} is down: the question {fate}")
        self.actor = actor
        self.definite = definite


class Actor(Protocol[M]):
    """Anything that can be run with an inbox. State lives in the instance; a restart builds a fresh
    one.
    """

    async def run(self, inbox: Inbox[M]) -> None:
        """Handle messages until the inbox ends. Returning is a normal end, raising is a crash."""


@define(eq=False)
class Call(Generic[T]):
    """A message that wants a `T` back. Subclass it with the fields of the question.

    The first `reply` or `refuse` counts, later ones are ignored: the actor may answer a question
    whose asker has already been told that the actor is down.
    """

    _outcome: outcome.Outcome[T] | None = field(default=None, init=False, repr=False)
    _settled: trio.Event | None = field(default=None, init=False, repr=False)
    _taken_in: set[Call[Any]] | None = field(default=None, init=False, repr=False)

    def reply(self, value: T) -> None:
        self._settle(outcome.Value(value))

    def refuse(self, error: BaseException) -> None:
        """Make `ask` raise `error`."""
        self._settle(outcome.Error(error))

    @property
    def answered(self) -> bool:
        return self._outcome is not None

    def _settle(self, result: outcome.Outcome[T]) -> None:
        if self._outcome is not None:
            return
        self._outcome = result
        if self._taken_in is not None:
            self._taken_in.discard(self)
        if self._settled is not None:
            self._settled.set()

    async def _wait_settled(self) -> T:
        if self._outcome is None:
            self._settled = trio.Event()
            await self._settled.wait()
        assert self._outcome is not None
        return self._outcome.unwrap()


@define(eq=False)
class Ref(Generic[M_contra]):
    """The address of an actor, past, present and future. Knowing it allows sending, nothing else.

    `Ref` is contravariant: a `Ref[Write | Read]` may be handed to whoever needs only a
    `Ref[Write]`.
    """

    _mailbox: Mailbox[M_contra]

    @property
    def name(self) -> str:
        return self._mailbox.name

    async def tell(self, message: M_contra) -> None:
        """Put `message` into the mailbox. Blocks while it is full. Raises `ActorDown`
        (definite).
        """
        await trio.lowlevel.checkpoint()
        await self._mailbox.put(message)

    def tell_nowait(self, message: M_contra) -> None:
        """Put `message` into the mailbox. Raises `trio.WouldBlock` if it is full, `ActorDown`
        (definite).
        """
        self._mailbox.put_nowait(message)

    async def ask(self, call: Call[T]) -> T:
        """Send `call` and wait for its answer.

        Raises what the actor refused with, or `ActorDown`. A question is asked once: make a new one
        for a retry.
        """
        assert not call.answered, f"{call!r} was asked before"
        # Python cannot say "a message of this actor that is also a Call[T]"; the answer's type is
        # worth more than the check.
        await self._mailbox.put(cast("M_contra", call))
        return await call._wait_settled()


@define(eq=False)
class Inbox(Generic[M]):
    """The receiving end of one incarnation. Only its actor iterates it.

    `async for message in inbox` and `async for batch in inbox.batches(limit)` end when a stop was
    asked for and everything queued before it has been taken. Reaching the first iteration tells the
    supervisor that the actor is ready.
    """

    ref: Ref[M]
    _mailbox: Mailbox[M]
    _on_ready: Callable[[], None]

    def ready(self) -> None:
        """Say so explicitly: for actors that never iterate, or are ready at another moment.
        Harmless twice.
        """
        self._on_ready()

    @property
    def closed(self) -> bool:
        """True once a stop was asked for; messages may still be queued."""
        return self._mailbox.closed

    async def wait_closed(self) -> None:
        """Wait until a stop is asked for: how an actor that does not iterate stops politely."""
        await self._mailbox.wait_closed()

    def __aiter__(self) -> Inbox[M]:
        return self

    async def __anext__(self) -> M:
        self._on_ready()
        return (await self._mailbox.take(self, 1))[0]

    def batches(self, limit: int) -> Batches[M]:
        """All that is waiting, at least one and at most `limit` messages at a time, in order."""
        if limit < 1:
            raise ValueError(f"limit {limit}: a batch has at least one message")
        return Batches(self, limit)


@define(eq=False)
class Batches(Generic[M]):
    """What `Inbox.batches` iterates; a class, because an async generator would need closing."""

    _inbox: Inbox[M]
    _limit: int

    def __aiter__(self) -> Batches[M]:
        return self

    async def __anext__(self) -> list[M]:
        self._inbox.ready()
        return await self._inbox._mailbox.take(self._inbox, self._limit)


@define(eq=False)
class Mailbox(Generic[M]):
    """The bounded queue behind a `Ref`. Supervisors open, close and end it; actors and senders
    never see it.
    """

    name: str
    length_max: int = MAILBOX_LENGTH_MAX
    closed: bool = field(default=False, init=False)
    taken_total: int = field(default=0, init=False)
    _queue: deque[M] = field(factory=deque, init=False)
    _in_hand: set[Call[Any]] = field(factory=set, init=False)
    _reader: Inbox[M] | None = field(default=None, init=False)
    _arrival: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)
    _room: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)
    _senders: trio.StrictFIFOLock = field(factory=trio.StrictFIFOLock, init=False)
    _closing: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)

    def __attrs_post_init__(self) -> None:
        if self.length_max < 1:
            raise ValueError(
                f"mailbox of {self.name!r}: {self.length_max} messages; at least 1 is needed"
            )

    def __len__(self) -> int:
        return len(self._queue)

    def open(self, on_ready: Callable[[], None]) -> Inbox[M]:
        """Begin an incarnation. What was sent while none was running is waiting for it."""
        assert self._reader is None, f"two incarnations of {self.name!r}"
        self.closed = False
        self._reader = Inbox(Ref(self), self, on_ready)
        return self._reader

    def close(self) -> None:
        """Take nothing more; the reader drains what is queued and then sees the end."""
        self.closed = True
        self._arrival.unpark_all()
        self._room.unpark_all()
        self._closing.unpark_all()

    def end(self, *, closed: bool) -> None:
        """End the incarnation: fail its questions, forget its messages; `closed` if no other will
        follow soon.
        """
        self._reader = None
        in_hand, queued = list(self._in_hand), list(self._queue)
        self._in_hand.clear()
        self._queue.clear()
        for call in in_hand:
            call.refuse(ActorDown(self.name, definite=False))
        for message in queued:
            if isinstance(message, Call):
                message.refuse(ActorDown(self.name, definite=True))
        self.close()
        self.closed = closed

    def put_nowait(self, message: M) -> None:
        if self.closed:
            raise ActorDown(self.name, definite=True)
        if len(self._queue) >= self.length_max:
            raise trio.WouldBlock
        self._queue.append(message)
        self._arrival.unpark()

    async def put(self, message: M) -> None:
        if not self._senders.locked() and len(self._queue) < self.length_max:
            self.put_nowait(message)
            return
        # In the order they came: Trio runs tasks that are woken together in any order.
        async with self._senders:
            while not self.closed and len(self._queue) >= self.length_max:
                await self._room.park()
            self.put_nowait(message)

    async def take(self, reader: Inbox[M], limit: int) -> list[M]:
        """Up to `limit` messages, at least one. Always a checkpoint. Raises `StopAsyncIteration` at
        the end.
        """
        await trio.lowlevel.checkpoint()
        assert reader is self._reader, f"an earlier incarnation of {self.name!r} reads its inbox"
        while not self._queue:
            if self.closed:
                raise StopAsyncIteration
            await self._arrival.park()
        messages = [self._queue.popleft() for _ in range(min(limit, len(self._queue)))]
        for message in messages:
            if isinstance(message, Call) and not message.answered:
                self._in_hand.add(message)
                message._taken_in = self._in_hand
        self.taken_total += len(messages)
        self._room.unpark()
        return messages

    async def wait_closed(self) -> None:
        await trio.lowlevel.checkpoint()
        while not self.closed:
            await self._closing.park()
