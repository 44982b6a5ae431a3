"""What a topic's permission allows, room by room: 2 write, 4 read, 6 both, 0 nothing."""

from pathlib import Path

import pytest
import trio

from dledger_py.admin import Admin
from dledger_py.client import SendRefused, connect
from dledger_py.remoting.commands.pulling import PullMessage
from dledger_py.remoting.commands.send_back import SendBack
from dledger_py.remoting.commands.sending import SendMessage
from dledger_py.remoting.commands.topics import CreateTopic
from dledger_py.remoting.wire.message import BatchItem, decode_records, encode_batch_body
from dledger_py.remoting.wire.properties import encode
from namesrv.app import NameServer
from namesrv.config import NamesrvConfig
from tests.broker.broker_kit import PATIENCE_S, brokers
from tests.broker.rooms_kit import Desk
from tests.broker.test_delays import go_on

RETRY, DEAD = "%RETRY%shop", "%DLQ%shop"


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    desk = Desk(tmp_path)
    allow(desk, "orders", 6)
    desk.beat("shop", "orders")
    return desk


def allow(desk: Desk, topic: str, perm: int) -> None:
    change = CreateTopic(topic=topic, read_queue_nums=1, write_queue_nums=1, perm=perm)
    assert 0 == desk.ask(change).code


def sent(desk: Desk, topic: str, code: int = 310) -> int:
    text = encode({"UNIQ_KEY": "U1"})
    body = encode_batch_body([BatchItem(0, b"x", b"")]) if code == 320 else b"x"
    request = SendMessage(producer_group="pg", topic=topic, queue_id=0, properties=text)
    return int(desk.ask(request, body, code=code).code)


def pulled(desk: Desk, topic: str, **fields: int) -> int:
    """0 of messages, 19 if there are none, or a refusal."""
    request = PullMessage(
        consumer_group="TOOLS_CONSUMER",
        topic=topic,
        queue_id=0,
        queue_offset=0,
        max_msg_nums=32,
        subscription="*",
        **({"sys_flag": 4} | fields),
    )
    return int(desk.ask(request).code)


@pytest.mark.parametrize("perm", [0, 1, 2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("topic", ["orders", RETRY])
def test_sends_need_the_write_bit_and_pulls_the_read_bit(desk, topic: str, perm: int) -> None:
    assert 0 == sent(desk, topic)
    allow(desk, topic, perm)

    codes = {code: sent(desk, topic, code) for code in (10, 310)}
    assert dict.fromkeys(codes, 0 if perm & 2 else 16) == codes
    assert (0 if perm & 4 else 16) == pulled(desk, topic)


def test_a_batch_needs_the_write_bit(desk) -> None:
    codes = []
    for perm in (4, 6):
        allow(desk, "orders", perm)
        codes.append(sent(desk, "orders", 320))

    assert [16, 0] == codes


def test_a_held_pull_is_refused_once_reading_is_not_allowed(desk) -> None:
    held = PullMessage(
        consumer_group="TOOLS_CONSUMER",
        topic="orders",
        queue_id=0,
        queue_offset=0,
        max_msg_nums=32,
        sys_flag=4 | 2,
        suspend_timeout_millis=15_000,
        subscription="*",
    )
    other = desk.connect()
    assert desk.ask(held, by=other) is None
    allow(desk, "orders", 2)

    assert [16] == [answer.code for answer in other.answers]


@pytest.mark.parametrize("perm, code", [(4, 16), (2, 0), (6, 0)])
def test_sending_back_needs_the_write_bit_of_the_retry_topic(desk, perm: int, code: int) -> None:
    sent(desk, "orders")
    (record,) = decode_records(_messages(desk, "orders"))
    allow(desk, "orders", 0)  # of no importance
    allow(desk, RETRY, perm)
    back = SendBack(offset=record.physical_offset, delay_level=1, group="shop")

    assert code == desk.ask(back).code


def test_what_waits_is_delivered_whatever_the_permission_by_then(desk) -> None:
    """It was acknowledged."""
    request = SendMessage(
        producer_group="pg", topic="orders", queue_id=0, properties=encode({"DELAY": "1"})
    )
    assert 0 == desk.ask(request, b"later").code
    allow(desk, "orders", 4)
    go_on(desk, 1000)

    assert [b"later"] == [record.body for record in decode_records(_messages(desk, "orders"))]


def _messages(desk: Desk, topic: str) -> bytes:
    request = PullMessage(
        consumer_group="TOOLS_CONSUMER",
        topic=topic,
        queue_id=0,
        queue_offset=0,
        max_msg_nums=32,
        sys_flag=4,
        subscription="*",
    )
    return desk.ask(request).body


async def test_a_group_without_write_permission_gets_no_more_sends(tmp_path: Path) -> None:
    """wipeWritePerm: name servers route no sends to it; those that come all the same are taken, as
    by RocketMQ's brokers. addWritePerm undoes it."""
    server = NameServer(NamesrvConfig(listen="127.0.0.1:0", data_dir=tmp_path))
    async with trio.open_nursery() as nursery:
        ((_, port),) = await nursery.start(server.run)
        name_server = f"127.0.0.1:{port}"
        async with brokers(tmp_path, 1, namesrv=(name_server,)) as group:
            await group.start()
            await group.wait_leader()
            await group.members["n0"].broker.registrar.wait_registered()
            admin = Admin(name_server)
            await admin.update_topic("orders", cluster="DefaultCluster")
            with trio.fail_after(PATIENCE_S):  # a registration that comes later would undo it
                while "orders" not in await admin.topic_list():
                    pass
            async with connect(name_server) as client:
                await client.send("orders", b"before")
            wiped = await admin.wipe_write_perm("broker-a")
            async with connect(name_server) as client:
                with pytest.raises(SendRefused, match="written to"):
                    await client.send("orders", b"during", timeout_s=0.5)
                perms = [queue.perm for queue in (await admin.topic_route("orders")).queue_datas]
                added = await admin.add_write_perm("broker-a")
            async with connect(name_server) as client:
                await client.send("orders", b"after")
        nursery.cancel_scope.cancel()

    assert [4] == perms
    assert wiped == added > 10
