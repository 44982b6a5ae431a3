"""Several groups on the same nodes, with a real name server and stand-ins for brokers."""

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from attrs import define, field

from broker.config import BrokerConfig
from dledger_py.client.connection import open_connection, parse_address
from dledger_py.cluster.attached import AttachedCluster
from dledger_py.cluster.errors import ClusterError, NoLeader
from dledger_py.cluster.layout import group_names, reserve_fixed
from dledger_py.cluster.local import LocalCluster
from dledger_py.cluster.state import known_ports, read_state
from dledger_py.remoting.commands import routing
from dledger_py.runtime.settings import load

GROUPS = ("broker-a", "broker-b", "broker-c")


def cluster(directory: Path, *, nodes: int = 2, groups: int = 3) -> LocalCluster:
    modules = {"namesrv": "namesrv", "broker": "standin_server"}
    return LocalCluster(directory, modules=modules, nodes=nodes, groups=groups, grace_s=20.0)


@asynccontextmanager
async def registered(running: LocalCluster, leaders: dict[str, str]) -> AsyncIterator[None]:
    """These lead, as far as the name server knows."""
    wrapper = (
        b'{"topicConfigSerializeWrapper":{"dataVersion":{"stateVersion":1},"topicConfigTable":{}}}'
    )
    async with open_connection(*parse_address(running.namesrv_address)) as connection:
        for group, node in leaders.items():
            request = routing.RegisterBroker(
                broker_name=group,
                broker_addr=running.layout.group_addresses(group)[node],
                cluster_name="DefaultCluster",
                broker_id=0,
            )
            await connection.call(request, wrapper)
        yield


async def test_each_node_has_a_member_of_each_group_on_a_port_of_its_own(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with cluster(tmp_path).running() as running:
            places = running.layout.members
            for address in (address for place in places for address in place.addresses):
                socket.create_connection(parse_address(address)).close()
            config = load(BrokerConfig, tmp_path / "n1.toml")

    n0, n1 = places
    for number, each in enumerate(config.by_group()):
        assert each.broker_name == GROUPS[number]
        assert each.members == {"n0": n0.addresses[number], "n1": n1.addresses[number]}
        assert each.listen == n1.addresses[number]
        assert each.ledger.peers == {"n0": n0.peer_address, "n1": n1.peer_address}
        assert each.data_dir == tmp_path / "n1" / each.broker_name
    preferred = [each.preferred_leader for each in config.by_group()]
    assert preferred == ["n0", "n1", "n0"]
    assert len({port for place in places for port in place.ports}) == 6


async def test_leaders_are_told_and_waited_for_by_group(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with cluster(tmp_path).running() as running:
            nobody = await running.leaders()
            async with registered(running, {"broker-a": "n0", "broker-b": "n1"}):
                some = await running.leaders()
                second = await running.wait_leader(group="broker-b")
                with pytest.raises(NoLeader):
                    await running.wait_leaders(timeout_s=0.2)
                async with registered(running, {"broker-c": "n0"}):
                    every = await running.wait_leaders()
                    preferred = await running.wait_preferred()
                    with pytest.raises(NoLeader, match="other than n1"):
                        await running.wait_leaders(timeout_s=0.2, other_than="n1")
                    attached = AttachedCluster.find(tmp_path)
                    found = attached.node_at(running.layout.group_addresses("broker-c")["n1"])
                    killed = await running.kill_leader(group="broker-b")
                    after = await running.leaders()
                    waited = await running.wait_preferred(timeout_s=0.2)

    assert nobody == dict.fromkeys(GROUPS)
    assert some == {"broker-a": "n0", "broker-b": "n1", "broker-c": None}
    assert every == {"broker-a": "n0", "broker-b": "n1", "broker-c": "n0"}
    assert after == {"broker-a": "n0", "broker-b": None, "broker-c": "n0"}
    assert (second, killed, found) == ("n1", "n1", "n1")
    assert (preferred, waited) == (True, False)


async def test_an_unknown_group_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with cluster(tmp_path, nodes=1).running() as running:
            with pytest.raises(ClusterError, match="no group 'x': there are broker-a, broker-b"):
                await running.leader(group="x")


async def test_the_next_cluster_has_the_same_addresses_and_only_the_same_groups(
    tmp_path: Path,
) -> None:
    addresses = []
    with trio.fail_after(60):
        for _ in range(2):
            async with cluster(tmp_path).running() as running:
                addresses.append([(p.addresses, p.peer_port) for p in running.layout.members])
        with pytest.raises(
            ClusterError, match="belongs to groups broker-a, broker-b, broker-c, not to group bro"
        ):
            async with cluster(tmp_path, groups=1).running():
                raise AssertionError("not reached")

    assert addresses[0] == addresses[1]


@pytest.mark.parametrize("groups", [0, 10])
async def test_a_senseless_number_of_groups_is_refused(tmp_path: Path, groups: int) -> None:
    with pytest.raises(ClusterError, match="1 to 9 are possible"):
        async with cluster(tmp_path, groups=groups).running():
            raise AssertionError("not reached")


@pytest.mark.parametrize(
    "first, count, expected",
    [
        ("broker-a", 3, GROUPS),
        ("broker-a", 1, ("broker-a",)),
        ("orders", 1, ("orders",)),
        ("orders", 2, ("orders-a", "orders-b")),
    ],
)
def test_groups_are_named_by_letters(first: str, count: int, expected: tuple[str, ...]) -> None:
    assert group_names(first, count) == expected


@define
class Reservations:
    """Takes every port."""

    host: str = "127.0.0.1"
    taken: list[int] = field(factory=list)

    def take(self, port: int, *, what: str) -> int:
        assert port not in self.taken, f"port {port} for {what}"
        self.taken.append(port)
        return port


def test_fixed_ports_of_nine_nodes_with_nine_groups_do_not_meet() -> None:
    reservations = Reservations()
    nodes = tuple(f"n{number}" for number in range(9))
    _, members = reserve_fixed(
        reservations,  # type: ignore[arg-type]
        nodes,
        groups=9,
        namesrv_port=9876,
        base_port=10911,
    )

    assert members[0].ports[:3] == (10911, 11011, 11111)
    assert members[1].ports[:3] == (10921, 11021, 11121)
    assert [member.peer_port for member in members[:2]] == [10912, 10922]


def test_a_state_file_that_knows_of_no_groups_means_one(tmp_path: Path) -> None:
    server = {"peer_address": "127.0.0.1:3", "log_path": "x.log", "process": None}
    document = {
        "version": 1,
        "keeper": {"pid": 1, "start_ticks": 1, "boot": "another"},
        "cluster_name": "DefaultCluster",
        "broker_name": "broker-z",
        "servers": [
            {**server, "name": "namesrv", "address": "127.0.0.1:1"},
            {**server, "name": "n0", "address": "127.0.0.1:2"},
        ],
    }
    (tmp_path / "cluster.json").write_text(json.dumps(document))
    state = read_state(tmp_path)

    assert state.broker_names == ("broker-z",)
    assert state.namesrv.groups == {}
    assert known_ports(tmp_path)["n0"].ports == (2,)
