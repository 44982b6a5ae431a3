"""`dledger admin queryMsg…` and `queryTrace`, against a pretended broker."""

import json
from typing import Any

import click
import pytest

from dledger_py.cli.moments import MOMENT
from tests.admin.fake_cluster import FakeCluster

UNIQUE_ID = "0A000009162E18B4AAC2000000000000"


def lines(text: str) -> list[str]:
    """Without alignment."""
    return [" ".join(line.split()) for line in text.splitlines()]


def parsed(text: str) -> Any:
    return json.loads("\n".join(line for line in text.splitlines() if "[info" not in line))


def test_a_message_is_sent(dledger: Any, fake: FakeCluster) -> None:
    what = ("-t", "Orders", "-p", "h\u00e9llo", "-k", "k1 k2", "-c", "TagA", "-i", "3")
    ended = dledger("admin", "sendMessage", "-n", fake.name_server, *what)
    again = dledger("admin", "sendMessage", "--json", "-n", fake.name_server, *what)

    assert 0 == ended.code
    assert lines(ended.out)[1].startswith("broker-a 3 17 ")
    assert [("Orders", 3, "h\u00e9llo".encode())] * 2 == fake.broker.changes
    assert ("broker-a", 17) == (parsed(again.out)["brokerName"], parsed(again.out)["offset"])


@pytest.mark.parametrize(
    "what, code, said",
    [
        (("-t", "a.b", "-p", "x"), 2, "letters, digits"),
        (("-t", "Orders", "-p", "x", "-c", "a || b"), 2, "one word"),
        (("-t", "Orders", "-p", "x", "-i", "99"), 1, "99"),
    ],
)
def test_what_cannot_be_sent_is_told(
    dledger: Any, fake: FakeCluster, what: tuple[str, ...], code: int, said: str
) -> None:
    ended = dledger("admin", "sendMessage", "-n", fake.name_server, *what)

    assert (code, "") == (ended.code, ended.out)
    assert said in ended.err
    assert [] == fake.broker.changes


def test_messages_by_key(dledger: Any, fake: FakeCluster) -> None:
    properties = {"TAGS": "TagA", "KEYS": "k1 k2", "UNIQ_KEY": UNIQUE_ID}
    fake.broker.put("Orders", "k1", b"hello\n", properties=properties)
    ended = dledger("admin", "queryMsgByKey", "-n", fake.name_server, "-t", "Orders", "-k", "k1")
    again = dledger(
        "admin", "queryMsgByKey", "--json", "-n", fake.name_server, "-t", "Orders", "-k", "k1"
    )

    assert 0 == ended.code
    assert "broker-a 0 5" in lines(ended.out)[1]
    assert f"TagA k1 k2 {UNIQUE_ID} hello\ufffd" in lines(ended.out)[1]
    assert properties == parsed(again.out)[0]["properties"]


def test_a_key_nobody_has_fails(dledger: Any, fake: FakeCluster) -> None:
    ended = dledger("admin", "queryMsgByKey", "-n", fake.name_server, "-t", "Orders", "-k", "k1")

    assert (1, "") == (ended.code, ended.out)
    assert "no message of topic Orders has key k1" in ended.err


@pytest.mark.parametrize("command", ["queryMsgById", "queryMsgByUniqueKey"])
def test_one_message_with_who_consumed_it(dledger: Any, fake: FakeCluster, command: str) -> None:
    fake.broker.put("Orders", UNIQUE_ID, b"x", properties={"UNIQ_KEY": UNIQUE_ID, "colour": "red"})
    where = ("-n", fake.name_server, "-t", "Orders", "-i", UNIQUE_ID)
    ended = dledger("admin", command, *where)
    again = dledger("admin", command, "--json", *where)

    assert 0 == ended.code
    assert {f"Message Id {UNIQUE_ID}", "Property colour red"} < set(lines(ended.out))
    assert "billing CONSUMED offset 7 in its queue" in lines(ended.out)
    assert [{"group": "billing", "status": "CONSUMED", "detail": "offset 7 in its queue"}] == (
        parsed(again.out)[0]["tracks"]
    )


