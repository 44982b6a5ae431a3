"""Messages found by key and id, who consumed them, their trace; asked of a pretended broker."""

from pathlib import Path

import pytest

from dledger_py.admin import Admin, messages
from dledger_py.admin.messages import Standing, Track
from dledger_py.client.errors import MalformedAnswer, NoRoute
from dledger_py.remoting.wire.message import offset_message_id, pack_host
from tests.admin.fake_cluster import fake_cluster

UNIQUE_ID = "0A000009162E18B4AAC2000000000000"


async def test_messages_with_a_key_come_newest_first(tmp_path: Path) -> None:
    async with fake_cluster(tmp_path) as fake:
        fake.broker.put("Orders", "k1", b"old", position=10, stored_ms=1000)
        fake.broker.put("Orders", "k1", b"new", position=20, stored_ms=2000)
        admin = Admin(fake.name_server)
        found = await messages.by_key(admin, "Orders", "k1")
        none = await messages.by_key(admin, "Orders", "k2")
        with pytest.raises(NoRoute):
            await messages.by_key(admin, "Nobody", "k1")

    assert [b"new", b"old"] == [each.body for each in found]
    assert ("broker-a", 0) == (found[0].queue.broker, found[0].queue.queue_id)
    assert () == none


async def test_a_message_is_found_by_either_id(tmp_path: Path) -> None:
    """Both kinds look alike: the broker's names a member that is registered."""
    async with fake_cluster(tmp_path) as fake:
        fake.broker.put("Orders", UNIQUE_ID, b"x", properties={"UNIQ_KEY": UNIQUE_ID}, position=77)
        admin, port = Admin(fake.name_server), fake.broker.port
        place = offset_message_id(pack_host("127.0.0.1", port), 77)
        nowhere = offset_message_id(pack_host("127.0.0.1", port), 78)
        (by_unique,) = await messages.by_id(admin, "Orders", UNIQUE_ID)
        (by_offset,) = await messages.by_id(admin, "Orders", place)

        assert by_unique == by_offset
        assert (UNIQUE_ID, place) == (by_offset.message_id, by_offset.offset_message_id)
        assert () == await messages.by_id(admin, "Orders", nowhere)
        assert () == await messages.by_id(admin, "Orders", "no id at all")
        assert () == await messages.by_id(admin, "Orders", "F" * 32)


async def test_an_answer_that_is_no_message_is_told(tmp_path: Path) -> None:
    async with fake_cluster(tmp_path) as fake:
        fake.broker.stored["Orders", "k1"] = [b"not a record"]
        with pytest.raises(MalformedAnswer):
            await messages.by_key(Admin(fake.name_server), "Orders", "k1")


@pytest.mark.parametrize(
    "offset, standing, detail",
    [
        (6, Standing.CONSUMED, "offset 7 in its queue"),
        (7, Standing.NOT_CONSUME_YET, "0 messages before it in its queue"),
        (9, Standing.NOT_CONSUME_YET, "2 messages before it in its queue"),
    ],
)
async def test_who_has_consumed_a_message(
    tmp_path: Path, offset: int, standing: Standing, detail: str
) -> None:
    async with fake_cluster(tmp_path) as fake:
        fake.broker.put("Orders", "k1", b"x", queue_offset=offset)
        admin = Admin(fake.name_server)
        (message,) = await messages.by_key(admin, "Orders", "k1")
        tracks = await messages.tracks(admin, message)

    assert (Track(group="billing", standing=standing, detail=detail),) == tracks


async def test_a_trace_is_put_together_from_its_messages(tmp_path: Path) -> None:
    async with fake_cluster(tmp_path) as fake:
        topic = messages.TRACE_TOPIC
        sent = f"Pub|1|R|pg|Orders|{UNIQUE_ID}|t|k|h:1|5|3|0|o|true"
        begun = f"SubBefore|2|R|cg|r1|{UNIQUE_ID}|0|null"
        ended = f"SubAfter|r1|{UNIQUE_ID}|4|true|null|0|6|cg"
        for position, record in ((3, ended), (1, sent), (2, begun)):
            body = (record.replace("|", "\x01") + "\x02").encode()
            fake.broker.put(topic, UNIQUE_ID, body, position=position)
        trace = await messages.trace(Admin(fake.name_server), UNIQUE_ID)
        nothing = await messages.trace(Admin(fake.name_server), "another")

    assert ["pg"] == [each.group for each in trace.sent]
    assert [("cg", 2, True, 4)] == [
        (each.group, each.begun_ms, each.success, each.cost_ms) for each in trace.consumed
    ]
    assert not nothing.known
