"""What operators ask and change, by `dledger_py.admin`, of a real broker."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from attrs import define

from dledger_py.admin import Admin, UnknownName, groups, messages, settings
from dledger_py.admin.messages import Standing
from dledger_py.admin.reading import stored_between
from dledger_py.client import Client, connect
from dledger_py.client.errors import ResponseError
from dledger_py.remoting.wire.message import offset_message_id, pack_host
from namesrv.app import NameServer
from namesrv.config import NamesrvConfig
from tests.broker.broker_kit import PATIENCE_S, Member, brokers


@define
class Scene:
    """A broker, its name server, and who asks."""

    admin: Admin
    client: Client
    leader: Member


@asynccontextmanager
async def scene(folder: Path, topic: str = "orders") -> AsyncIterator[Scene]:
    server = NameServer(NamesrvConfig(listen="127.0.0.1:0", data_dir=folder))
    async with trio.open_nursery() as nursery:
        ((_, port),) = await nursery.start(server.run)
        name_server = f"127.0.0.1:{port}"
        async with brokers(folder, 1, namesrv=(name_server,)) as group:
            await group.start()
            leader = await group.wait_leader()
            await leader.broker.registrar.wait_registered()
            admin = Admin(name_server)
            await admin.update_topic(topic, cluster="DefaultCluster", read_queues=2, write_queues=2)
            with trio.fail_after(PATIENCE_S):
                while topic not in await admin.topic_list():
                    pass
            async with connect(name_server) as client:
                yield Scene(admin, client, leader)
        nursery.cancel_scope.cancel()


async def test_a_message_is_found_in_every_way(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        first = await at.client.send("orders", b"one", keys=["k1"], tag="paid", queue=0)
        await at.client.send("orders", b"two", keys=["k1"], queue=1)
        by_key = await messages.by_key(at.admin, "orders", "k1")
        (by_unique,) = await messages.by_id(at.admin, "orders", first.message_id)
        (by_offset,) = await messages.by_id(at.admin, "orders", first.offset_message_id)
        stored_ms = round(by_offset.stored_at.timestamp() * 1000)
        all_of_it = [each.body async for each in stored_between(at.client, "orders", 0, 2**63 - 1)]
        paid = [
            each.body
            async for each in stored_between(at.client, "orders", stored_ms, stored_ms, tags="paid")
        ]
        before = [each async for each in stored_between(at.client, "orders", 0, stored_ms - 1)]

    assert {b"one", b"two"} == {each.body for each in by_key}
    assert by_unique == by_offset
    assert ([b"one", b"two"], [b"one"], []) == (all_of_it, paid, before)


async def test_groups_are_made_moved_and_removed(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        admin = at.admin
        for number in range(4):
            await at.client.send("orders", b"%d" % number, queue=number % 2)
        with pytest.raises(UnknownName, match="'shop'"):
            await groups.settings(admin, "shop")
        where = await groups.update(admin, "shop", {"retry_max_times": 3}, cluster="DefaultCluster")
        await groups.update(admin, "shop", {"consume_enable": False}, broker_address=where[0])
        (shop,) = await groups.settings(admin, "shop")
        await groups.update(admin, "audit", {}, cluster="DefaultCluster")
        to_one = await groups.reset(admin, "shop", "orders", queue_id=1, offset=1)
        to_the_end = await groups.reset(admin, "shop", "orders")
        to_the_begin = await groups.reset(admin, "shop", "orders", at_ms=0)
        await groups.reset(admin, "shop", "orders")
        await groups.clone(admin, "shop", "audit", "orders", offline=True)
        progress = await admin.consumer_progress("audit")
        (message, *_) = [each async for each in stored_between(at.client, "orders", 0, 2**63 - 1)]
        tracks = {each.group: each.standing for each in await messages.tracks(admin, message)}
        with pytest.raises(UnknownName, match="online"):
            await groups.consumers(admin, "shop")
        with pytest.raises(UnknownName, match="online"):
            await groups.running(admin, "shop", "nobody")
        await groups.delete(admin, "shop", clean=True, cluster="DefaultCluster")
        with pytest.raises(UnknownName):
            await groups.settings(admin, "shop")

    assert ("broker-a", 3, False) == (
        shop.broker_name,
        shop.config.retry_max_times,
        shop.config.consume_enable,
    )
    assert [(1, 1)] == [(each.queue_id, each.offset) for each in to_one]
    assert [(0, 2), (1, 2)] == [(each.queue_id, each.offset) for each in to_the_end]
    assert [(0, 0), (1, 0)] == [(each.queue_id, each.offset) for each in to_the_begin]
    assert 0 == progress.lag
    assert {"shop": Standing.CONSUMED, "audit": Standing.CONSUMED} == tracks


async def test_who_is_connected(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        await at.client.send("orders", b"x")
        async with at.client.consumer("shop", {"orders": "paid"}):
            with trio.fail_after(PATIENCE_S):
                while True:
                    try:
                        online = await groups.consumers(at.admin, "shop")
                        break
                    except UnknownName:
                        pass
        address = "{}:{}".format(*at.leader.address)
        none = await groups.producers_of(at.admin, "nobody", "orders")
        producers = await groups.producers(at.admin, address)

    assert ["PYTHON"] == [each.language for each in online.connection_set]
    assert "paid" == online.subscription_table["orders"].sub_string
    assert () == none
    assert isinstance(producers, dict)


async def test_settings_and_permissions(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        admin = at.admin
        (address,) = await settings.update(admin, {"maxMessageSize": "4"}, cluster="DefaultCluster")
        ((_, shown),) = await settings.of_brokers(admin, broker_address=address)
        with pytest.raises(ResponseError, match="brokerName"):
            await settings.update(admin, {"brokerName": "b"}, broker_address=address)
        await admin.update_topic_perm("orders", 4, cluster="DefaultCluster")
        topic = at.leader.broker.machine.topics.get("orders")
        with pytest.raises(ResponseError, match="17"):
            await admin.update_topic_perm("nobody", 4, cluster="DefaultCluster")

    assert "4" == shown["maxMessageSize"]
    assert (4, 2, 2) == (topic.perm, topic.read_queues, topic.write_queues)


async def test_only_expired_transactions_are_resumed(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        receipt = await at.client.send("orders", b"x")
        with pytest.raises(ResponseError, match="TRANS_CHECK_MAX_TIME_TOPIC"):
            await settings.resume_transaction(at.admin, receipt.offset_message_id)
        for other in ("rubbish", offset_message_id(pack_host("10.1.2.3", 1), 0)):
            with pytest.raises(UnknownName, match="offset message id"):
                await settings.resume_transaction(at.admin, other)
