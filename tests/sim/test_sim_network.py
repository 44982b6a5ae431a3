"""The simulated network: what it owes to those who simulate on it."""

import errno
from contextlib import suppress
from random import Random

import pytest
import trio

from chaos.sim.nodes.network import Network, SimSocket, Weather
from chaos.sim.nodes.scheduling import Agenda, clock_of

HERE, THERE = "10.0.0.1", "10.0.0.2"
BUFFER_BYTES = 100


async def connected(network: Network, agenda: Agenda) -> tuple[SimSocket, SimSocket]:
    async def pause(pause_s: float) -> None:
        await trio.sleep(pause_s)

    listener = network.socket(THERE)
    listener.bind((THERE, 1))
    listener.listen(8)
    sock = await network.dial(HERE, (THERE, 1), pause)
    return sock, listener.backlog.popleft()


def send_all_it_takes(sock: SimSocket) -> None:
    with suppress(BlockingIOError):
        while True:
            sock.send(bytes(10))


@pytest.mark.parametrize("mended", [True, False], ids=["mended in time", "never mended"])
def test_who_sends_to_what_is_gone_is_told_once_that_is_possible(mended: bool) -> None:
    """Its buffer is full by then: it says nothing more by itself."""
    agenda = Agenda()
    network = Network(agenda, Random(1), Weather(buffer_bytes=BUFFER_BYTES))

    async def scene() -> int:
        sock, other = await connected(network, agenda)
        sock.setsockopt(6, 18, 5000)  # TCP_USER_TIMEOUT
        network.cut((THERE, HERE))
        other.close()
        send_all_it_takes(sock)
        await trio.sleep(3.0)
        assert not sock.error
        if mended:
            network.mend((THERE, HERE))
            await trio.sleep(2.5)
        else:
            await trio.sleep(1.9)
            assert not sock.error
            await trio.sleep(0.5)
        return sock.error

    found = trio.run(scene, clock=clock_of(agenda))
    assert (errno.ECONNRESET if mended else errno.ETIMEDOUT) == found
