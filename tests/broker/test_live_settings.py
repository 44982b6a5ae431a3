"""Settings that are changed while a broker runs."""

from pathlib import Path
from typing import Any

import pytest

from dledger_py.client.connection import Connection
from dledger_py.client.errors import ResponseError
from dledger_py.remoting.commands.operations import GetBrokerConfig, UpdateBrokerConfig
from dledger_py.remoting.commands.sending import SendMessage
from dledger_py.remoting.commands.settings_text import decode_settings, encode_settings
from dledger_py.remoting.commands.topics import CreateTopic
from dledger_py.remoting.wire import schema
from dledger_py.remoting.wire.codes import RequestCode
from dledger_py.remoting.wire.frame import encode_request
from dledger_py.remoting.wire.properties import encode
from tests.broker.broker_kit import PATIENCE_S, BrokerGroup, Member, brokers, dial, send


async def change(connection: Connection, **settings: str) -> None:
    await connection.call(UpdateBrokerConfig(), encode_settings(settings))


async def shown(member: Member) -> dict[str, str]:
    async with dial(member) as client:
        return decode_settings((await client.call(GetBrokerConfig())).body)


async def code_of(asked: Any) -> int:
    """0, or the code of the refusal."""
    try:
        await asked
    except ResponseError as error:
        return error.code
    return 0


async def usual(connection: Connection, topic: str, properties: str) -> int:
    """A send in the short spelling, as Java's clients do it: its code."""
    request = SendMessage(
        producer_group="pg", topic=topic, queue_id=0, default_topic="TBW102", properties=properties
    )
    opaque, code = connection.next_opaque(), RequestCode.SEND_MESSAGE_V2
    data = encode_request(code, opaque, schema.encode(request, code), b"x")
    return int((await connection.exchange(opaque, data, PATIENCE_S)).code)


async def started(group: BrokerGroup) -> Member:
    await group.start()
    return await group.wait_leader()


async def test_each_setting_takes_effect(tmp_path: Path) -> None:
    async with brokers(tmp_path, 1) as group:
        leader = await started(group)
        broker = leader.broker
        mixed = CreateTopic(
            topic="any", read_queue_nums=1, write_queue_nums=1, perm=6,
            attributes="+message.type=MIXED",
        )  # fmt: skip
        async with dial(leader) as client:
            await send(client, "first")
            sharded = encode({"__SHARDINGKEY": "k", "UNIQ_KEY": "U"})
            assert 0 == await usual(client, "first", sharded)
            assert 29 == await code_of(client.call(mixed))
            await change(
                client,
                autoCreateTopicEnable="false",
                maxMessageSize="5",
                enableMixedMessageType="TRUE",
                enableTopicMessageTypeCheck="true",
                fileReservedTime="1",
                transactionTimeOut="1000",
                transactionCheckInterval="2000",
                transactionCheckMax="3",
            )

            assert 17 == await code_of(send(client, "second"))
            assert 13 == await code_of(send(client, "first", b"123456"))
            assert 13 == await code_of(send(client, "first", properties=sharded))
            assert 13 == await usual(client, "first", sharded)
            assert 0 == await code_of(client.call(mixed))
            assert 0 == await code_of(send(client, "any", properties=sharded))
        assert 3_600_000 == broker._retaining.wish.age_ms
        times = broker._checking.times
        assert (1000, 2000, 3) == (times.timeout_ms, times.interval_ms, times.checks_max)
        found = await shown(leader)

    assert {"maxMessageSize": "5", "fileReservedTime": "1"}.items() <= found.items()


async def test_a_template_that_was_not_there_is_made_when_topics_may_be(tmp_path: Path) -> None:
    async with brokers(tmp_path, 1, auto_create_topics=False) as group:
        leader = await started(group)
        async with dial(leader) as client:
            assert 17 == await code_of(send(client, "orders"))
            await change(client, autoCreateTopicEnable="true", defaultTopicQueueNums="2")
            await group.wait_until(lambda: "TBW102" in leader.broker.machine.topics)
            assert 0 == await code_of(send(client, "orders"))
        topics = leader.broker.machine.topics

        assert 2 == topics.get("orders").read_queues == topics.get("TBW102").read_queues


