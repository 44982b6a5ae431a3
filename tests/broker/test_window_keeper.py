"""The window begins, is filled and ends with leadership: a member without a log, and real ones."""

import threading
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from attrs import define, field

from broker.serving.window_keeper import WindowKeeper
from broker.store.put_window import PutWindow
from broker.store.put_window import _place as place_of
from dledger_py.actors import Child, FailStop, Supervisor, fail_stop_in
from dledger_py.ledger.machine import RoleView
from dledger_py.ledger.reopening import Reopen
from dledger_py.storage import Corrupt
from tests.broker.broker_kit import brokers, dial
from tests.broker.test_duplicates_group import count_stored, send_one


def view(role: str = "leader", term: int = 3, *, ready: bool = False) -> RoleView:
    return RoleView(role=role, term=term, leader="n0", ready=ready)


@define(eq=False)
class Files:
    """A ledger's log, as far as the keeper looks at it."""

    first_index: int = 1
    readable_position: int = 700


@define(eq=False)
class Ledger:
    log: Files = field(factory=Files)
    applied_index: int = 7
    committed_position: int = 700


@define(eq=False)
class Threads:
    """Reads begin and end as a test says."""

    begun: trio.Event = field(factory=trio.Event)
    may_end: trio.Event = field(factory=trio.Event)
    read: list[tuple[int, int]] = field(factory=list)
    error: Exception | None = None

    async def run_in_thread(self, look_back: Any, *, abandon_on_cancel: bool) -> None:
        assert abandon_on_cancel
        older, (first, last, _commands, _age_max_ms) = look_back.func.__self__, look_back.args
        self.read.append((first, last))
        self.begun.set()
        await self.may_end.wait()
        if self.error is not None:
            raise self.error
        older._put({last: place_of(last, 1)})


@define(eq=False)
class Kept:
    keeper: WindowKeeper
    ledger: Ledger
    threads: Threads
    filled: trio.Event

    @property
    def window(self) -> PutWindow:
        return self.keeper.window

    async def next_read(self) -> None:
        await self.threads.begun.wait()
        self.threads.begun = trio.Event()


@asynccontextmanager
async def running():
    ledger, threads, filled = Ledger(), Threads(), trio.Event()
    keeper = WindowKeeper(
        window=PutWindow(10),
        age_max_ms=1000,
        ledger=ledger,
        host=threads,
        filled=filled.set,
    )
    supervisor = Supervisor("test", (Child("window", lambda: keeper),))
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.serve)
        yield Kept(keeper, ledger, threads, filled)
        nursery.cancel_scope.cancel()


async def test_it_begins_with_the_term_and_is_full_once_the_log_was_read() -> None:
    async with running() as kept:
        kept.keeper.role_changed(view())
        await kept.next_read()
        assert [(1, 7)] == kept.threads.read
        assert (True, False) == (kept.window.kept, kept.keeper.full)
        kept.keeper.role_changed(view(ready=True))
        kept.threads.may_end.set()
        await kept.filled.wait()
        assert (True, 1) == (kept.keeper.full, len(kept.window))
    assert [(1, 7)] == kept.threads.read, "a term is read for once"


async def test_it_ends_with_leadership() -> None:
    async with running() as kept:
        kept.threads.may_end.set()
        kept.keeper.role_changed(view())
        await kept.filled.wait()
        kept.keeper.role_changed(view("follower", 4))
        assert (False, False, 0) == (kept.window.kept, kept.keeper.full, len(kept.window))
        kept.keeper.role_changed(view("candidate", 5))
        await trio.testing.wait_all_tasks_blocked()
    assert 1 == len(kept.threads.read)


async def test_what_was_read_for_a_term_that_is_over_is_thrown_away() -> None:
    async with running() as kept:
        kept.keeper.role_changed(view(term=3))
        await kept.next_read()
        kept.keeper.role_changed(view("follower", 4))
        kept.ledger.applied_index, kept.ledger.committed_position = 9, 900
        kept.ledger.log.readable_position = 900
        kept.keeper.role_changed(view(term=5))
        assert not kept.filled.is_set()
        kept.threads.may_end.set()
        await kept.filled.wait()
        assert [(1, 7), (1, 9)] == kept.threads.read
        assert ((9, 1), None) == (kept.window.find(9), kept.window.find(7))


