"""Several groups behind one listener: stand-ins for their ledgers, and real ones."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import asynccontextmanager

import pytest
import structlog.testing
import trio
import trio.testing

from dledger_py.actors import Child, Supervisor
from dledger_py.ledger import Ledger, LedgerConfig
from dledger_py.ledger.fetch_frames import decode_last_word
from dledger_py.ledger.peer_frames import Hello, encode_hello
from dledger_py.ledger.peer_link import Answering, open_listener
from dledger_py.ledger.reception import Door, Reception
from dledger_py.runtime.host import RealHost
from tests.ledger.conftest import PATIENCE_S, Recorder
from tests.ledger.test_peer_link import FRAME, Inbox


def hello(group: str) -> bytes:
    return encode_hello(Hello(cluster="c", group=group, sender="n1", receiver="n0", incarnation=1))


@pytest.fixture
def reception() -> Iterator[Reception]:
    listener = open_listener("127.0.0.1", 0)
    yield Reception(listener, RealHost())
    listener.close()


@pytest.fixture
def inboxes(reception) -> dict[str, Inbox]:
    """What stand-ins for the ledgers of groups a and b are told."""
    for group in "ab":
        reception.expect(group)
    return {"a": Inbox(), "b": Inbox()}


@asynccontextmanager
async def running(*actors):
    children = [Child(f"actor {n}", lambda actor=actor: actor) for n, actor in enumerate(actors)]
    async with trio.open_nursery() as nursery:
        with trio.fail_after(PATIENCE_S):
            await nursery.start(Supervisor("test", children).serve)
            yield
        nursery.cancel_scope.cancel()


def door(reception, inboxes, group) -> Door:
    return Door(reception, group, lambda hello: inboxes[group])


async def dial(reception) -> trio.SocketStream:
    return await trio.open_tcp_stream(*reception.listener.getsockname())


async def test_frames_reach_the_group_that_their_hello_names(reception, inboxes):
    doors = [door(reception, inboxes, group) for group in "ab"]
    async with running(reception, *doors):
        streams = {group: await dial(reception) for group in "ab"}
        for group, stream in streams.items():
            await stream.send_all(hello(group))
            await inboxes[group].until(lambda group=group: inboxes[group].events)
        for group, stream in streams.items():  # the same sender in both: neither ends the other
            await stream.send_all(FRAME[:-1] + group.encode())
            await inboxes[group].until(lambda group=group: inboxes[group].frames)
        for stream in streams.values():
            await stream.aclose()

    assert {"a": [(b"a", b"")], "b": [(b"b", b"")]} == {g: i.frames for g, i in inboxes.items()}


async def test_a_door_that_closes_ends_the_conversations_behind_it(reception):
    async def echo(hello, conversation):
        while await conversation.receive() is not None:
            await conversation.send(hello.group.encode())

    for group in "ab":
        reception.expect(group)
    doors = [Door(reception, group, lambda hello: Answering(echo)) for group in "ab"]
    async with (
        running(reception, *doors),
        await dial(reception) as of_a,
        await dial(reception) as of_b,
    ):
        for group, stream in {"a": of_a, "b": of_b}.items():
            await stream.send_all(hello(group) + FRAME)
            assert group.encode() == await stream.receive_some(1)
        reception.close("a")
        await of_b.send_all(FRAME)

        assert b"" == await of_a.receive_some(1)
        assert b"b" == await of_b.receive_some(1)


async def test_a_group_that_is_not_here_is_refused(reception, inboxes):
    async with running(reception, *(door(reception, inboxes, group) for group in "ab")):
        stream = await dial(reception)
        await stream.send_all(hello("c"))
        last_word = b"".join([received async for received in stream])
        await stream.aclose()

    assert "'n1' looks for group 'c'; open here: a, b" == decode_last_word(last_word)
    assert [] == inboxes["a"].events + inboxes["b"].events


async def test_nobody_is_let_in_before_every_door_was_open_once(reception, inboxes):
    async with running(reception, door(reception, inboxes, "a")):
        stream = await dial(reception)
        await stream.send_all(hello("a") + FRAME)
        await trio.testing.wait_all_tasks_blocked(0.01)
        before = list(inboxes["a"].events)
        async with running(door(reception, inboxes, "b")):
            await inboxes["a"].until(lambda: inboxes["a"].frames)
        await stream.aclose()

    assert [] == before


async def test_behind_a_closed_door_nobody_reads_and_the_other_group_goes_on(reception, inboxes):
    async with running(reception, door(reception, inboxes, "a")):
        async with running(door(reception, inboxes, "b")):
            streams = {group: await dial(reception) for group in "ab"}
            for group, stream in streams.items():
                await stream.send_all(hello(group))
                await inboxes[group].until(lambda group=group: inboxes[group].events)
        assert b"" == await streams["b"].receive_some(1)
        with structlog.testing.capture_logs() as logged:
            again = await dial(reception)
            await again.send_all(hello("b"))
            assert b"" == await again.receive_some(1)
            await again.aclose()
        await streams["a"].send_all(FRAME)
        await inboxes["a"].until(lambda: inboxes["a"].frames)
        for stream in streams.values():
            await stream.aclose()

    assert ["found n1"] == inboxes["b"].events  # and not that it was lost: who would care?
    assert [] == logged  # a group that stops is nothing to warn of


async def test_a_door_that_closes_in_the_turn_in_which_frames_came_keeps_them_out(
    reception, inboxes
):
    """Both readers are woken together, and the first to run closes the door of the other."""
    doors = [door(reception, inboxes, group) for group in "ab"]
    sockets = {group: socket.create_connection(reception.listener.getsockname()) for group in "ab"}
    others = {"a": "b", "b": "a"}
    async with running(reception, *doors):
        for group, sock in sockets.items():
            sock.sendall(hello(group))
            await inboxes[group].until(lambda group=group: inboxes[group].events)
            inboxes[group].receive = lambda peer, frames, group=group: (
                inboxes[group].frames.extend(frames),
                reception.close(others[group]),
            )
        for sock in sockets.values():
            sock.sendall(FRAME)
        await trio.testing.wait_all_tasks_blocked()
    for sock in sockets.values():
        sock.close()

    assert 1 == len(inboxes["a"].frames + inboxes["b"].frames)


def test_two_groups_of_one_name_are_refused(reception, inboxes):
    with pytest.raises(ValueError, match="two groups named 'a'"):
        reception.expect("a")


async def test_ledgers_of_two_groups_share_a_listener_and_neither_hears_of_the_other(tmp_path):
    nodes = ("n0", "n1", "n2")
    listeners = {node: open_listener("127.0.0.1", 0) for node in nodes}
    peers = {n: "{}:{}".format(*sock.getsockname()) for n, sock in listeners.items()}
    receptions = {node: Reception(sock, RealHost()) for node, sock in listeners.items()}
    ledgers, machines = {}, {}
    for group in "ab":
        for node in nodes:
            machines[group, node] = Recorder()
            ledgers[group, node] = Ledger(
                LedgerConfig(
                    node=node,
                    peers=peers,
                    group=group,
                    data_dir=str(tmp_path / node / group),
                    election_timeout_ms=400,
                    heartbeat_ms=40,
                ),
                machines[group, node],
                reception=receptions[node],
            )
    news = trio.Event()

    def tell(view=None) -> None:
        nonlocal news
        news.set()
        news = trio.Event()

    for ledger in ledgers.values():
        ledger.on_role_change(tell)
        ledger.after_turn(tell)
    async with running(*receptions.values(), *ledgers.values()):
        for group in "ab":
            mine = {node: ledgers[group, node] for node in nodes}
            while not (ready := [m for m in mine.values() if m.view.ready]):
                await news.wait()
            await ready[0].commit(group.encode())
            while any(len(machines[group, node].commands) < 1 for node in nodes):
                await news.wait()
    for sock in listeners.values():
        sock.close()

    assert {key: [key[0].encode()] for key in machines} == {
        key: machine.commands for key, machine in machines.items()
    }
