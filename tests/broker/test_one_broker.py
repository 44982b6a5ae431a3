"""One real broker on a folder of its own, spoken to over loopback."""

import errno
import os
import shutil

import pytest
import trio

from broker.config import LedgerSettings
from broker.formats import UNIT, UNIT_PLACE
from broker.serving.long_polls import LongPolls
from dledger_py.actors import FailStop
from dledger_py.client.connection import open_connection
from dledger_py.client.errors import ConnectionLost, ResponseError
from dledger_py.ledger.errors import Indefinite
from dledger_py.remoting.commands.clients import GetConsumerIds, Heartbeat, UnregisterClient
from dledger_py.remoting.commands.heartbeats import (
    ConsumerData,
    HeartbeatData,
    SubscriptionData,
    encode_heartbeat,
)
from dledger_py.remoting.commands.json_bodies import parse
from dledger_py.remoting.commands.offsets import (
    GetEarliestTime,
    GetMaxOffset,
    GetMinOffset,
    QueryConsumerOffset,
    SearchOffset,
    UpdateConsumerOffset,
)
from dledger_py.remoting.commands.operations import (
    GetBrokerConfig,
    GetBrokerRuntime,
    GetConsumerConnections,
    GetConsumeStats,
    GetTopicStats,
)
from dledger_py.remoting.commands.queries import ViewMessage
from dledger_py.remoting.commands.topics import CreateTopic, DeleteTopic, GetAllTopics, GetTopic
from dledger_py.remoting.wire.frame import Framer, encode_request
from dledger_py.remoting.wire.message import (
    BatchItem,
    decode_records,
    encode_batch_body,
    parse_offset_message_id,
)
from tests.broker.broker_kit import GROUP, brokers, dial, pull, send


async def refused(awaitable) -> tuple[int, str]:
    with pytest.raises(ResponseError) as caught:
        await awaitable
    return caught.value.code, caught.value.remark or ""


def bodies(reply) -> list[bytes]:
    return [record.body for record in decode_records(reply.body)]


async def test_what_is_sent_can_be_pulled_counted_and_viewed(tmp_path) -> None:
    async with brokers(tmp_path, 1) as group:
        await group.start()
        member = await group.wait_leader()
        async with dial(member) as client:
            replies = [await send(client, "orders", b"m%d" % number) for number in range(3)]
            pulled = await pull(client, "orders")
            end = await client.call(GetMaxOffset(topic="orders", queue_id=0))
            begin = await client.call(GetMinOffset(topic="orders", queue_id=0))
            host, port, position = parse_offset_message_id(replies[1].header.msg_id)
            viewed = await client.call(ViewMessage(offset=position))
            records = decode_records(pulled.body)
            stored_ms = records[1].store_timestamp_ms
            by_time = await client.call(
                SearchOffset(topic="orders", queue_id=0, timestamp=stored_ms + 60_000)
            )
            earliest = await client.call(GetEarliestTime(topic="orders", queue_id=0))
            missing = await refused(client.call(ViewMessage(offset=position + 1)))
            nowhere = await refused(client.call(ViewMessage(offset=2**62)))

    assert [0, 1, 2] == [reply.header.queue_offset for reply in replies]
    assert [b"m0", b"m1", b"m2"] == [record.body for record in records]
    assert (3, 0) == (end.header.offset, begin.header.offset)
    assert (host, port) == member.address
    assert [records[1]] == decode_records(viewed.body)
    assert (3, records[0].store_timestamp_ms) == (by_time.header.offset, earliest.header.timestamp)
    assert 1 == missing[0] == nowhere[0]


async def test_a_held_pull_gets_the_next_message(tmp_path) -> None:
    async with brokers(tmp_path, 1) as group:
        await group.start()
        member = await group.wait_leader()
        answers = []

        async def wait_for_one(client) -> None:
            answers.append(await pull(client, "orders", 1, wait_ms=15_000))

        async with dial(member) as consumer, dial(member) as producer:
            await send(producer, "orders", b"first")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait_for_one, consumer)
                while not member.broker.polls.statistics().held:
                    await trio.lowlevel.checkpoint()
                await send(producer, "orders", b"second")

    assert [[b"second"]] == [bodies(answer) for answer in answers]


