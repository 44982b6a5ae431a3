"""Order, strategies, intensity, polite and impolite ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing
from attrs import define, field

from dledger_py.actors import (
    ActorDown,
    Call,
    Child,
    DynamicSupervisor,
    FailStop,
    Inbox,
    Restart,
    RestartsExhausted,
    StartChild,
    StopChild,
    Strategy,
    Supervisor,
    fail_stop_in,
)
from dledger_py.actors.incarnation import State


@define(eq=False)
class Do(Call[None]):
    """Run `action` inside the actor."""

    action: Callable[[], None] = field(default=lambda: None)


@define
class Recorder:
    """An actor that writes down its own life, and takes its time to be ready and to stop."""

    name: str
    life: list[str]
    ready_after_s: float = 0.0
    stop_takes_s: float = 0.0

    async def run(self, inbox: Inbox[Do]) -> None:
        self.life.append(f"+{self.name}")
        await trio.sleep(self.ready_after_s)
        try:
            async for call in inbox:
                call.action()
                call.reply(None)
            await trio.sleep(self.stop_takes_s)
            self.life.append(f"-{self.name}")
        except trio.Cancelled:
            self.life.append(f"!{self.name}")
            raise

    def statistics(self) -> str:
        return f"record of {self.name}"


def recorder(name: str, life: list[str], **options: Any) -> Child[Do]:
    times = {key: options.pop(key) for key in ("ready_after_s", "stop_takes_s") if key in options}
    return Child(name, lambda: Recorder(name, life, **times), **options)


def crash(error: BaseException | None = None) -> Do:
    def raise_it() -> None:
        raise error or RuntimeError("boom")

    return Do(raise_it)


async def crash_and_settle(child: Child[Do], error: BaseException | None = None) -> None:
    with pytest.raises(ActorDown):
        await child.ref.ask(crash(error))
    await trio.testing.wait_all_tasks_blocked()


async def life_of(
    strategy: Strategy, victim: str, *, restart_of_c: Restart = Restart.ALWAYS
) -> list[str]:
    """What happens to a, b, c when `victim` crashes once."""
    life: list[str] = []
    children = {name: recorder(name, life) for name in "ab"}
    children["c"] = recorder("c", life, restart=restart_of_c)
    tree = Supervisor("tree", tuple(children.values()), strategy)
    async with trio.open_nursery() as nursery:
        await nursery.start(tree.serve)
        life.clear()
        await crash_and_settle(children[victim])
        seen = list(life)
        nursery.cancel_scope.cancel()
    return seen


async def test_children_start_in_order_and_stop_in_reverse(autojump_clock: Any) -> None:
    life: list[str] = []
    tree = Supervisor(
        "tree", [recorder(n, life, ready_after_s=1 / len(n)) for n in ("a", "bb", "ccc")]
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(tree.serve)
        started = list(life)
        nursery.cancel_scope.cancel()

    assert ["+a", "+bb", "+ccc"] == started
    assert ["-ccc", "-bb", "-a"] == life[3:]


async def test_the_next_child_waits_until_the_previous_one_is_ready(autojump_clock: Any) -> None:
    life: list[str] = []
    tree = Supervisor("tree", [recorder("slow", life, ready_after_s=5.0), recorder("next", life)])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tree.serve)
        await trio.sleep(4)
        before = list(life)
        await trio.sleep(2)
        nursery.cancel_scope.cancel()

    assert ["+slow"] == before
    assert ["+slow", "+next"] == life[:2]


async def test_an_actor_that_never_iterates_says_ready_itself(autojump_clock: Any) -> None:
    class Ticker:
        async def run(self, inbox: Inbox[None]) -> None:
            inbox.ready()
            await inbox.wait_closed()

    tree = Supervisor("tree", [Child("ticker", Ticker)])
    async with trio.open_nursery() as nursery:
        await nursery.start(tree.serve)
        stopping_at = trio.current_time()
        nursery.cancel_scope.cancel()

    assert stopping_at == trio.current_time()


@pytest.mark.parametrize(
    "strategy, victim, expected",
    [
        (Strategy.ONE_FOR_ONE, "a", ["+a"]),
        (Strategy.REST_FOR_ONE, "a", ["-c", "-b", "+a", "+b", "+c"]),
        (Strategy.REST_FOR_ONE, "b", ["-c", "+b", "+c"]),
        (Strategy.REST_FOR_ONE, "c", ["+c"]),
        (Strategy.ONE_FOR_ALL, "b", ["-c", "-a", "+a", "+b", "+c"]),
    ],
)
async def test_a_crash_restarts_the_company_in_order(
    strategy: Strategy, victim: str, expected: list[str], autojump_clock: Any
) -> None:
    assert expected == await life_of(strategy, victim)


async def test_a_child_that_is_never_restarted_stays_down_with_its_company(
    autojump_clock: Any,
) -> None:
    life = await life_of(Strategy.ONE_FOR_ALL, "a", restart_of_c=Restart.NEVER)

    assert ["-c", "-b", "+a", "+b"] == life


@pytest.mark.parametrize(
    "restart, returning, expected",
    [
        (Restart.ALWAYS, True, 2),
        (Restart.ALWAYS, False, 2),
        (Restart.ON_FAILURE, True, 1),
        (Restart.ON_FAILURE, False, 2),
        (Restart.NEVER, True, 1),
        (Restart.NEVER, False, 1),
    ],
)
async def test_a_child_comes_back_as_its_record_says(
    restart: Restart, returning: bool, expected: int, autojump_clock: Any
) -> None:
    starts: list[None] = []

    class Once:
        async def run(self, inbox: Inbox[Any]) -> None:
            starts.append(None)
            if len(starts) == 1 and returning:
                return
            if len(starts) == 1:
                raise RuntimeError("boom")
            async for _ in inbox:
                pass

    tree = Supervisor("tree", [Child("once", Once, restart=restart)])
    async with trio.open_nursery() as nursery:
        await nursery.start(tree.serve)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()

    assert expected == len(starts)


async def test_too_many_restarts_end_the_supervisor(autojump_clock: Any) -> None:
    life: list[str] = []
    child, witness = recorder("child", life), recorder("witness", life)
    tree = Supervisor("tree", [witness, child], max_restarts=2, period_s=10)

    with pytest.RaisesGroup(RestartsExhausted) as caught:
        async with trio.open_nursery() as nursery:
            await nursery.start(tree.serve)
            for number in range(3):
                await crash_and_settle(child, RuntimeError(str(number)))

    exhausted = caught.value.exceptions[0]
    assert "'tree' gave up on 'child': more than 2 restarts in 10 s" == str(exhausted)
    assert "RuntimeError('2')" == repr(exhausted.__cause__)
    assert ["+witness", "+child", "+child", "+child", "-witness"] == life


async def test_restarts_spread_over_time_are_forgiven(autojump_clock: Any) -> None:
    life: list[str] = []
    child = recorder("child", life)
    tree = Supervisor("tree", [child], max_restarts=2, period_s=10)
    async with trio.open_nursery() as nursery:
        await nursery.start(tree.serve)
        for _ in range(6):
            await crash_and_settle(child)
            await trio.sleep(6)
        nursery.cancel_scope.cancel()

    assert 6 == tree.statistics().restarts


async def test_a_child_that_cannot_start_exhausts_its_supervisor(autojump_clock: Any) -> None:
    def make() -> Recorder:
        raise OSError("port taken")

    with pytest.RaisesGroup(RestartsExhausted) as caught:
        async with trio.open_nursery() as nursery:
            await nursery.start(Supervisor("tree", [Child("server", make)]).serve)

    assert isinstance(caught.value.exceptions[0].__cause__, OSError)


async def test_after_its_grace_an_actor_is_cancelled(autojump_clock: Any) -> None:
    life: list[str] = []
    tree = Supervisor(
        "tree",
        [
            recorder("quick", life, stop_takes_s=2.0, grace_s=3.0),
            recorder("slow", life, stop_takes_s=60.0, grace_s=3.0),
        ],
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(tree.serve)
        stopping_at = trio.current_time()
        nursery.cancel_scope.cancel()

    assert ["!slow", "-quick"] == life[2:]
    assert 5.0 == pytest.approx(trio.current_time() - stopping_at)


async def test_trees_nest_and_refs_survive_the_restart_of_a_subtree(autojump_clock: Any) -> None:
    life: list[str] = []
    leaf = recorder("leaf", life)
    inner = Child("inner", lambda: Supervisor("inner", (leaf,), max_restarts=0))
    outer = Supervisor("outer", (inner, recorder("last", life)), Strategy.REST_FOR_ONE)
    async with trio.open_nursery() as nursery:
        await nursery.start(outer.serve)
        await crash_and_settle(leaf)  # exhausts inner, which outer restarts with all that follows
        await leaf.ref.ask(Do())
        await trio.testing.wait_all_tasks_blocked()
        seen = list(life)
        nursery.cancel_scope.cancel()

    assert ["+leaf", "+last", "-last", "+leaf", "+last"] == seen


async def test_a_nested_tree_gets_all_the_time_its_children_have(autojump_clock: Any) -> None:
    life: list[str] = []
    leaf = recorder("leaf", life, stop_takes_s=30.0, grace_s=40.0)
    inner = Child("inner", lambda: Supervisor("inner", (leaf,)), grace_s=1.0)
    async with trio.open_nursery() as nursery:
        await nursery.start(Supervisor("outer", (inner,)).serve)
        nursery.cancel_scope.cancel()

    assert ["+leaf", "-leaf"] == life


@pytest.mark.parametrize(
    "wrap",
    [
        lambda stop: stop,
        lambda stop: ExceptionGroup("nursery", [ValueError(), ExceptionGroup("inner", [stop])]),
    ],
    ids=["bare", "in groups"],
)
async def test_a_fail_stop_passes_every_supervisor(wrap: Any, autojump_clock: Any) -> None:
    life: list[str] = []
    leaf = recorder("leaf", life)
    sibling = recorder("sibling", life, stop_takes_s=60.0, grace_s=100.0)
    inner = Child("inner", lambda: Supervisor("inner", (sibling, leaf)))
    witness = recorder("witness", life, stop_takes_s=60.0, grace_s=100.0)
    stop = FailStop("segment 0: the disk is gone")
    start = trio.current_time()

    with pytest.RaisesGroup(pytest.RaisesExc(FailStop, check=lambda error: error is stop)):
        async with trio.open_nursery() as nursery:
            await nursery.start(Supervisor("outer", (witness, inner)).serve)
            await crash_and_settle(leaf, wrap(stop))

    assert ["+witness", "+sibling", "+leaf", "!sibling", "!witness"] == life
    assert start == trio.current_time(), "siblings of a fail-stop are not given time to drain"


async def test_a_fail_stop_during_a_polite_stop_still_ends_the_process(autojump_clock: Any) -> None:
    class LastWords:
        async def run(self, inbox: Inbox[Any]) -> None:
            async for _ in inbox:
                pass
            raise FailStop("the last batch was lost")

    with pytest.RaisesGroup(FailStop):
        async with trio.open_nursery() as nursery:
            await nursery.start(Supervisor("tree", [Child("writer", LastWords)]).serve)
            nursery.cancel_scope.cancel()


def test_a_fail_stop_is_found_in_nested_groups() -> None:
    stop = FailStop("x")

    assert stop is fail_stop_in(BaseExceptionGroup("", [KeyError(), ExceptionGroup("", [stop])]))
    assert fail_stop_in(ExceptionGroup("", [KeyError()])) is None


async def test_an_interrupt_is_no_crash(autojump_clock: Any) -> None:
    life: list[str] = []
    child = recorder("child", life)
    with pytest.RaisesGroup(KeyboardInterrupt):
        async with trio.open_nursery() as nursery:
            await nursery.start(Supervisor("tree", [child]).serve)
            await crash_and_settle(child, KeyboardInterrupt())

    assert ["+child"] == life


async def test_a_stop_interrupts_a_start_that_hangs(autojump_clock: Any) -> None:
    life: list[str] = []
    hanging = recorder("hanging", life, ready_after_s=1e9, grace_s=1.0)
    with trio.move_on_after(10):
        await Supervisor("tree", [recorder("first", life), hanging]).serve()

    assert ["+first", "+hanging", "-first"] == life


async def test_a_dynamic_supervisor_starts_restarts_and_stops_children(autojump_clock: Any) -> None:
    life: list[str] = []
    peers = Child("peers", lambda: DynamicSupervisor("peers"))
    a, b = recorder("a", life), recorder("b", life)
    tree = Supervisor("tree", [peers])
    async with trio.open_nursery() as nursery:
        await nursery.start(tree.serve)
        await peers.ref.ask(StartChild(a))
        await peers.ref.ask(StartChild(b))
        with pytest.raises(ValueError, match="there already"):
            await peers.ref.ask(StartChild(a))
        await crash_and_settle(a)
        await peers.ref.ask(StopChild("b"))
        with pytest.raises(ValueError, match="no child named 'b'"):
            await peers.ref.ask(StopChild("b"))
        await a.ref.ask(Do())
        names = [node.name for node in tree.tree().children[0].children]
        nursery.cancel_scope.cancel()

    assert ["+a", "+b", "+a", "-b", "-a"] == life
    assert ["a"] == names


async def test_a_dynamic_supervisor_gives_up_too(autojump_clock: Any) -> None:
    life: list[str] = []
    peers = Child("peers", lambda: DynamicSupervisor("peers", max_restarts=0))
    a, b = recorder("a", life), recorder("b", life)
    with pytest.RaisesGroup(RestartsExhausted) as caught:
        async with trio.open_nursery() as nursery:
            await nursery.start(Supervisor("tree", [peers], max_restarts=0).serve)
            await peers.ref.ask(StartChild(a))
            await peers.ref.ask(StartChild(b))
            await crash_and_settle(a)

    assert isinstance(caught.value.exceptions[0].__cause__, RestartsExhausted)
    assert ["+a", "+b", "-b"] == life


async def test_the_tree_shows_every_child(autojump_clock: Any) -> None:
    life: list[str] = []
    leaf = recorder("leaf", life)
    tree = Supervisor("outer", [Child("inner", lambda: Supervisor("inner", (leaf,)))])
    async with trio.open_nursery() as nursery:
        await nursery.start(tree.serve)
        await crash_and_settle(leaf)
        await leaf.ref.ask(Do())
        inner = tree.tree().children[0]
        nursery.cancel_scope.cancel()

    shown = inner.children[0]
    assert ("inner", "leaf") == (inner.name, shown.name)
    assert State.RUNNING is shown.state
    assert 2 == shown.incarnations
    assert 2 == shown.messages_taken
    assert "record of leaf" == shown.statistics
    assert State.STOPPED is tree.tree().children[0].state
