"""What one actor and its askers may rely on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from attrs import define, field, frozen

from dledger_py.actors import ActorDown, Call, Child, Inbox, Restart, Supervisor, after, every


@define(eq=False)
class Double(Call[int]):
    number: int


@frozen
class Note:
    text: str


@define
class Doubler:
    """Answers questions, keeps notes, and crashes on a negative number."""

    notes: list[str]
    gate: trio.Event = field(factory=trio.Event)

    async def run(self, inbox: Inbox[Double | Note]) -> None:
        async for message in inbox:
            match message:
                case Double(number=number) if number < 0:
                    raise ValueError("negative")
                case Double(number=0):
                    await self.gate.wait()
                case Double(number=number):
                    message.reply(2 * number)
                case Note(text=text):
                    self.notes.append(text)


@asynccontextmanager
async def running(*children: Child[Any], max_restarts: int = 3) -> AsyncIterator[Supervisor]:
    tree = Supervisor("test", children, max_restarts=max_restarts)
    async with trio.open_nursery() as nursery:
        await nursery.start(tree.serve)
        yield tree
        nursery.cancel_scope.cancel()


def doubler(**options: Any) -> tuple[Child[Double | Note], list[str]]:
    notes: list[str] = []
    return Child("doubler", lambda: Doubler(notes), **options), notes


async def test_a_question_is_answered() -> None:
    child, _ = doubler()
    async with running(child):
        answer = await child.ref.ask(Double(21))

    assert 42 == answer


async def test_a_crash_fails_the_question_in_hand_and_the_queued_ones(autojump_clock: Any) -> None:
    child, _ = doubler()
    fates: dict[int, bool] = {}

    async def ask(number: int) -> None:
        try:
            await child.ref.ask(Double(number))
        except ActorDown as down:
            fates[number] = down.definite

    async with running(child):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, -1)
            await trio.testing.wait_all_tasks_blocked()
        await child.ref.ask(Double(1))  # the next incarnation answers under the same ref

        child.ref.tell_nowait(Note("before"))
        in_hand, queued = Double(-2), Double(3)
        child.ref.tell_nowait(in_hand)
        child.ref.tell_nowait(queued)
        with pytest.raises(ActorDown) as definite:
            await queued._wait_settled()
        with pytest.raises(ActorDown) as indefinite:
            await in_hand._wait_settled()

    assert {-1: False} == fates
    assert definite.value.definite
    assert not indefinite.value.definite


async def test_what_was_queued_dies_with_the_incarnation(autojump_clock: Any) -> None:
    child, notes = doubler()
    async with running(child):
        child.ref.tell_nowait(Double(-1))
        child.ref.tell_nowait(Note("lost"))
        await trio.testing.wait_all_tasks_blocked()
        child.ref.tell_nowait(Note("kept"))
        await child.ref.ask(Double(1))

    assert ["kept"] == notes


async def test_what_is_sent_before_the_start_waits_for_it(autojump_clock: Any) -> None:
    child, notes = doubler()
    child.ref.tell_nowait(Note("early"))
    async with running(child):
        await child.ref.ask(Double(1))

    assert ["early"] == notes


async def test_a_full_mailbox_pushes_back(autojump_clock: Any) -> None:
    child, notes = doubler(mailbox=2)
    child.ref.tell_nowait(Note("1"))
    child.ref.tell_nowait(Note("2"))
    with pytest.raises(trio.WouldBlock):
        child.ref.tell_nowait(Note("3"))

    async with trio.open_nursery() as nursery:
        for text in ("3", "4"):
            nursery.start_soon(child.ref.tell, Note(text))
            await trio.testing.wait_all_tasks_blocked()

        assert [] == notes
        async with running(child):
            await child.ref.ask(Double(1))

    assert ["1", "2", "3", "4"] == notes


async def test_a_stopped_actor_drains_its_mailbox_and_refuses_more(autojump_clock: Any) -> None:
    child, notes = doubler()
    async with running(child):
        for text in ("a", "b", "c"):
            child.ref.tell_nowait(Note(text))

    assert ["a", "b", "c"] == notes
    with pytest.raises(ActorDown) as down:
        await child.ref.ask(Double(1))
    assert down.value.definite


async def test_questions_left_unanswered_at_a_normal_end_fail_as_indefinite(
    autojump_clock: Any,
) -> None:
    class Forgetful:
        async def run(self, inbox: Inbox[Double]) -> None:
            async for _ in inbox:
                return

    child = Child("forgetful", Forgetful, restart=Restart.NEVER)
    async with running(child):
        with pytest.raises(ActorDown) as down:
            await child.ref.ask(Double(1))

    assert not down.value.definite


async def test_the_first_answer_counts(autojump_clock: Any) -> None:
    class Twice:
        async def run(self, inbox: Inbox[Double]) -> None:
            async for call in inbox:
                call.reply(1)
                call.reply(2)
                call.refuse(ValueError("too late"))

    child = Child("twice", Twice)
    async with running(child):
        assert 1 == await child.ref.ask(Double(0))


async def test_a_refusal_is_raised_at_the_asker(autojump_clock: Any) -> None:
    class Refusing:
        async def run(self, inbox: Inbox[Double]) -> None:
            async for call in inbox:
                call.refuse(KeyError(call.number))

    child = Child("refusing", Refusing)
    async with running(child):
        with pytest.raises(KeyError):
            await child.ref.ask(Double(7))


async def test_a_cancelled_question_stays_in_the_mailbox(autojump_clock: Any) -> None:
    taken: list[int] = []

    class Slow:
        async def run(self, inbox: Inbox[Double]) -> None:
            async for call in inbox:
                await trio.sleep(10)
                taken.append(call.number)
                call.reply(0)

    child = Child("slow", Slow, grace_s=100)
    async with running(child):
        with trio.move_on_after(1) as scope:
            await child.ref.ask(Double(5))
        assert scope.cancelled_caught

    assert [5] == taken


async def test_batches_take_all_that_waits_up_to_the_limit(autojump_clock: Any) -> None:
    sizes: list[int] = []

    class Batching:
        async def run(self, inbox: Inbox[Note]) -> None:
            async for batch in inbox.batches(limit=4):
                size = len(batch)
                sizes.append(size)

    child = Child("batching", Batching)
    for number in range(6):
        child.ref.tell_nowait(Note(str(number)))
    async with running(child):
        await trio.testing.wait_all_tasks_blocked()
        child.ref.tell_nowait(Note("later"))

    assert [4, 2, 1] == sizes


async def test_timers_arrive_as_messages(autojump_clock: Any) -> None:
    start = trio.current_time()
    arrivals: list[tuple[str, float]] = []

    class Clocked:
        async def run(self, inbox: Inbox[Note]) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(every, 2.0, inbox.ref, Note("tick"))
                nursery.start_soon(after, 3.0, inbox.ref, Note("once"))
                async for note in inbox:
                    at = trio.current_time() - start
                    arrivals.append((note.text, at))
                nursery.cancel_scope.cancel()

    async with running(Child("clocked", Clocked)):
        await trio.sleep(6.5)

    expected = [("tick", 2.0), ("once", 3.0), ("tick", 4.0), ("tick", 6.0)]
    assert expected == [(text, pytest.approx(at)) for text, at in arrivals]


async def test_ticks_missed_in_a_long_turn_are_not_made_up_for(autojump_clock: Any) -> None:
    start = trio.current_time()
    arrivals: list[float] = []

    class Busy:
        async def run(self, inbox: Inbox[Note]) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(every, 1.0, inbox.ref, Note("tick"))
                async for _ in inbox:
                    at = trio.current_time() - start
                    arrivals.append(at)
                    if len(arrivals) == 1:
                        autojump_clock.jump(5.5)  # the loop itself was held up

    async with running(Child("busy", Busy, grace_s=0)):
        await trio.sleep(8.75)

    assert [1.0, 6.5, 7.0, 8.0] == [pytest.approx(at) for at in arrivals]