@pytest.mark.parametrize("command", ["queryTrace", "queryMsgTraceById"])
def test_a_trace(dledger: Any, fake: FakeCluster, command: str) -> None:
    records = (
        f"Pub|1700000000000|R|pg|Orders|{UNIQUE_ID}|t|k|10.0.0.1:10911|5|3|0|o|true|10.0.0.9",
        f"SubBefore|1700000000005|R|cg|r1|{UNIQUE_ID}|1|null",
        f"SubAfter|r1|{UNIQUE_ID}|4|false|null|2|1700000000009|cg",
        f"SubBefore|1700000000006|R|other|r2|{UNIQUE_ID}|0|null",
        f"EndTransaction|1700000000004|R|pg|Orders|{UNIQUE_ID}|t|k|h:1|2|tx|COMMIT_MESSAGE|true",
        "nonsense",
    )
    body = "".join(record.replace("|", "\x01") + "\x02" for record in records).encode()
    fake.broker.put("RMQ_SYS_TRACE_TOPIC", UNIQUE_ID, body)
    ended = dledger("admin", command, "-n", fake.name_server, "-i", UNIQUE_ID)
    document = parsed(
        dledger("admin", command, "--json", "-n", fake.name_server, "-i", UNIQUE_ID).out
    )
    said = "\n".join(lines(ended.out))

    assert 0 == ended.code
    assert " pg 10.0.0.9 Orders 10.0.0.1:10911 3 ms normal success" in said
    assert "transaction ended after it was asked by pg: COMMIT_MESSAGE" in said
    assert " 2 4 ms failed (exception)" in said
    assert " 1 no end known" in said
    assert "1 trace records could not be read" in said
    assert [("cg", False), ("other", False)] == [
        (each["group"], each["success"]) for each in document["consumed"]
    ]
    assert 1 == document["unreadable"]


def test_what_others_wrote_does_not_steer_the_terminal(dledger: Any, fake: FakeCluster) -> None:
    escape = "\x1b[31m"
    record = f"Pub|1|R|p{escape}g|T|{UNIQUE_ID}|t|k|h|5|3|0|o|true".replace("|", "\x01") + "\x02"
    ended = f"EndTransaction|1|R|{escape}|T|{UNIQUE_ID}|t|k|h|2|tx|{escape}|true"
    body = (record + ended.replace("|", "\x01") + "\x02").encode()
    fake.broker.put("RMQ_SYS_TRACE_TOPIC", UNIQUE_ID, body)
    fake.broker.put("Orders", "k1", escape.encode(), properties={"TAGS": escape, "UNIQ_KEY": "U1"})
    where = ("-n", fake.name_server)
    said = dledger("admin", "queryTrace", *where, "-i", UNIQUE_ID).out
    said += dledger("admin", "queryMsgByKey", *where, "-t", "Orders", "-k", "k1").out

    assert "\ufffd[31m" in said
    assert "\x1b" not in said


def test_a_message_nobody_traced(dledger: Any, fake: FakeCluster) -> None:
    ended = dledger("admin", "queryTrace", "-n", fake.name_server, "-i", UNIQUE_ID)

    assert 1 == ended.code
    assert "message trace on?" in ended.err


@pytest.mark.parametrize("text", ["2026-01-31 13:45:00", "2026-01-31#13:45:00:000"])
def test_moments_are_of_this_machines_zone(text: str, monkeypatch: Any) -> None:
    import time

    monkeypatch.setenv("TZ", "UTC-1")  # an hour east of Greenwich
    time.tzset()
    try:
        assert 1_769_863_500_000 == MOMENT.convert(text, None, None)
    finally:
        monkeypatch.undo()
        time.tzset()


def test_moments_in_milliseconds_and_others() -> None:
    assert [17, -1] == [MOMENT.convert(text, None, None) for text in ("17", "-1")]
    assert MOMENT.convert("now", None, None) > 1_700_000_000_000
    for text in ("soon", "", "9" * 30, "2026-13-01"):
        with pytest.raises(click.BadParameter, match="milliseconds since 1970"):
            MOMENT.convert(text, None, None)
