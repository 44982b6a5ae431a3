"""One direction between two members, on real sockets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import asynccontextmanager
from random import Random

import pytest
import trio

from dledger_py.actors import Child, Supervisor
from dledger_py.ledger.peer_frames import Hello, encode_hello
from dledger_py.ledger.peer_link import PeerLink, PeerListener, open_listener
from dledger_py.runtime.host import RealHost

HELLO = encode_hello(Hello(cluster="c", group="g", sender="a", receiver="b", incarnation=1))
FRAME = b"\0\0\0\x05" + b"\0\0\0\x01" + b"\x80"


class Inbox:
    """What a listener reports, remembered."""

    def __init__(self):
        self.frames = []
        self.events = []
        self.news = trio.Event()

    def receive(self, peer, frames):
        self.frames += frames
        self._tell()

    def found(self, hello):
        self.events.append(f"found {hello.sender}")
        self._tell()

    def lost(self, peer):
        self.events.append(f"lost {peer}")
        self._tell()

    def _tell(self):
        self.news.set()
        self.news = trio.Event()

    async def until(self, condition):
        with trio.fail_after(20):
            while not condition():
                await self.news.wait()


@pytest.fixture
def listener() -> Iterator:
    sock = open_listener("127.0.0.1", 0)
    yield sock
    sock.close()


def link_to(sock, lost, **settings):
    return PeerLink(
        "b",
        [sock.getsockname()],
        lambda: HELLO,
        **{
            "buffer_max_bytes": 1 << 20,
            "connect_timeout_s": 1.0,
            "redial_max_s": 0.1,
            "host": RealHost(Random(0)),
            "on_lost": lost.append,
            **settings,
        },
    )


@asynccontextmanager
async def running(**actors):
    children = [
        Child(name.replace("_", " "), lambda actor=actor: actor) for name, actor in actors.items()
    ]
    async with trio.open_nursery() as nursery:
        await nursery.start(Supervisor("test", children).serve)
        yield
        nursery.cancel_scope.cancel()


async def connected(link):
    with trio.fail_after(20):
        while not link.statistics().connected:
            await trio.lowlevel.checkpoint()


async def test_frames_arrive_in_order_after_the_hello(listener):
    inbox = Inbox()
    link = link_to(listener, [])
    acceptor = PeerListener(listener, lambda hello: inbox, RealHost())
    async with running(acceptor=acceptor, link=link):
        await connected(link)
        for number in range(40):
            link.send([FRAME[:-1], bytes([number])])
        link.flush()
        await inbox.until(lambda: len(inbox.frames) == 40)
        assert ["found a"] == inbox.events

    assert [(bytes([number]), b"") for number in range(40)] == inbox.frames


async def test_what_the_socket_does_not_take_follows_and_what_is_over_the_bound_is_dropped(
    listener,
):
    link = link_to(listener, [], buffer_max_bytes=3 << 20)
    async with running(link=link):
        await connected(link)
        body = bytes(1 << 20)
        head = (len(body) + 5).to_bytes(4, "big") + b"\0\0\0\x01\x80"
        for _ in range(50):  # nobody reads yet
            link.send([head, body])
            link.flush()
        full = link.statistics()
        inbox = Inbox()
        acceptor = PeerListener(listener, lambda hello: inbox, RealHost())
        async with running(acceptor=acceptor):
            await inbox.until(lambda: len(inbox.frames) == full.frames_sent)
            after = link.statistics()

    assert full.frames_dropped > 30
    assert 50 == full.frames_sent + full.frames_dropped
    assert full.buffered_bytes < 5 << 20
    assert 0 == after.buffered_bytes
    assert {(b"\x80", body)} == set(inbox.frames)  # none was torn


async def test_a_broken_connection_is_told_at_once_and_dialled_again(listener):
    lost = []
    link = link_to(listener, lost)
    async with running(link=link):
        for count in (1, 2, 3):
            await trio.lowlevel.wait_readable(listener)
            sock, _ = listener.accept()
            await connected(link)
            sock.close()
            with trio.fail_after(20):
                while len(lost) < count:
                    await trio.lowlevel.checkpoint()

    assert ["b", "b", "b"] == lost


async def test_without_a_connection_frames_are_dropped_and_counted(listener):
    link = link_to(listener, [])
    link.send([FRAME])
    link.flush()

    assert 1 == link.statistics().frames_dropped


async def test_a_peer_that_was_seen_is_dialled_without_waiting(listener):
    port = listener.getsockname()
    link = link_to(listener, [], redial_max_s=10_000.0)
    listener.close()
    async with running(link=link):
        with trio.fail_after(20):
            while link.statistics().dials < 1:
                await trio.lowlevel.checkpoint()
            again = open_listener(port[0], port[1])
            while not link.statistics().connected:
                link.dial_now()
                await trio.lowlevel.checkpoint()
        again.close()


async def test_a_silent_stranger_is_shown_out_in_the_end(listener, monkeypatch):
    monkeypatch.setattr("dledger_py.ledger.peer_link.HELLO_TIMEOUT_S", 0.01)
    inbox = Inbox()
    async with running(acceptor=PeerListener(listener, lambda hello: inbox, RealHost())):
        stream = await trio.open_tcp_stream(*listener.getsockname())
        with trio.fail_after(20):
            assert b"" == await stream.receive_some(1)
        await stream.aclose()

    assert [] == inbox.events


async def test_strangers_beyond_the_bound_are_closed_at_once(listener, monkeypatch):
    monkeypatch.setattr("dledger_py.ledger.peer_link.STRANGERS_LIMIT", 2)
    inbox = Inbox()
    async with running(acceptor=PeerListener(listener, lambda hello: inbox, RealHost())):
        streams = [await trio.open_tcp_stream(*listener.getsockname()) for _ in range(3)]
        with trio.fail_after(20):
            assert b"" == await streams[2].receive_some(1)
        await streams[0].send_all(HELLO)
        await inbox.until(lambda: inbox.events == ["found a"])
        for stream in streams:
            await stream.aclose()
