"""Registering with real name servers: who leads, under which term, and what survives what."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from dledger_py.client.connection import open_connection
from dledger_py.client.errors import ClientError
from dledger_py.cluster.ports import PortReservations
from dledger_py.remoting.commands.json_bodies import parse
from dledger_py.remoting.commands.routing import GetRoute
from dledger_py.remoting.commands.topics import CreateTopic
from namesrv.app import NameServer
from namesrv.config import NamesrvConfig
from tests.broker.broker_kit import PATIENCE_S, brokers, dial, send


@asynccontextmanager
async def name_server(folder: Path, port: int) -> AsyncIterator[NameServer]:
    async with trio.open_nursery() as nursery:
        made = NameServer(NamesrvConfig(listen=f"127.0.0.1:{port}", data_dir=folder / "namesrv"))
        await nursery.start(made.run)
        yield made
        nursery.cancel_scope.cancel()


async def route(port: int, topic: str, wanted) -> dict[str, str]:
    """The brokers of a topic by id, as soon as they are what is wanted."""
    with trio.fail_after(PATIENCE_S):
        async with open_connection("127.0.0.1", port) as connection:
            while True:
                try:
                    answer = await connection.call(GetRoute(topic=topic))
                except ClientError:
                    continue
                (broker,) = parse(answer.body)["brokerDatas"]
                if wanted(broker["brokerAddrs"]):
                    return broker["brokerAddrs"]


async def test_the_leader_is_id_0_and_followers_have_their_numbers(tmp_path) -> None:
    ports = PortReservations()
    port = ports.take_any()
    async with (
        name_server(tmp_path, port),
        brokers(tmp_path, 3, namesrv=(f"127.0.0.1:{port}",)) as group,
    ):
        await group.start()
        leader = await group.wait_leader()
        ids = {str(int(node[1:]) + 1) for node in group.names if node != leader.node}
        first = await route(port, "TBW102", lambda addresses: set(addresses) == {"0"} | ids)
        async with dial(leader) as client:
            await send(client, "fresh")
        created = await route(port, "fresh", lambda addresses: "0" in addresses)
        await group.wait_applied_alike()
        await group.stop(leader.node)
        second = await group.wait_leader()
        address = second.broker.config.advertised
        moved = await route(port, "TBW102", lambda addresses: addresses.get("0") == address)
        term = second.broker.ledger.view.term
    ports.close()

    assert leader.broker.config.advertised == first["0"] == created["0"]
    assert 2 == len(moved)
    assert term > 1


async def test_a_name_server_that_restarts_is_told_everything_again(tmp_path) -> None:
    ports = PortReservations()
    port = ports.take_any()
    async with brokers(tmp_path, 1, namesrv=(f"127.0.0.1:{port}",)) as group:
        await group.start()  # with no name server there yet
        member = await group.wait_leader()
        async with dial(member) as client:
            await client.call(CreateTopic(topic="t", read_queue_nums=1, write_queue_nums=1, perm=6))
        for _ in range(2):
            async with name_server(tmp_path, port):
                await member.broker.registrar.wait_registered()
                found = await route(port, "t", lambda addresses: "0" in addresses)
        registered = member.broker.registrar.statistics().name_servers
    ports.close()

    assert member.broker.config.advertised == found["0"]
    assert 1 == registered


async def test_a_follower_never_registers_as_the_leader(tmp_path) -> None:
    async with brokers(tmp_path, 1) as group:
        await group.start()
        member = await group.wait_leader()
        registrar = member.broker.registrar
        leading, _body = registrar._registration()
        view = registrar.view()
        registrar.view = lambda: type(view)(role="leader", term=9, leader="n0", ready=False)
        not_ready, body = registrar._registration()
        table = parse(body)["topicConfigSerializeWrapper"]

    assert (0, 1) == (leading.broker_id, not_ready.broker_id)
    assert 9 == table["dataVersion"]["stateVersion"]


async def test_another_founding_does_not_get_the_name_of_a_group_that_is_there(tmp_path) -> None:
    """Both have the same names and are of one member: only the folders differ."""
    ports = PortReservations()
    port = ports.take_any()
    for name in ("ours", "stray"):
        (tmp_path / name).mkdir()
    async with (
        name_server(tmp_path, port),
        brokers(tmp_path / "ours", 1, namesrv=(f"127.0.0.1:{port}",)) as ours,
        brokers(tmp_path / "stray", 1, namesrv=(f"127.0.0.1:{port}",)) as stray,
    ):
        await ours.start()
        first = await ours.wait_leader()
        await first.broker.registrar.wait_registered()
        await stray.start()
        second = await stray.wait_leader()
        refused = second.broker.registrar._refused
        await stray.wait_until(lambda: refused)
        taken = await route(port, "TBW102", lambda addresses: True)
        (reason,) = refused.values()
        await ours.stop(first.node)
        with trio.fail_after(PATIENCE_S):
            await second.broker.registrar.wait_registered()
        free = await route(port, "TBW102", lambda addresses: True)
    ports.close()

    assert {"0": first.broker.config.advertised} == taken
    assert first.broker.config.advertised in reason
    assert {"0": second.broker.config.advertised} == free


async def test_the_members_of_a_group_tell_the_same_folders(tmp_path) -> None:
    async with brokers(tmp_path, 3) as group:
        await group.start()
        leader = await group.wait_leader()
        known = {name: each.broker.ledger.members for name, each in group.members.items()}
        await group.wait_until(lambda: all(len(each.folders()) == 3 for each in known.values()))
        folders = {each.folders() for each in known.values()}

    assert {tuple(sorted(each.own.birth for each in known.values()))} == folders
    assert leader.broker.registrar.ledger_folders() in folders
