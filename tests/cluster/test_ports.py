"""Ports that are ours although nobody listens on them."""

import os
import socket
from collections.abc import Iterator

import pytest

from dledger_py.cluster.errors import PortTaken
from dledger_py.cluster.ports import PortReservations, holder_of


@pytest.fixture
def reservations() -> Iterator[PortReservations]:
    held = PortReservations()
    yield held
    held.close()


def listener(port: int = 0) -> socket.socket:
    return socket.create_server(("127.0.0.1", port))


def test_a_reserved_port_can_be_served_again_and_again(reservations: PortReservations) -> None:
    port = reservations.take_any()

    for _ in range(2):
        with listener(port) as server, socket.create_connection(("127.0.0.1", port)):
            server.accept()[0].close()


def test_two_servers_cannot_listen_on_one_reserved_port(reservations: PortReservations) -> None:
    port = reservations.take_any()

    with listener(port), pytest.raises(OSError, match="in use"):
        listener(port)


def test_a_reserved_port_is_given_to_nobody_else(reservations: PortReservations) -> None:
    port = reservations.take_any()

    with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
        stranger.bind(("127.0.0.1", port))


def test_the_vip_port_is_reserved_together_with_its_broker_port(
    reservations: PortReservations,
) -> None:
    port = reservations.take_any_with_vip()

    with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
        stranger.bind(("127.0.0.1", port - 2))
    with listener(port), listener(port - 2):
        pass


def test_no_pair_shares_a_port_with_another(reservations: PortReservations) -> None:
    """So many that the port below one of them is surely the upper one of another."""
    upper = [reservations.take_any_with_vip() for _ in range(300)]

    assert len({*upper, *(port - 2 for port in upper)}) == 600


def test_a_taken_port_is_explained(reservations: PortReservations) -> None:
    with listener() as other:
        port = other.getsockname()[1]

        with pytest.raises(PortTaken) as caught:
            reservations.take(port, what="the name server")

    assert f"port {port} for the name server is taken by pid {os.getpid()} (" in str(caught.value)
    assert "--namesrv-port" in caught.value.hint
    assert "--ports free" in str(caught.value)


def test_a_free_port_has_no_holder(reservations: PortReservations) -> None:
    assert holder_of(reservations.take_any()) is None


def test_all_of_several_ports_are_taken_or_none(reservations: PortReservations) -> None:
    free = reservations.take_any()
    reservations.release(free)
    with listener() as other:
        taken = other.getsockname()[1]

        assert not reservations.take_if_free([free, taken])

    assert reservations.take_if_free([free])
