"""Messages found by key and by unique id: one real broker, the log, and the files of the index."""

import pytest
import trio

from broker.serving import key_index, key_search
from broker.store import key_stretches
from dledger_py.client.errors import ResponseError
from dledger_py.remoting.commands.queries import QueryMessage
from dledger_py.remoting.commands.topics import DeleteTopic
from dledger_py.remoting.wire.codes import ResponseCode
from dledger_py.remoting.wire.message import (
    BatchItem,
    decode_records,
    encode_batch_body,
    encode_record,
    pack_host,
)
from tests.broker.broker_kit import PATIENCE_S, brokers, dial, send

FOR_EVER_MS = (1 << 63) - 1


async def query(client, topic: str, key: str, *, begin_ms=0, end_ms=FOR_EVER_MS, **fields):
    """The records found; an empty list if the answer is that there is nothing."""
    request = QueryMessage(
        topic=topic,
        key=key,
        max_num=fields.pop("max_num", 64),
        begin_timestamp=begin_ms,
        end_timestamp=end_ms,
        **fields,
    )
    reply = await client.call(request, timeout_s=PATIENCE_S, accept=(0, 22))
    return decode_records(reply.body) if reply.code == 0 else []


async def found(client, topic: str, key: str, **fields) -> list[bytes]:
    return [record.body for record in await query(client, topic, key, **fields)]


def keyed(keys: str, unique: str = "") -> str:
    """Properties as Java's client writes them: the last value is not ended."""
    unique_key = f"UNIQ_KEY\x01{unique}\x02" if unique else ""
    return f"TAGS\x01a\x02{unique_key}KEYS\x01{keys}"


@pytest.fixture
def small(monkeypatch):
    """An index that needs little to fill a file, and does not rest."""
    for module in (key_stretches, key_index):
        monkeypatch.setattr(module, "STRETCH_BYTES", 1000)
    monkeypatch.setattr(key_index, "FILE_STRETCHES", 3)
    monkeypatch.setattr(key_index, "ROUND_S", 0.001)
    monkeypatch.setattr(key_index, "IDLE_S", 0)


async def wait_indexed(member) -> None:
    """Until only less than a stretch is not indexed."""
    index, broker = member.broker.key_index, member.broker
    with trio.fail_after(PATIENCE_S):
        while broker.applied_place()[1] - index.next_position >= 1000 or not index.files:
            await trio.lowlevel.checkpoint()


async def fill(client, count: int = 40) -> None:
    for number in range(count):
        properties = keyed(f"k{number} all", f"U{number}")
        await send(client, "orders", b"m%d" % number + bytes(100), properties=properties)


async def test_a_message_is_found_as_soon_as_it_is_acknowledged(tmp_path) -> None:
    async with brokers(tmp_path, 1) as group:
        await group.start()
        member = await group.wait_leader()
        async with dial(member) as client:
            for number in range(3):
                properties = keyed(f"first{number} both", f"ID{number}")
                await send(client, "orders", b"m%d" % number, properties=properties)
            await send(client, "others", b"other", properties=keyed("both"))
            items = [BatchItem(0, b"b%d" % n, keyed(f"of-batch b{n}").encode()) for n in range(2)]
            await send(client, "orders", encode_batch_body(items), batch=True)
            records = await query(client, "orders", "both")
            stored_ms = [record.store_timestamp_ms for record in records]
            answers = {
                "first": await found(client, "orders", "first1"),
                "elsewhere": await found(client, "others", "both"),
                "batch": await found(client, "orders", "of-batch"),
                "item": await found(client, "orders", "b1"),
                "id": await found(client, "orders", "ID2"),
                "only id": await found(client, "orders", "ID2", by_unique_key=True),
                "newer id": await found(client, "orders", "ID2", index_type="U"),
                "newer key is no id": await found(client, "orders", "both", index_type="U"),
                "newer key": await found(client, "orders", "first0", index_type="K"),
                "key is no id": await found(client, "orders", "both", by_unique_key=True),
                "part of a word": await found(client, "orders", "bot"),
                "two words": await found(client, "orders", "first1 both"),
                "tag": await found(client, "orders", "a"),
                "nowhere": await found(client, "nowhere", "both"),
                "one": await found(client, "orders", "both", max_num=1),
                "ends": await found(
                    client, "orders", "both", begin_ms=stored_ms[-1], end_ms=stored_ms[0]
                ),
                "later": await found(client, "orders", "both", begin_ms=stored_ms[0] + 1),
                "sooner": await found(client, "orders", "both", end_ms=stored_ms[-1] - 1),
            }

    assert [b"m2", b"m1", b"m0"] == [record.body for record in records]
    assert [2, 1, 0] == [record.queue_offset for record in records]
    assert {
        "first": [b"m1"],
        "elsewhere": [b"other"],
        "batch": [b"b1", b"b0"],
        "item": [b"b1"],
        "id": [b"m2"],
        "only id": [b"m2"],
        "newer id": [b"m2"],
        "newer key is no id": [],
        "newer key": [b"m0"],
        "key is no id": [],
        "part of a word": [],
        "two words": [],
        "tag": [],
        "nowhere": [],
        "one": [b"m2"],
        "ends": [b"m2", b"m1", b"m0"],
        "later": [],
        "sooner": [],
    } == answers


