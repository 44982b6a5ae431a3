"""The topic to which clients send what became of messages."""

from pathlib import Path
from typing import Any

import pytest

from dledger_py.client.errors import ResponseError
from dledger_py.remoting.commands.queries import QueryMessage
from dledger_py.remoting.commands.topics import GetTopic
from dledger_py.remoting.wire.message import decode_records
from dledger_py.remoting.wire.properties import encode
from tests.broker.broker_kit import brokers, dial, send

TRACES = "RMQ_SYS_TRACE_TOPIC"


def query(key: str) -> QueryMessage:
    return QueryMessage(
        topic=TRACES, key=key, max_num=64, begin_timestamp=0, end_timestamp=2**63 - 1
    )


async def test_traces_are_taken_and_found_by_each_message_they_tell_of(tmp_path: Path) -> None:
    """Even where topics are not created on use."""
    async with brokers(tmp_path, 1, auto_create_topics=False) as group:
        await group.start()
        leader = await group.wait_leader()
        async with dial(leader) as client:
            properties = encode({"KEYS": "ID1 order-7 ID2", "UNIQ_KEY": "T1"})
            await send(client, TRACES, b"records", queue_id=-1, properties=properties)
            found = [
                [record.body for record in decode_records((await client.call(query(key))).body)]
                for key in ("ID1", "ID2")
            ]

    assert [[b"records"], [b"records"]] == found


@pytest.mark.parametrize("settings", [{"trace_topic": False}], ids=str)
async def test_it_can_be_left_out(tmp_path: Path, settings: dict[str, Any]) -> None:
    """It is then made on use, as any other."""
    async with brokers(tmp_path, 1, **settings) as group:
        await group.start()
        leader = await group.wait_leader()
        async with dial(leader) as client:
            with pytest.raises(ResponseError, match="17"):
                await client.call(GetTopic(topic=TRACES))
            await send(client, TRACES, b"records", queue_id=-1)
            await client.call(GetTopic(topic=TRACES))