async def test_a_held_pull_is_answered_when_its_time_is_up_and_when_the_broker_stops(
    tmp_path,
) -> None:
    async with brokers(tmp_path, 1) as group:
        await group.start()
        member = await group.wait_leader()
        answers = []

        async def wait_in_vain(client) -> None:
            answers.append(await pull(client, "orders", 1, wait_ms=90_000))

        async with dial(member) as client:
            await send(client, "orders")
            expired = await pull(client, "orders", 1, wait_ms=30)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait_in_vain, client)
                while not member.broker.polls.statistics().held:
                    await trio.lowlevel.checkpoint()
                await group.stop("n0")

    assert (19, 1) == (expired.code, expired.header.next_begin_offset)
    assert [19] == [answer.code for answer in answers]


async def test_a_restart_finds_everything(tmp_path) -> None:
    async with brokers(tmp_path, 1) as group:
        await group.start()
        member = await group.wait_leader()
        async with dial(member) as client:
            for number in range(20):
                await send(client, "orders", b"%d" % number, queue_id=number % 2)
            commit = UpdateConsumerOffset(
                consumer_group=GROUP, topic="orders", queue_id=0, commit_offset=7
            )
            await client.call(commit)
            before = await client.call(GetTopic(topic="orders"))
        await group.stop("n0")
        stale = tmp_path / "n0/consumequeue/forgotten/0"
        stale.mkdir(parents=True)
        await group.start()
        member = await group.wait_leader()
        async with dial(member) as client:
            pulled = [await pull(client, "orders", queue_id=queue_id) for queue_id in (0, 1)]
            question = QueryConsumerOffset(consumer_group=GROUP, topic="orders", queue_id=0)
            offset = await client.call(question)
            after = await client.call(GetTopic(topic="orders"))
            last = await send(client, "orders", b"new")

    assert [b"%d" % number for number in range(0, 20, 2)] == bodies(pulled[0])
    assert [b"%d" % number for number in range(1, 20, 2)] == bodies(pulled[1])
    assert (7, 10) == (offset.header.offset, last.header.queue_offset)
    assert not stale.exists()  # the index is built anew
    assert before.body == after.body


async def test_a_killed_broker_has_lost_nothing_it_acknowledged(tmp_path) -> None:
    async with brokers(tmp_path, 1, flush="sync") as group:
        await group.start()
        member = await group.wait_leader()
        async with dial(member) as client:
            for number in range(5):
                await send(client, "orders", b"%d" % number)
            # What a kill at this moment would leave behind.
            shutil.copytree(tmp_path / "n0", tmp_path / "killed")
        await group.stop("n0")
        await group.start("n0", data_dir=tmp_path / "killed")
        member = await group.wait_leader()
        async with dial(member) as client:
            pulled = await pull(client, "orders")

    assert [b"%d" % number for number in range(5)] == bodies(pulled)


async def test_a_second_broker_on_the_same_folder_leaves_the_first_alone(tmp_path) -> None:
    async with brokers(tmp_path, 1) as group:
        await group.start()
        member = await group.wait_leader()
        async with dial(member) as client:
            items = encode_batch_body([BatchItem(0, b"%d" % n, b"") for n in range(600)])
            await send(client, "orders", items, batch=True)  # part of the index is in files
            await group.start("n0")
            intruder = group.members["n0"]
            await intruder.ended.wait()
            pulled = await pull(client, "orders")
        member.scope.cancel()

    assert isinstance(intruder.error, FailStop)
    assert 32 == len(bodies(pulled))


async def test_topics_come_go_and_come_back_empty(tmp_path) -> None:
    create = CreateTopic(topic="t", read_queue_nums=1, write_queue_nums=1, perm=6)
    async with brokers(tmp_path, 1) as group:
        await group.start()
        member = await group.wait_leader()
        async with dial(member) as client:
            await client.call(create)
            await send(client, "t")
            held = []

            async def wait_in_vain() -> None:
                held.append(await refused(pull(client, "t", 1, wait_ms=90_000)))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait_in_vain)
                while not member.broker.polls.statistics().held:
                    await trio.lowlevel.checkpoint()
                await client.call(DeleteTopic(topic="t"))
            gone = await refused(client.call(GetTopic(topic="t")))
            await client.call(create)
            pulled = await pull(client, "t")
            table = parse((await client.call(GetAllTopics())).body)

    assert 17 == gone[0] == held[0][0]
    assert (19, 0) == (pulled.code, pulled.header.max_offset)
    assert "t" in table["topicConfigTable"]
    assert 1 == table["dataVersion"]["stateVersion"]  # the first leader's term