@pytest.mark.parametrize(
    "fields,code",
    [
        ({"max_num": 0}, ResponseCode.INVALID_PARAMETER),
        ({"max_num": -1}, ResponseCode.INVALID_PARAMETER),
        ({"index_type": "T"}, ResponseCode.REQUEST_CODE_NOT_SUPPORTED),
        ({"key": ""}, ResponseCode.INVALID_PARAMETER),
        ({"key": "a\x02b"}, ResponseCode.INVALID_PARAMETER),
        ({"key": "unknown"}, ResponseCode.QUERY_NOT_FOUND),
        ({"begin_timestamp": 9, "end_timestamp": 8}, ResponseCode.QUERY_NOT_FOUND),
    ],
)
async def test_what_cannot_be_answered_is_refused(tmp_path, fields, code) -> None:
    asked = {"topic": "orders", "key": "k", "max_num": 9, "begin_timestamp": 0, "end_timestamp": 9}
    async with brokers(tmp_path, 1) as group:
        await group.start()
        async with dial(await group.wait_leader()) as client:
            with pytest.raises(ResponseError) as caught:
                await client.call(QueryMessage(**(asked | fields)), timeout_s=PATIENCE_S)

    assert code == caught.value.code


async def test_a_body_that_looks_like_a_record_is_none(tmp_path) -> None:
    host = pack_host("127.0.0.1", 10911)
    fake = encode_record(
        queue_id=0,
        flag=0,
        sys_flag=0,
        born_timestamp_ms=1,
        born_host=host,
        store_timestamp_ms=1,
        store_host=host,
        body=b"fake",
        topic="orders",
        properties=keyed("forged").encode(),
    )
    async with brokers(tmp_path, 1) as group:
        await group.start()
        async with dial(await group.wait_leader()) as client:
            await send(client, "orders", fake, properties=keyed("real"))
            forged, real = (
                await found(client, "orders", "forged"),
                await found(client, "orders", "real"),
            )

    assert ([], [fake]) == (forged, real)


async def test_nothing_of_a_deleted_topic_comes_back(tmp_path) -> None:
    async with brokers(tmp_path, 1) as group:
        await group.start()
        async with dial(await group.wait_leader()) as client:
            await send(client, "orders", b"before", properties=keyed("k"))
            await client.call(DeleteTopic(topic="orders"))
            deleted = await found(client, "orders", "k")
            await send(client, "orders", b"after", properties=keyed("k"))
            again = await found(client, "orders", "k")

    assert ([], [b"after"]) == (deleted, again)