async def test_who_led_and_leads_again_in_one_step_reads_again() -> None:
    async with running() as kept:
        kept.threads.may_end.set()
        kept.keeper.role_changed(view(term=3))
        await kept.filled.wait()
        await kept.next_read()
        kept.keeper.role_changed(view(term=5))
        assert (False, 0) == (kept.keeper.full, len(kept.window))
        await kept.next_read()
        await trio.testing.wait_all_tasks_blocked()
        assert kept.keeper.full


async def test_what_is_not_in_the_files_yet_is_waited_for(autojump_clock) -> None:
    async with running() as kept:
        kept.threads.may_end.set()
        kept.ledger.log.readable_position = 699
        kept.keeper.role_changed(view())
        await trio.sleep(1)  # virtual
        assert not kept.threads.read
        kept.ledger.log.readable_position = 700
        await kept.filled.wait()
    assert [(1, 7)] == kept.threads.read


async def test_what_was_stored_long_ago_is_found_no_more(autojump_clock) -> None:
    async with running() as kept:  # a message counts for a second
        kept.threads.may_end.set()
        await trio.sleep(5)  # virtual
        kept.keeper.role_changed(view())
        await kept.filled.wait()
        await trio.sleep(0.99)
        kept.ledger.committed_position = 800
        assert 0 == kept.window.oldest_position, "how long before the term it stood, nobody knows"
        await trio.sleep(0.15)
        assert 700 == kept.window.oldest_position
        await trio.sleep(0.85)
        assert 700 == kept.window.oldest_position
        await trio.sleep(0.15)
        assert 800 == kept.window.oldest_position

        kept.keeper.role_changed(view(term=4))
        await trio.sleep(0.99)
        assert 0 == kept.window.oldest_position


@pytest.mark.parametrize(
    ("error", "kind"), [(Corrupt("log", 0, "bits"), Reopen), (OSError("disk"), FailStop)]
)
async def test_a_log_that_cannot_be_read_ends_the_member(error, kind) -> None:
    async def lead() -> None:
        async with running() as kept:
            kept.threads.error = error
            kept.threads.may_end.set()
            kept.keeper.role_changed(view())
            await trio.sleep_forever()

    with pytest.raises(BaseExceptionGroup) as raised:
        await lead()
    assert type(fail_stop_in(raised.value)) is kind


async def test_a_new_leader_serves_nobody_before_it_knows_what_was_sent(
    tmp_path, monkeypatch
) -> None:
    begun, may_end = threading.Event(), threading.Event()
    look_back = PutWindow.look_back

    def held_back(window: PutWindow, *arguments: Any) -> None:
        begun.set()
        assert may_end.wait(20)
        look_back(window, *arguments)

    async with brokers(tmp_path, 3) as group:
        await group.start()
        leader = await group.wait_leader()
        followers = await group.wait_followers()
        async with dial(leader) as client:
            before = await send_one(client, 1)
        monkeypatch.setattr(PutWindow, "look_back", held_back)
        await group.stop(leader.node)
        await trio.to_thread.run_sync(begun.wait)
        async with dial(followers[0]) as client, trio.open_nursery() as nursery:
            answers: list[Any] = []

            async def send_again() -> None:
                answers.append(await send_one(client, 1, queue_id=1))

            nursery.start_soon(send_again)
            while not any(member.broker.ledger.view.ready for member in followers):
                await trio.lowlevel.checkpoint()
            unready = [member.leads for member in followers]
            waiting = not answers
            may_end.set()
        async with dial(followers[0]) as client:
            stored = await count_stored(client)

    assert [False, False] == unready
    assert waiting
    assert [before] == answers
    assert 1 == stored