async def test_a_change_reaches_every_member_by_any_and_outlives_a_restart(tmp_path: Path) -> None:
    async with brokers(tmp_path, 3) as group:
        await started(group)
        follower = (await group.wait_followers())[0]
        async with dial(follower) as client:
            await change(client, maxMessageSize="77")
        found = [(await shown(member))["maxMessageSize"] for member in group.members.values()]
        await group.stop(follower.node)
        await group.start(follower.node, max_message_bytes=1000)
        again = group.members[follower.node]
        kept = (await shown(again))["maxMessageSize"]
        async with dial(again) as client:
            await change(client, maxMessageSize="")
        left = [(await shown(member))["maxMessageSize"] for member in group.members.values()]

    assert ["77", "77", "77"] == found
    assert "77" == kept
    assert sorted(["1000", str(4 << 20), str(4 << 20)]) == sorted(left)


async def test_a_member_that_is_down_is_told_of(tmp_path: Path) -> None:
    async with brokers(tmp_path, 3) as group:
        leader = await started(group)
        gone = next(node for node in group.members if node != leader.node)
        await group.stop(gone)
        async with dial(leader) as client:
            with pytest.raises(ResponseError, match=f"{gone} did not answer") as caught:
                await change(client, maxMessageSize="77")
        found = await shown(leader)

    assert 1 == caught.value.code
    assert "77" == found["maxMessageSize"]


REFUSED = {
    "namesrvAddr": ("127.0.0.1:1", 16, "cannot be changed while"),
    "brokerPermission": ("4", 16, "wipeWritePerm"),
    "colour": ("red", 16, "autoCreateTopicEnable"),
    "maxMessageSize": ("big", 29, "whole number"),
    "transactionCheckMax": ("0", 29, "1 to"),
    "autoCreateTopicEnable": ("maybe", 29, "true or false"),
    "fileReservedTime": ("-1", 29, "0 or more"),
}


async def test_what_cannot_be_changed_is_refused_and_nothing_with_it(tmp_path: Path) -> None:
    async with brokers(tmp_path, 1) as group:
        leader = await started(group)
        before = await shown(leader)
        async with dial(leader) as client:
            for name, (value, code, remark) in REFUSED.items():
                with pytest.raises(ResponseError, match=remark) as caught:
                    await change(client, **({"defaultTopicQueueNums": "3"} | {name: value}))
                assert code == caught.value.code
            for body in (b"", b"# nothing\n"):
                with pytest.raises(ResponseError, match="29"):
                    await client.call(UpdateBrokerConfig(), body)

        assert before == await shown(leader)
        assert not (tmp_path / "n0" / "settings.json").exists()


@pytest.mark.parametrize(
    "text", ['{"maxMessageSize":"9","newer":"1","transactionCheckMax":"0"}', "torn {", "[1]", ""]
)
async def test_a_file_of_another_release_or_none_does_not_stop_a_start(
    tmp_path: Path, text: str
) -> None:
    (tmp_path / "n0").mkdir()
    (tmp_path / "n0" / "settings.json").write_text(text)
    async with brokers(tmp_path, 1) as group:
        found = await shown(await started(group))

    assert ("9" if "Size" in text else str(4 << 20)) == found["maxMessageSize"]
    assert "15" == found["transactionCheckMax"]


async def test_the_leader_is_the_broker_with_id_0(tmp_path: Path) -> None:
    """As name servers have it, whatever its node."""
    async with brokers(tmp_path, 3) as group:
        leader = await started(group)
        await group.wait_followers()
        found = {node: await shown(member) for node, member in group.members.items()}

    assert ("0", "SYNC_MASTER") == (
        found[leader.node]["brokerId"],
        found[leader.node]["brokerRole"],
    )
    assert {(str(int(node[1:]) + 1), "SLAVE") for node in found if node != leader.node} == {
        (each["brokerId"], each["brokerRole"])
        for node, each in found.items()
        if node != leader.node
    }