async def test_an_answer_has_a_limit_and_the_newest_message_whatever_its_size(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(key_search, "BYTES_MAX", 900)
    async with brokers(tmp_path, 1) as group:
        await group.start()
        async with dial(await group.wait_leader()) as client:
            for size in (1000, 100, 101):
                await send(client, "orders", bytes(size), properties=keyed("k"))
            two = await found(client, "orders", "k")
            await send(client, "orders", bytes(1001), properties=keyed("k"))
            one = await found(client, "orders", "k")

    assert [[101, 100], [1001]] == [list(map(len, bodies)) for bodies in (two, one)]


async def test_at_most_64_come_back_and_32_with_one_unique_id(tmp_path) -> None:
    properties = keyed("k", "the same")
    items = [BatchItem(0, b"%d" % number, properties.encode()) for number in range(70)]
    async with brokers(tmp_path, 1) as group:
        await group.start()
        async with dial(await group.wait_leader()) as client:
            await send(client, "orders", encode_batch_body(items), batch=True)
            by_key = await found(client, "orders", "k", max_num=100)
            by_id = await found(client, "orders", "the same", max_num=100, by_unique_key=True)
            few = await found(client, "orders", "the same", max_num=3, by_unique_key=True)

    assert [64, 32, 3] == [len(bodies) for bodies in (by_key, by_id, few)]


async def test_a_follower_finds_what_it_has_applied(tmp_path) -> None:
    async with brokers(tmp_path, 3) as group:
        await group.start()
        async with dial(await group.wait_leader()) as client:
            await send(client, "orders", b"m", properties=keyed("k"))
        answers = []
        for member in await group.wait_followers():
            async with dial(member) as client:
                answers.append(await found(client, "orders", "k"))

    assert [[b"m"], [b"m"]] == answers


async def test_the_index_finds_what_is_not_searched_otherwise(tmp_path, small, monkeypatch) -> None:
    async with brokers(tmp_path, 1) as group:
        await group.start()
        member = await group.wait_leader()
        async with dial(member) as client:
            await fill(client)
            await wait_indexed(member)
            searched = spy_on_slices(monkeypatch)
            old = await found(client, "orders", "U2", by_unique_key=True)
            slices = len(searched)
            every = await found(client, "orders", "all")
            some = await found(client, "orders", "all", max_num=5)

    assert b"m2" + bytes(100) == old[0]
    assert slices <= 3  # what is not indexed yet, and the one stretch that has it
    assert [b"m%d" % n for n in reversed(range(40))] == [body.rstrip(b"\0") for body in every]
    assert every[:5] == some


def spy_on_slices(monkeypatch) -> list[tuple[int, int]]:
    searched: list[tuple[int, int]] = []
    search_slice = key_search._search_slice

    def noted(log, first_index, last_index, wanted):
        searched.append((first_index, last_index))
        return search_slice(log, first_index, last_index, wanted)

    monkeypatch.setattr(key_search, "_search_slice", noted)
    return searched


def names_in(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("damage", ["none", "body", "header", "missing", "unfinished"])
async def test_a_start_goes_on_with_the_files_and_makes_damaged_ones_again(
    tmp_path, small, damage
) -> None:
    async with brokers(tmp_path, 1) as group:
        await group.start()
        member = await group.wait_leader()
        async with dial(member) as client:
            await fill(client)
        await wait_indexed(member)
        await group.stop("n0")
        folder = tmp_path / "n0" / "keyindex"
        before = names_in(folder)
        path = folder / before[1]
        match damage:
            case "body":
                path.write_bytes(path.read_bytes()[:-1] + b"?")
            case "header":
                path.write_bytes(b"?" + path.read_bytes()[1:])
            case "missing":
                path.unlink()
            case "unfinished":
                path.rename(path.with_suffix(".new"))
        await group.start()
        member = await group.wait_leader()
        async with dial(member) as client:
            await wait_indexed(member)
            request = QueryMessage(
                topic="orders", key="U7", max_num=9, begin_timestamp=0, end_timestamp=FOR_EVER_MS
            )
            with trio.fail_after(PATIENCE_S):
                while not (await client.call(request, accept=(0, 1, 22))).body:
                    await wait_indexed(member)
            answers = [await found(client, "orders", f"U{number}") for number in range(40)]
        with trio.fail_after(PATIENCE_S):
            while before != names_in(folder)[: len(before)]:  # the last is written behind its index
                await trio.lowlevel.checkpoint()

    assert [[b"m%d" % n + bytes(100)] for n in range(40)] == answers


async def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path, small) -> None:
    async with brokers(tmp_path, 1) as group:
        (tmp_path / "n0").mkdir()
        (tmp_path / "n0" / "keyindex").write_bytes(b"not a folder")
        await group.start()
        member = await group.wait_leader()
        async with dial(member) as client:
            await fill(client, 10)
            answer = await found(client, "orders", "k3")

    assert [b"m3" + bytes(100)] == answer
    assert member.error is None
