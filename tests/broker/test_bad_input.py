"""What nobody sends on purpose: a broker refuses it in words of its own, and goes on."""

import base64
import json
import random
import re
import struct
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
import structlog
import trio
from attrs import fields

from dledger_py.client.connection import Connection
from dledger_py.remoting.commands.groups import CreateGroup, GroupConfig
from dledger_py.remoting.commands.json_bodies import encode_body
from dledger_py.remoting.commands.operations import GetBrokerRuntime
from dledger_py.remoting.commands.topics import CreateTopic
from dledger_py.remoting.wire.frame import Frame, Framer
from dledger_py.remoting.wire.message import BatchItem, encode_batch_body
from dledger_py.remoting.wire.schema import spelling, value_type
from tests.broker.broker_kit import PATIENCE_S, brokers, dial, send

ROUNDS: Final = 15
"""Of all codes, with each of two seeds."""

EXCEPTION = re.compile(r"^\w*(Error|Exception|Warning|Exit|Interrupt|Busy|Closed|StopIteration)\b")

NAMES: Final = (
    *("orders", "bills", "shop", "TBW102", "SCHEDULE_TOPIC_XXXX", "RMQ_SYS_TRANS_HALF_TOPIC"),
    *("RMQ_SYS_TRACE_TOPIC", "rmq_sys_wheel_timer", "%RETRY%shop", "%DLQ%shop", "%RETRY%", "%DLQ%"),
    *("broker-a", "DefaultCluster", "", " ", "a.b", "ns%orders", "t" * 127, "t" * 300, "ü", "\x01"),
    *("a\x02b", "null", "*", "TAG", "SQL92", "a > 1", "a >", "+message.type=FIFO", "-x"),
    *("0" * 32, "F" * 32, "7F00000100002A9F0000000000000000", "zz", "KEYS\x01k\x02", "DELAY\x013"),
    *("TRAN_MSG\x01true\x02PGROUP\x01shop", "TIMER_DELIVER_MS\x01" + "9" * 18, "UNIQ_KEY\x01\x02"),
    *("10.0.0.1:1", "x" * 40_000, "UPPER", "LOWER", "T", "U", "true", "false", "{}", "[]", "c1"),
)
NUMBERS: Final = (
    *(-1, 0, 1, 2, 3, 8, 12, 17, 100, 1000, 65_536, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1),
    *(2**32, 2**63 - 1, 2**63, -(2**63), 2**64, 1_700_000_000_000, "", "x", "1.5", " 7", "1_0"),
    *("٣", "0x10", "1e3", "null", "9" * 5000),
)
WORDS: Final = ("true", "TRUE", "false", "", "x")

AT_ONCE: Final = {"suspendTimeoutMillis": ("0", "1", "-1"), "timestamp": ("0", "-1", "9" * 18)}
"""Fields whose value could make the broker take its time."""

BODIES: Final = (
    *(b"", b"{}", b"[]", b"null", b"1", b'"x"', b"{", b"\xff\xfe", b"x" * 70_000, b"[" * 9000),
    *(b'{"a":' * 2000, b"\x00\x00\x00\x01", bytes(40), b"k=v\n", b"k\n"),
)


USUAL: Final = {
    **dict.fromkeys(("topic", "b", "originTopic"), "orders"),
    **dict.fromkeys(("group", "consumerGroup", "groupName", "srcGroup", "destGroup"), "shop"),
    **dict.fromkeys(("producerGroup", "a", "compareGroup"), "shop"),
    **dict.fromkeys(("defaultTopic", "c"), "TBW102"),
    **dict.fromkeys(("clientID", "clientId"), "c1"),
    **dict.fromkeys(("perm", "commitOrRollback", "maxNum", "count"), "8"),
    **dict.fromkeys(("endTimestamp", "maxMsgNums"), "1700000000000"),
    **dict.fromkeys(("subscription", "filterGroups"), "*"),
    "expressionType": "TAG",
    "boundaryType": "LOWER",
    "topicFilterType": "SINGLE_TAG",
    "i": "KEYS\x01k\x02",
    "properties": "TAGS\x01t\x02",
    "key": "k",
    "attributes": "",
    "statsName": "TOPIC_PUT_NUMS",
    "statsKey": "orders",
    "change": "shrink",
    "node": "n9",
    "transfereeId": "n9",
    "msgId": "7F00000100002A9F0000000000000000",
}
"""What a field holds that is not spoilt; other texts are empty, other numbers 0."""