async def test_operators_see_topics_groups_and_clients(tmp_path) -> None:
    subscription = SubscriptionData(topic="orders", sub_version=1)
    data = ConsumerData(group_name="shop", subscription_data_set=(subscription,))
    beat = encode_heartbeat(HeartbeatData(client_id="c1", consumer_data_set=(data,)))
    async with brokers(tmp_path, 1) as group:
        await group.start()
        member = await group.wait_leader()
        async with dial(member) as client:
            await send(client, "orders")
            await client.call(Heartbeat(), beat)
            ids = parse((await client.call(GetConsumerIds(consumer_group="shop"))).body)
            connections = await client.call(GetConsumerConnections(consumer_group="shop"))
            await client.call(
                UpdateConsumerOffset(
                    consumer_group="shop", topic="orders", queue_id=0, commit_offset=1
                )
            )
            progress = parse((await client.call(GetConsumeStats(consumer_group="shop"))).body)
            stats = parse((await client.call(GetTopicStats(topic="orders"))).body)
            runtime = parse((await client.call(GetBrokerRuntime())).body)["table"]
            settings = (await client.call(GetBrokerConfig())).body.decode()
            await client.call(UnregisterClient(client_id="c1", consumer_group="shop"))
            left = await refused(client.call(GetConsumerIds(consumer_group="shop")))

    key = '{"brokerName":"broker-a","queueId":0,"topic":"orders"}'
    assert {"consumerIdList": ["c1"]} == ids
    assert ["c1"] == [each["clientId"] for each in parse(connections.body)["connectionSet"]]
    assert (1, 1) == (
        progress["offsetTable"][key]["brokerOffset"],
        progress["offsetTable"][key]["consumerOffset"],
    )
    assert 1 == stats["offsetTable"][key]["maxOffset"]
    assert ("false", "true") == (runtime["diskRefusesSends"], runtime["diskLetsLead"])
    assert int(runtime["diskFreeBytes"]) > int(runtime["diskFloorBytes"])
    assert abs(int(runtime["earliestMessageTimeStamp"]) - int(runtime["bootTimestamp"])) < 60_000
    assert "brokerName=broker-a\n" in settings
    assert (1, "no consumer for this group, shop") == left


async def test_what_nobody_knows_is_answered_and_what_is_missing_is_named(tmp_path) -> None:
    async with brokers(tmp_path, 1) as group:
        await group.start()
        member = await group.wait_leader()
        stream = await trio.open_tcp_stream(*member.address)
        async with stream:
            framer, answers = Framer(), {}
            for opaque, (code, fields) in enumerate(
                [
                    (9999, {}),
                    (513, {"topic": "orders"}),
                    (11, {"topic": "orders"}),
                    (30, {"topic": "orders", "queueId": "many"}),
                ]
            ):
                await stream.send_all(encode_request(code, opaque, fields))
            while len(answers) < 4:
                answers |= {f.opaque: f for f in framer.feed(await stream.receive_some())}

    assert [3, 3, 1, 1] == [answers[opaque].code for opaque in range(4)]
    assert " request type 9999 not supported" == answers[0].remark
    assert "UPDATE_AND_CREATE_STATIC_TOPIC" in answers[1].remark
    assert "PullMessage.consumerGroup" in answers[2].remark
    assert "'many'" in answers[3].remark


async def test_a_command_nobody_understands_ends_the_process_with_its_reason(tmp_path) -> None:
    async with brokers(tmp_path, 1) as group:
        await group.start()
        member = await group.wait_leader()
        settled = []
        member.broker.ledger.propose(bytes((99, 1)), settled.append)
        await member.ended.wait()
        await group.start()
        again = group.members["n0"]
        await again.ended.wait()

    for error in (member.error, again.error):
        assert isinstance(error, FailStop)
        assert "command tag 99 version 1 is unknown to this build" in str(error)
    assert isinstance(settled[0], Indefinite)


