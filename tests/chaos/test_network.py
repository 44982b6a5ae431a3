"""The network between members: what is held, what is delivered, who is told."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from attrs import define
from trio.testing import MockClock, wait_all_tasks_blocked

from chaos.nemesis.network import Network, Way, open_network

DEADLINE_S = 20
HOLD_S = 0.2  # how long nothing may arrive where nothing should


@define(eq=False)
class Ends:
    """A connection that n0 dialled to n1, through the network."""

    network: Network
    near: trio.SocketStream
    far: trio.SocketStream


@asynccontextmanager
async def connected() -> AsyncIterator[Ends]:
    with trio.fail_after(DEADLINE_S):
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        host, port = listener.socket.getsockname()
        async with listener, open_network() as network:
            address = network.dialled("n0", "n1", f"{host}:{port}")
            assert address == network.dialled("n0", "n1", f"{host}:{port}")
            near = await trio.open_tcp_stream(host, int(address.rpartition(":")[2]))
            far = await listener.accept()
            async with near, far:
                yield Ends(network, near, far)


async def said(speaker: trio.SocketStream, listener: trio.SocketStream, word: bytes) -> bool:
    """Whether a word arrives soon."""
    await speaker.send_all(word)
    with trio.move_on_after(HOLD_S):
        return await heard(listener, len(word)) == word
    return False


async def heard(stream: trio.SocketStream, size: int) -> bytes:
    found = b""
    while len(found) < size and (more := await stream.receive_some(size - len(found))):
        found += more
    return found


async def test_both_directions_are_carried_until_each_side_is_done() -> None:
    async with connected() as ends:
        large = bytes(range(256)) * 4096
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ends.near.send_all, large)
            assert large == await heard(ends.far, len(large))
        await ends.far.send_all(b"answer")
        assert b"answer" == await heard(ends.near, 6)
        await ends.near.send_eof()
        assert b"" == await ends.far.receive_some()


@pytest.mark.parametrize("deaf", [False, True])
async def test_one_direction_is_held_and_the_other_goes_on(deaf: bool) -> None:
    async with connected() as ends:
        blocked, open_ = (ends.near, ends.far), (ends.far, ends.near)
        if deaf:
            blocked, open_ = open_, blocked
        ends.network.cut_off("n0", ["n1"], outwards=not deaf, inwards=deaf)

        assert not await said(*blocked, b"first")
        assert not await said(*blocked, b"second")
        assert await said(*open_, b"word")
        ends.network.heal()
        assert b"firstsecond" == await heard(blocked[1], 11)


async def test_who_dials_into_a_closed_way_is_not_told_and_gets_through_later() -> None:
    with trio.fail_after(DEADLINE_S):
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        host, port = listener.socket.getsockname()
        async with listener, open_network() as network:
            address = network.dialled("n0", "n1", f"{host}:{port}")
            network.cut_off("n0", ["n1"])
            async with await trio.open_tcp_stream(host, int(address.rpartition(":")[2])) as near:
                await near.send_all(b"hello")
                with trio.move_on_after(HOLD_S) as waiting:
                    await listener.accept()
                assert waiting.cancelled_caught
                network.heal()
                async with await listener.accept() as far:
                    assert b"hello" == await heard(far, 5)


async def test_broken_connections_are_reset_on_both_sides() -> None:
    async with connected() as ends:
        ends.network.break_connections("n2")  # somebody else's
        assert await said(ends.near, ends.far, b"word")
        ends.network.break_connections("n1")

        for stream in (ends.near, ends.far):
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()


async def test_a_dead_peer_is_seen_through_the_network() -> None:
    async with connected() as ends:
        await ends.far.aclose()

        assert b"" == await ends.near.receive_some()


async def test_what_was_said_arrives_after_its_delay(autojump_clock: MockClock) -> None:
    way = Way(delay_s=3.0)
    start = trio.current_time()
    await way.wait_arrival(start, 10)
    delayed = trio.current_time() - start
    await way.wait_arrival(start, 10)
    again = trio.current_time() - start

    assert (3.0, 3.0) == (delayed, again)  # a delay is no limit to how much is under way


async def test_a_slow_way_carries_so_many_bytes_a_second(autojump_clock: MockClock) -> None:
    way = Way(bytes_per_s=1000)
    start = trio.current_time()
    for _ in range(3):
        await way.wait_arrival(start, 500)

    assert 1.5 == trio.current_time() - start


async def test_a_closed_way_holds_what_was_sent_before_it_closed() -> None:
    way = Way()
    arrived = trio.Event()

    async def travel() -> None:
        await way.wait_arrival(trio.current_time(), 1)
        arrived.set()

    async with trio.open_nursery() as nursery:
        way.close()
        nursery.start_soon(travel)
        await wait_all_tasks_blocked()
        way.open()
        way.close()
        await wait_all_tasks_blocked()
        held = not arrived.is_set()
        way.open()

    assert held
    assert arrived.is_set()