def _usual(name: str, kind: Any) -> str:
    return USUAL.get(name, "false" if kind is bool else "" if kind is str else "0")


def _spoilt(rng: random.Random, name: str, kind: Any) -> str:
    if name in AT_ONCE:
        return rng.choice(AT_ONCE[name])
    if kind is bool:
        return rng.choice(WORDS)
    if kind is str:
        return rng.choice(NAMES)
    return str(rng.choice(NUMBERS))


def _kinds(code: int) -> dict[str, Any]:
    """Wire names and types of the fields; none of a code that is refused by name."""
    found = spelling(code)
    if found is None:
        return {}
    kinds = {f.name: value_type(f.type)[0] for f in fields(found.request)}
    return {wire: kinds[name] for name, wire in found.names.items()}


def random_fields(rng: random.Random, code: int) -> dict[str, str]:
    """Fields of the right names, of which some are spoilt and some missing."""
    given: dict[str, str] = {wire: _usual(wire, kind) for wire, kind in _kinds(code).items()}
    for wire, kind in rng.sample([*_kinds(code).items()], min(len(given), rng.randrange(4))):
        given[wire] = _spoilt(rng, wire, kind)
    if rng.random() < 0.1:
        given.pop(rng.choice(list(given) or [""]), None)
    return given


def _document(rng: random.Random, depth: int = 0) -> Any:
    """JSON with members that bodies have."""
    match rng.randrange(8 if depth < 3 else 5):
        case 0:
            return rng.choice([None, True, False, 1.5, 2**70])
        case 1 | 2:
            return rng.choice([each for each in NUMBERS if isinstance(each, int)])
        case 3 | 4:
            return rng.choice([name for name in NAMES if name.isascii()])
        case 5:
            return [_document(rng, depth + 1) for _ in range(rng.randrange(4))]
        case _:
            return {rng.choice(MEMBERS): _document(rng, depth + 1) for _ in range(rng.randrange(9))}


MEMBERS: Final = (
    *("clientID", "clientId", "producerDataSet", "consumerDataSet", "groupName", "consumerGroup"),
    *("subscriptionDataSet", "topic", "subString", "expressionType", "tagsSet", "codeSet", "mqSet"),
    *("subVersion", "brokerName", "queueId", "topicConfigList", "groupConfigList", "topicName"),
    *("attributes", "readQueueNums", "writeQueueNums", "perm", "retryQueueNums", "retryMaxTimes"),
    *("groupRetryPolicy", "type", "messageModel", "consumeType", "subscriptionData", "order"),
    *("consumeEnable", "classFilterMode", "onlyThisBroker", "heartbeatFingerprint", "isWithoutSub"),
)


QUEUE: Final = {"topic": "orders", "brokerName": "broker-a", "queueId": 0}
SUBSCRIPTION: Final = {"topic": "orders", "subString": "*", "subVersion": 1, "tagsSet": []}
WHOLE: Final[Mapping[int, Any]] = {
    34: {
        "clientID": "c1",
        "producerDataSet": [{"groupName": "pg"}],
        "consumerDataSet": [
            {
                "groupName": "shop",
                "consumeType": "CONSUME_PASSIVELY",
                "messageModel": "CLUSTERING",
                "consumeFromWhere": "CONSUME_FROM_LAST_OFFSET",
                "subscriptionDataSet": [SUBSCRIPTION],
            }
        ],
    },
    41: {"consumerGroup": "shop", "clientId": "c1", "mqSet": [QUEUE]},
    42: {"consumerGroup": "shop", "clientId": "c1", "mqSet": [QUEUE]},
    46: {"clientId": "c1", "group": "shop", "subscriptionData": SUBSCRIPTION},
    18: {"topicConfigList": [{"topicName": "bills", "readQueueNums": 4, "attributes": {"a": "b"}}]},
    200: {"groupName": "shop", "groupRetryPolicy": {"type": "CUSTOMIZED"}, "attributes": {}},
    225: {"groupConfigList": [{"groupName": "shop"}]},
}
"""Bodies that are in order, by request code."""