async def test_damage_under_a_message_ends_the_process(tmp_path) -> None:
    async with brokers(tmp_path, 1) as group:
        await group.start()
        member = await group.wait_leader()
        async with dial(member) as client:
            await send(client, "orders")
            unit = member.broker.queues.range("orders", 0, 0, 1)
            wrong = UNIT.pack(UNIT_PLACE.unpack(unit)[0] + 1, UNIT_PLACE.unpack(unit)[1], 0)
            member.broker.queues.index("orders", 0, 1, wrong)
            with pytest.raises((ConnectionLost, ResponseError)):
                await pull(client, "orders")
        await member.ended.wait()

    assert isinstance(member.error, FailStop)


async def test_a_disk_that_cannot_be_read_ends_the_process(tmp_path, monkeypatch) -> None:
    async with brokers(tmp_path, 1) as group:
        await group.start()
        member = await group.wait_leader()
        async with dial(member) as client:
            await send(client, "orders")
            monkeypatch.setattr(type(member.broker.ledger.log), "read_bytes", _broken)
            with pytest.raises((ConnectionLost, ResponseError)):
                await pull(client, "orders")
        await member.ended.wait()

    assert isinstance(member.error, FailStop)
    assert "Input/output error" in str(member.error)


async def test_a_cold_read_that_finds_damage_ends_the_process(tmp_path, monkeypatch) -> None:
    def cold_and_broken(_log, _position, _length, *, nowait=False) -> None:
        raise BlockingIOError if nowait else OSError(errno.EIO, os.strerror(errno.EIO))

    async with brokers(tmp_path, 1) as group:
        await group.start()
        member = await group.wait_leader()
        async with dial(member) as client:
            await send(client, "orders")
            monkeypatch.setattr(type(member.broker.ledger.log), "read_bytes", cold_and_broken)
            with pytest.raises(ConnectionLost):
                await pull(client, "orders")
        await member.ended.wait()

    assert isinstance(member.error, FailStop)


async def test_a_crashed_actor_comes_back_and_so_do_those_that_need_it(
    tmp_path, monkeypatch
) -> None:
    async with brokers(tmp_path, 1) as group:
        await group.start()
        member = await group.wait_leader()
        broker = member.broker
        server = broker.server
        async with dial(member) as client:
            await send(client, "orders", b"before")
            with monkeypatch.context() as broken:
                broken.setattr(LongPolls, "expire", _crash)  # the clock calls it
                await client.wait_closed()
        while broker.server is server or not broker.server.addresses:
            await trio.lowlevel.checkpoint()
        async with dial(member) as client:
            await send(client, "orders", b"after")
            pulled = await pull(client, "orders")

    assert [b"before", b"after"] == bodies(pulled)
    assert member.error is None


async def test_a_ledger_that_ends_by_itself_ends_the_process(tmp_path) -> None:
    async with brokers(tmp_path, 1) as group:
        await group.start()
        member = await group.wait_leader()
        member.broker.ledger.parts.supervisor._keeper._scope.cancel()
        await member.ended.wait()

    assert isinstance(member.error, FailStop)


async def test_a_taken_port_is_said(tmp_path) -> None:
    async with brokers(tmp_path, 1) as group:
        await group.start()
        taken = f"127.0.0.1:{group.members['n0'].address[1]}"
        other = tmp_path / "other"
        first = group.members["n0"]
        await group.start("n0", listen=taken, data_dir=other, ledger=LedgerSettings())
        second = group.members["n0"]
        await second.ended.wait()
        first.scope.cancel()

    assert isinstance(second.error, FailStop)
    assert "is in use" in str(second.error)


async def test_the_vip_port_answers_too(tmp_path) -> None:
    async with brokers(tmp_path, 1) as group:
        port = group.ports.take_any_with_vip()
        address = f"127.0.0.1:{port}"
        await group.start(listen=address, members={"n0": address}, vip=True)
        member = await group.wait_leader()
        assert [port, port - 2] == [port for _host, port in member.broker.server.addresses]
        async with open_connection("127.0.0.1", port - 2) as client:
            reply = await send(client, "orders")

    assert 0 == reply.code


def _broken(*_given: object, **_more: object) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def _crash(_polls: LongPolls, _now_ms: int) -> None:
    raise ValueError("a bug")
