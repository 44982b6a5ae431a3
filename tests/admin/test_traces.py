"""Trace records as Java's client, Go's and older ones write them, and as nobody writes them."""

from hypothesis import given
from hypothesis import strategies as st

from dledger_py.admin.traces import (
    Consumed,
    Finished,
    Recalled,
    Sent,
    TakenUp,
    TransactionEnded,
    parse,
    trace_of,
)

ID = "0A000009162E18B4AAC2000000000000"
OFFSET_ID = "0A00000100002A9F00000000000003E8"


def body(*records: str) -> bytes:
    """Records with | between fields."""
    return "".join(record.replace("|", "\x01") + "\x02" for record in records).encode()


SENT = (
    f"Pub|1700000000000|DefaultRegion|pg|TopicTest|{ID}|TagA|k1|10.0.0.1:10911|5|3|0|"
    f"{OFFSET_ID}|true"
)
SENT_EXPECTED = {
    "at_ms": 1_700_000_000_000,
    "region": "DefaultRegion",
    "group": "pg",
    "topic": "TopicTest",
    "message_id": ID,
    "tags": "TagA",
    "keys": "k1",
    "broker_address": "10.0.0.1:10911",
    "body_bytes": 5,
    "cost_ms": 3,
    "kind": "normal",
    "offset_message_id": OFFSET_ID,
    "success": True,
    "client_host": "",
}


def test_a_send_as_javas_client_tells_it() -> None:
    assert [Sent(**SENT_EXPECTED)] == parse(body(SENT)).records


def test_a_send_as_gos_client_tells_it() -> None:
    found = parse(body(f"{SENT}|10.0.0.9"))

    assert [Sent(**(SENT_EXPECTED | {"client_host": "10.0.0.9"}))] == found.records


def test_a_send_as_old_clients_tell_it() -> None:
    old = SENT.replace(f"{OFFSET_ID}|", "").replace("TagA|k1", "null|null").replace("true", "false")
    changed = {"offset_message_id": "", "tags": "", "keys": "", "success": False}

    assert [Sent(**(SENT_EXPECTED | changed))] == parse(body(old)).records


def test_other_records() -> None:
    found = parse(
        body(
            f"SubBefore|1700000000010|R|cg|req1|{ID}|2|null",
            f"SubBefore|1700000000010|R|cg|req1|{ID}|2|k1|10.0.0.8",
            f"SubAfter|req1|{ID}|7|true|null|0|1700000000017|cg",
            f"SubAfter|req1|{ID}|7|false|null|2",
            f"SubAfter|req1|{ID}|7|false|null",
            f"EndTransaction|1700000000020|R|pg|T|{ID}|null|k|h:1|2|tx|COMMIT_MESSAGE|true",
            f"Recall|1700000000030|R|pg|T|{ID}|true",
        )
    )
    begun = {
        "at_ms": 1_700_000_000_010,
        "region": "R",
        "group": "cg",
        "request_id": "req1",
        "message_id": ID,
        "retry_times": 2,
    }
    ended = {"request_id": "req1", "message_id": ID, "cost_ms": 7}

    assert 0 == found.unreadable
    assert [
        TakenUp(**begun, keys="", client_host=""),
        TakenUp(**begun, keys="k1", client_host="10.0.0.8"),
        Finished(**ended, success=True, outcome="success", at_ms=1_700_000_000_017, group="cg"),
        Finished(**ended, success=False, outcome="exception", at_ms=0, group=""),
        Finished(**ended, success=False, outcome="failed", at_ms=0, group=""),
        TransactionEnded(
            at_ms=1_700_000_000_020,
            group="pg",
            topic="T",
            message_id=ID,
            broker_address="h:1",
            transaction_id="tx",
            state="COMMIT_MESSAGE",
            after_check=True,
        ),
        Recalled(at_ms=1_700_000_000_030, group="pg", topic="T", message_id=ID, success=True),
    ] == found.records


def test_what_cannot_be_read_is_counted_and_hides_nothing() -> None:
    found = parse(
        body(
            "Pub|soon|R|pg|T|id|t|k|h|5|3|0|o|true",
            "Pub|1|R",
            SENT.replace("|true", "|perhaps"),
            "SubAfter|req1",
            "Merged|1|2",
            f"SubBefore|{'9' * 30}|R|cg|req1|{ID}|2|null",
            SENT,
        )
        + b"\xff\xfe"
    )

    assert [Sent(**SENT_EXPECTED)] == found.records
    assert 7 == found.unreadable


def test_a_consumption_is_joined_by_its_request() -> None:
    trace = trace_of(
        ID,
        [
            body(SENT),
            body(SENT, f"SubAfter|r2|{ID}|9|false|null|1|5|cg"),  # twice, and an end before
            body(f"SubBefore|1000|R|cg|r1|{ID}|0|null", f"SubAfter|r1|{ID}|4|true|null|0|1004|cg"),
            body(f"SubBefore|2000|R|cg|r2|{ID}|1|null", f"SubBefore|3000|R|audit|r3|{ID}|0|null"),
            body("SubBefore|1|R|cg|r9|another|0|null"),
            body(f"SubAfter|r4|{ID}|1|true|null|0|6|late"),
        ],
    )
    blank = {
        "begun_ms": 0,
        "client_host": "",
        "retry_times": 0,
        "ended": True,
        "success": True,
        "outcome": "success",
        "cost_ms": 0,
    }

    assert [Sent(**SENT_EXPECTED)] == list(trace.sent)
    assert [
        Consumed(
            **(
                blank
                | {"group": "audit", "begun_ms": 3000}
                | {"ended": False, "success": False, "outcome": ""}
            )
        ),
        Consumed(**(blank | {"group": "cg", "begun_ms": 1000, "cost_ms": 4})),
        Consumed(
            **(
                blank
                | {"group": "cg", "begun_ms": 2000, "cost_ms": 9, "retry_times": 1}
                | {"success": False, "outcome": "time out"}
            )
        ),
        Consumed(**(blank | {"group": "late", "cost_ms": 1})),
    ] == list(trace.consumed)
    assert trace.known
    assert not trace_of("nobody", [body(SENT)]).known


PIECES = st.sampled_from(
    [
        "Pub",
        "SubBefore",
        "SubAfter",
        "EndTransaction",
        "Recall",
        "\x01",
        "\x02",
        "1",
        "true",
        "null",
    ]
)


@given(st.one_of(st.binary(), st.lists(PIECES, max_size=60).map(lambda p: "".join(p).encode())))
def test_any_bytes_are_parsed(data: bytes) -> None:
    """Each record is read or counted."""
    found = parse(data)
    texts = [text for text in data.decode(errors="replace").split("\x02") if text]

    assert len(texts) == len(found.records) + found.unreadable


@given(st.integers(min_value=0, max_value=400), st.binary(max_size=4))
def test_a_record_that_was_cut_or_spoilt_is_read_or_counted(at: int, spoilt: bytes) -> None:
    whole = body(SENT, f"SubBefore|1000|R|cg|r1|{ID}|0|null")
    trace = trace_of(ID, [whole[:at] + spoilt + whole[at + 1 :]])

    assert len(trace.sent) + len(trace.consumed) + trace.unreadable >= 1