def _altered(rng: random.Random, value: Any) -> Any:
    """The same document with something in it exchanged."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(list(value))
        return {**value, key: _altered(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.8:
        return [_altered(rng, value[0]), *value[1:]]
    return _document(rng)


def random_body(rng: random.Random, code: int) -> bytes:
    kind = rng.random()
    if code in WHOLE and kind < 0.6:
        return msgspec.json.encode(_altered(rng, WHOLE[code]))
    if kind < 0.7:
        return rng.choice(BODIES)
    return msgspec.json.encode(_document(rng)) if kind < 0.85 else BATCH


BATCH: Final = encode_batch_body([BatchItem(0, b"one", b""), BatchItem(0, b"two", b"KEYS\x01k")])


async def answer_to(
    connection: Connection, code: int, wire: Mapping[str, str], body: bytes
) -> Frame:
    """What is answered to a request that is given field by field."""
    opaque = connection.next_opaque()
    return await connection.exchange(opaque, _frame(code, opaque, wire, body), PATIENCE_S)


def _frame(
    code: int, opaque: int, wire: Mapping[str, str], body: bytes, *, one_way: bool = False
) -> bytes:
    head = {"code": code, "flag": 2 if one_way else 0, "language": "JAVA", "opaque": opaque}
    header = json.dumps(head | {"version": 479, "extFields": wire}).encode()
    return struct.pack(">II", 4 + len(header) + len(body), len(header)) + header + body


async def _prepare(client: Connection) -> None:
    """Make anew what some request may have removed."""
    for name in ("orders", "bills"):
        await client.call(CreateTopic(topic=name, read_queue_nums=4, write_queue_nums=4, perm=6))
    await client.call(CreateGroup(), encode_body(GroupConfig(group_name="shop")))
    await send(client, "orders")


@pytest.mark.parametrize("seed, size", [(1, 1), (2, 3)])
async def test_random_fields_of_the_right_names_are_answered(
    tmp_path: Path, seed: int, size: int
) -> None:
    """Whatever is in them: the connection stays, and no code is 1 with an exception's text. Of
    three members, one that follows is asked."""
    rng = random.Random(seed)
    faults: list[Any] = []
    told: defaultdict[int, set[int]] = defaultdict(set)
    async with brokers(tmp_path, size) as group:
        await group.start()
        asked = [await group.wait_leader(), *await group.wait_followers()][-1]
        codes = sorted(asked.broker.routes.by_code)
        with structlog.testing.capture_logs() as logged:
            async with dial(asked) as client:
                for _ in range(ROUNDS):
                    await _prepare(client)
                    for code in codes:
                        wire, body = random_fields(rng, code), random_body(rng, code)
                        frame = await answer_to(client, code, wire, body)
                        told[code].add(frame.code)
                        if frame.code == 1 and EXCEPTION.match(frame.remark or ""):
                            faults.append((code, frame.remark, wire, body[:80]))
                await client.call(GetBrokerRuntime())
    faults += [each for each in logged if each["log_level"] in ("error", "critical")]

    assert [] == faults
    assert len([code for code in told if 0 in told[code]]) > 25  # and much of it was carried out


async def test_one_way_requests_are_not_answered_and_end_no_connection(tmp_path: Path) -> None:
    rng = random.Random(3)
    async with brokers(tmp_path, 1) as group:
        await group.start()
        leader = await group.wait_leader()
        codes = sorted(leader.broker.routes.by_code)
        async with dial(leader) as client:
            await _prepare(client)
        with structlog.testing.capture_logs() as logged:
            async with await trio.open_tcp_stream(*leader.address) as stream:
                for _ in range(ROUNDS):
                    for code in codes:
                        wire, body = random_fields(rng, code), random_body(rng, code)
                        await stream.send_all(_frame(code, 7, wire, body, one_way=True))
                await stream.send_all(_frame(GetBrokerRuntime.code, 8, {}, b""))
                framer = Framer()
                answers: list[Frame] = []
                while 8 not in [frame.opaque for frame in answers]:
                    heard = framer.feed(await stream.receive_some())
                    answers += [frame for frame in heard if frame.flag & 1]  # or it asks us

    assert [8] == [frame.opaque for frame in answers]
    assert [] == [each for each in logged if each["log_level"] in ("error", "critical")]


# What is spoilt, in which fields, with which body; the code, and a part of the remark.
Row = tuple[str, dict[str, str | None], bytes, int, str]

SENDS: Final[tuple[Row, ...]] = (
    ("body too large", {}, bytes(4 * 1024 * 1024 + 1), 13, "4194304"),
    ("topic with a dot", {"b": "a.b"}, b"x", 29, "a.b"),
    ("topic of 128 letters", {"b": "t" * 128}, b"x", 29, "127"),
    ("no topic's name", {"b": ""}, b"x", 29, "no name"),
    ("no topic", {"b": None}, b"x", 1, "b: missing"),
    ("topic of delays", {"b": "SCHEDULE_TOPIC_XXXX"}, b"x", 16, "forbidden"),
    ("topic of half messages", {"b": "RMQ_SYS_TRANS_HALF_TOPIC"}, b"x", 16, "forbidden"),
    ("topic of timers", {"b": "rmq_sys_wheel_timer"}, b"x", 16, "forbidden"),
    ("queue beyond the last", {"e": "4"}, b"x", 29, "queueId[4]"),
    ("queue of 33 bits", {"e": str(2**31)}, b"x", 1, "e: '2147483648'"),
    ("queue that is no number", {"e": "x"}, b"x", 1, "e: 'x'"),
    ("retries of an illegal group", {"b": "%RETRY%a.b"}, b"x", 29, "a.b"),
    ("retries of nobody", {"b": "%RETRY%"}, b"x", 29, "no name"),
    ("topic that cannot be made", {"b": "new", "c": "bills"}, b"x", 17, "new"),
)

SINGLE_SENDS: Final[tuple[Row, ...]] = (
    ("properties too long", {"i": "k\x01" + "v" * 32_768}, b"x", 13, "32767"),
    ("half message of nobody", {"i": "TRAN_MSG\x01true\x02"}, b"x", 13, "PGROUP"),
    ("half message of no kind", {"f": "4"}, b"x", 13, "TRAN_MSG"),
    ("time that is none", {"i": "TIMER_DELIVER_MS\x01soon\x02"}, b"x", 13, "TIMER_DELIVER_MS"),
    ("batch that is none", {"m": "true"}, b"rubbish", 13, "batch"),
)

FAR: Final = str(2**63 - 1)
HANDLE: Final = {
    "none": "x",
    "half": "djEgb3JkZXJz",
    "long": "A" * 4000,
    "of another broker": base64.urlsafe_b64encode(b"v1 orders broker-z 99999999999999 U").decode(),
    "of another topic": base64.urlsafe_b64encode(b"v1 bills broker-a 99999999999999 U").decode(),
    "of the past": base64.urlsafe_b64encode(b"v1 orders broker-a 1 U").decode(),
}

OTHERS: Final[tuple[tuple[int, Row], ...]] = (
    # Pulls.
    (11, ("unknown topic", {"topic": "nobody"}, b"", 17, "nobody")),
    (11, ("queue below the first", {"queueId": "-1"}, b"", 29, "queueId[-1]")),
    (11, ("queue beyond the last", {"queueId": "4"}, b"", 29, "queueId[4]")),
    (11, ("offset below the first", {"queueOffset": "-1"}, b"", 21, "OFFSET_TOO_SMALL")),
    (11, ("offset beyond the end", {"queueOffset": FAR}, b"", 21, "OFFSET_OVERFLOW_BADLY")),
    (11, ("illegal group", {"consumerGroup": "a.b"}, b"", 26, "a.b")),
    (11, ("unreadable SQL", {"subscription": "a >", "expressionType": "SQL92"}, b"", 23, "")),
    (11, ("unknown kind", {"expressionType": "XPATH"}, b"", 23, "XPATH")),
    # Offsets.
    (14, ("unknown topic", {"topic": "nobody"}, b"", 22, "Not found")),
    (14, ("unknown group", {"consumerGroup": "nobody", "topic": "bills"}, b"", 22, "Not found")),
    (15, ("unknown topic", {"topic": "nobody"}, b"", 17, "nobody")),
    (15, ("unknown group", {"consumerGroup": "nobody"}, b"", 26, "nobody")),
    (15, ("queue beyond the last", {"queueId": "4"}, b"", 29, "queueId[4]")),
    *(
        (code, row)
        for code in (29, 30, 31, 32)
        for row in (
            ("unknown topic", {"topic": "nobody"}, b"", 17, "nobody"),
            ("queue below the first", {"queueId": "-1"}, b"", 29, "queueId[-1]"),
            ("queue beyond the last", {"queueId": "4"}, b"", 29, "queueId[4]"),
        )
    ),
    (29, ("boundary of no kind", {"boundaryType": "MIDDLE"}, b"", 29, "MIDDLE")),
    # Messages by place and key.
    *((33, (f"place {at}", {"offset": at}, b"", 1, at)) for at in ("-1", "7", FAR)),
    (12, ("no key", {"key": ""}, b"", 29, "key")),
    (12, ("no messages", {"maxNum": "0"}, b"", 29, "maxNum")),
    *((36, (f"place {at}", {"offset": at}, b"", 1, at)) for at in ("-1", "7", FAR)),
    (36, ("unknown group", {"group": "nobody"}, b"", 26, "nobody")),
    (36, ("illegal group", {"group": "a.b"}, b"", 26, "a.b")),
    *(
        (37, (f"half at {at}", {"commitLogOffset": at}, b"", 1, "find prepared"))
        for at in ("-1", "7", FAR)
    ),
    (37, ("verdict of no kind", {"commitOrRollback": "3"}, b"", 29, "commitOrRollback 3")),
    *((370, (f"handle {w}", {"recallHandle": h}, b"", 604, "")) for w, h in HANDLE.items()),
    (370, ("unknown topic", {"topic": "nobody"}, b"", 17, "nobody")),
    # Groups, locks, resets.
    (41, ("unknown group", {}, b'{"consumerGroup":"nobody","clientId":"c","mqSet":[]}', 26, "")),
    (200, ("illegal name", {}, b'{"groupName":"a.b"}', 29, "a.b")),
    (200, ("too long a name", {}, b'{"groupName":"%s"}' % (b"g" * 121), 29, "120")),
    (200, ("retry queues", {}, b'{"groupName":"shop","retryQueueNums":-1}', 29, "-1")),
    (200, ("no body", {}, b"", 1, "")),
    (222, ("unknown topic", {"topic": "nobody"}, b"", 17, "nobody")),
    (222, ("unknown group", {"group": "nobody"}, b"", 26, "nobody")),
    (222, ("queue beyond the last", {"queueId": "4"}, b"", 29, "queueId[4]")),
    (222, ("offset beyond the end", {"queueId": "0", "offset": FAR}, b"", 1, FAR)),
    (222, ("offset below the first", {"queueId": "0", "offset": "-2"}, b"", 1, "-2")),
    (314, ("unknown destination", {"destGroup": "nobody"}, b"", 26, "nobody")),
    # Topics.
    (17, ("permission", {"perm": "8"}, b"", 29, "perm 8")),
    (17, ("queues", {"readQueueNums": "-1"}, b"", 29, "-1 read")),
    (17, ("system topic", {"topic": "TBW102"}, b"", 29, "system topic")),
    (17, ("attribute", {"attributes": "+colour=red"}, b"", 1, "colour")),
    (202, ("unknown topic", {"topic": "nobody"}, b"", 17, "nobody")),
    (215, ("system topic", {"topic": "TBW102"}, b"", 29, "system topic")),
    (321, ("queue beyond the last", {"queueId": "4"}, b"", 29, "queueId[4]")),
    (351, ("unknown topic", {"topic": "nobody"}, b"", 17, "nobody")),
    (352, ("unknown group", {"group": "nobody"}, b"", 26, "nobody")),
)


VALID: Final[Mapping[int, dict[str, str]]] = {
    11: {"sysFlag": "4", "subscription": "*", "maxMsgNums": "32"},
    17: {"perm": "6", "readQueueNums": "4", "writeQueueNums": "4"},
}
"""Where USUAL would be refused for another reason."""


async def test_each_bad_thing_has_its_code_and_says_what_it_is(tmp_path: Path) -> None:
    rows = [(code, row) for code in (310, 320) for row in SENDS]
    rows += [(310, row) for row in SINGLE_SENDS] + [*OTHERS]
    faults = []
    async with brokers(tmp_path, 1) as group:
        await group.start()
        leader = await group.wait_leader()
        async with dial(leader) as client:
            await _prepare(client)
            for code, (what, changed, body, expected, remark) in rows:
                usual = {wire: _usual(wire, kind) for wire, kind in _kinds(code).items()}
                given: dict[str, str | None] = usual | VALID.get(code, {}) | changed
                wire = {name: value for name, value in given.items() if value is not None}
                frame = await answer_to(client, code, wire, body)
                if frame.code != expected or remark not in (frame.remark or ""):
                    faults.append((code, what, expected, frame.code, frame.remark))

    assert [] == faults
