"""What a stretch of the log says of its keys, the files of stretches, and looking into entries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.machine.codec import encode_command
from broker.machine.commands import DeleteTopic
from broker.machine.end_transaction import EndTransaction, Verdict, encode_end_transaction
from broker.machine.moves import Move, encode_move
from broker.machine.revivals import Revival, encode_revival
from broker.store import key_files
from broker.store.key_files import DamagedFile, KeyFile, likely, write_key_file
from broker.store.key_stretches import (
    STAMP_SLACK_MS,
    Stretch,
    hash_of,
    hashes_in,
    is_key,
    places,
    read_stretch,
)
from broker.store.stored_records import matches
from dledger_py.remoting.wire import properties
from dledger_py.remoting.wire.message import TRANSACTION_ROLLBACK, encode_record
from dledger_py.storage.batch import seal, stored_entries
from dledger_py.storage.formats import EMPTY, KIND_NOOP, walk
from tests.broker.keys_kit import FOR_EVER, HOST, NOW_MS, ListLog, Plain, put, record, wanted

# --- stretches ------------------------------------------------------------------------------------

NAMES = st.sampled_from(["KEYS", "UNIQ_KEY", "TAGS", "KEY", "MYKEYS"])
VALUES = st.text(st.sampled_from("ab KEYSUNIQ_é"), min_size=1, max_size=12)
PIECES = st.sampled_from([b"KEYS\x01", b"UNIQ_KEY\x01", b"\x02", b"\0", b"a", b" "])


@given(
    pairs=st.lists(st.tuples(NAMES, VALUES), max_size=4),
    bodies=st.lists(PIECES, max_size=6).map(b"".join),
    ended=st.booleans(),
)
def test_no_key_of_a_record_is_missed_whatever_its_body_is(pairs, bodies, ended) -> None:
    text = "\x02".join(f"{name}\x01{value}" for name, value in pairs) + "\x02" * ended
    one = encode_record(
        queue_id=0,
        flag=0,
        sys_flag=0,
        born_timestamp_ms=1,
        born_host=HOST,
        store_timestamp_ms=NOW_MS,
        store_host=HOST,
        body=bodies,
        topic="t",
        properties=text.encode(),
    )
    known = properties.decode(text)
    keys = {*known.get("KEYS", "").split(" "), known.get("UNIQ_KEY", "")} - {""}

    hashes = hashes_in(put(one, record("other", topic="t"), topic="t"))

    assert [key for key in keys if not places(hashes, hash_of(key))] == []


def test_a_hash_is_found_where_it_is_and_not_across_two() -> None:
    hashes = bytes.fromhex("000000010000010000000001")

    assert [0, 2] == places(hashes, bytes.fromhex("00000001"))
    assert [1] == places(b"?" + hashes, bytes.fromhex("00000100"), start=1)
    assert [] == places(hashes, bytes.fromhex("00000000"))


def test_a_stretch_ends_where_it_is_told_and_knows_its_times() -> None:
    other = encode_command(DeleteTopic(stamped_ms=1, name="t"))
    log = ListLog([put(record("a"), stamped_ms=7), other, put(record("b"), stamped_ms=5)])

    two = read_stretch(log, 1, 2)
    three = read_stretch(log, 1, 3)
    none = read_stretch(log, 2, 2)

    assert two is not None
    assert three is not None
    assert none is not None
    assert (1, 2, 7, 7) == (two.first_index, two.last_index, two.first_ms, two.last_ms)
    assert (3, 5, 7) == (three.last_index, three.first_ms, three.last_ms)
    assert log.end.position == three.end_position
    assert sorted(map(hash_of, "ab")) == sorted([three.hashes[:4], three.hashes[4:]])
    assert (b"", True) == (none.hashes, none.first_ms > none.last_ms)


@pytest.mark.parametrize("text", ["", "a\0", "a\x01b", "\x02"])
def test_what_no_stretch_would_have_is_no_key(text) -> None:
    assert not is_key(text)
    assert is_key("a b")


@pytest.mark.parametrize(
    "stored,key,fields,number",
    [
        (record("a b"), "b", {}, 1),
        (record("a b"), "a b", {}, 0),
        (record("ab"), "b", {}, 0),
        (record("x", more="UNIQ_KEY\x01b\x02"), "b", {}, 1),
        (record("x", more="UNIQ_KEY\x01b\x02"), "b", {"unique": True}, 1),
        (record("b"), "b", {"unique": True}, 0),
        (record("b"), "b", {"topic": "others"}, 0),
        (record("b"), "b", {"begin_ms": NOW_MS, "end_ms": NOW_MS}, 1),
        (record("b"), "b", {"begin_ms": NOW_MS + 1}, 0),
        (record("b"), "b", {"end_ms": NOW_MS - 1}, 0),
        (record("b", sys_flag=TRANSACTION_ROLLBACK), "b", {}, 0),
        (record("x", body=record("b")), "b", {}, 0),
    ],
)
def test_a_record_fits_by_its_own_properties(stored, key, fields, number) -> None:
    log = ListLog([put(record("other"), stored)])
    expected = [log.end.position - len(stored)] * number

    assert expected == matches(log.entries, wanted(key, **fields))


# --- files ----------------------------------------------------------------------------------------


def stretch(first: int, last: int, *keys: str, ms: int = NOW_MS) -> Stretch:
    return Stretch(
        first_index=first,
        last_index=last,
        end_position=0,
        last_crc=7,
        first_ms=ms,
        last_ms=ms,
        hashes=b"".join(map(hash_of, keys)),
    )


def test_a_file_names_the_likely_stretches_newest_first(tmp_path) -> None:
    late_ms = NOW_MS + 3 * STAMP_SLACK_MS
    file = write_key_file(
        tmp_path,
        [
            stretch(5, 6, "a", "b"),
            stretch(7, 7),
            stretch(8, 9, "a"),
            stretch(10, 11, "a", ms=late_ms),
        ],
    )

    def of(key, begin_ms=FOR_EVER[0], end_ms=FOR_EVER[1]):
        return likely(file, hash_of(key), begin_ms, end_ms)

    assert [(10, 11), (8, 9), (5, 6)] == of("a")
    assert [(5, 6)] == of("b")
    assert [] == of("c")
    assert [(8, 9), (5, 6)] == of("a", end_ms=NOW_MS)
    assert [(10, 11), (8, 9), (5, 6)] == of("a", begin_ms=NOW_MS + STAMP_SLACK_MS)
    assert [(10, 11)] == of("a", begin_ms=NOW_MS + STAMP_SLACK_MS + 1)
    assert [] == of("a", begin_ms=late_ms + STAMP_SLACK_MS + 1)
    assert [file] == key_files.key_files(tmp_path)


def test_the_bytes_of_a_file(tmp_path) -> None:
    """A layout never changes in place: this is version 1."""
    file = write_key_file(tmp_path, [stretch(5, 6, "a", ms=1), stretch(7, 7, "b", ms=2)])

    assert "00000000000000000005" == file.path.name
    assert (
        "444c4544474b4900"
        "0001"
        "0000"
        "0000000000000005"
        "0000000000000007"
        "00000007"
        "0000000000000001"
        "0000000000000002"
        "00000002"
        "00000002"
    ) == file.path.read_bytes()[:56].hex()
    assert (
        "0000000000000006"
        "0000000000000001"
        "0000000000000001"
        "00000001"
        "0000000000000007"
        "0000000000000002"
        "0000000000000002"
        "00000001"
        "e8b7be43"
        "71beeff9"
    ) == file.path.read_bytes()[64:].hex()


@pytest.mark.parametrize("at", [0, 9, 20, 56, 60, 64, -1])
def test_a_changed_byte_is_noticed(tmp_path, at) -> None:
    file = write_key_file(tmp_path, [stretch(5, 6, "a")])
    raw = bytearray(file.path.read_bytes())
    raw[at] ^= 1
    file.path.write_bytes(raw)

    with pytest.raises(DamagedFile):
        likely(file if at in (64, -1) else headed(tmp_path, file), hash_of("a"), *FOR_EVER)


def headed(folder, file: KeyFile) -> KeyFile:
    """The file as a start finds it. Raises: DamagedFile if it would not."""
    found = key_files.key_files(folder)
    if not found:
        assert not file.path.exists()
        raise DamagedFile
    return found[0]


@pytest.mark.parametrize("cut", [1, 70, 10_000])
def test_a_cut_file_is_removed(tmp_path, cut) -> None:
    first = write_key_file(tmp_path, [stretch(5, 6, "a")])
    second = write_key_file(tmp_path, [stretch(7, 8, "a")])
    second.path.write_bytes(second.path.read_bytes()[:-cut])

    assert [first] == key_files.key_files(tmp_path)
    assert [first.path] == list(tmp_path.iterdir())


def test_what_lies_behind_a_gap_is_removed(tmp_path) -> None:
    first, *_ = [write_key_file(tmp_path, [stretch(n, n + 1, "a")]) for n in (1, 3, 5)]
    (tmp_path / f"{3:020d}").unlink()

    assert [first] == key_files.key_files(tmp_path)
    assert [first.path] == list(tmp_path.iterdir())


def test_a_moved_message_is_found_where_it_was_put() -> None:
    move = Move(
        stamped_ms=NOW_MS,
        topic="waiting",
        queue_id=0,
        first_offset=0,
        next_offset=2,
        soonest_ms=NOW_MS,
        latest_ms=NOW_MS,
        recalls_seen=0,
    )
    records = [record("a"), record("b")]
    log = ListLog([encode_move(move, [("orders", 0, 0, each) for each in records])])
    stretch = read_stretch(log, 1, 1)

    assert stretch is not None
    assert (NOW_MS, True) == (stretch.first_ms, bool(places(stretch.hashes, hash_of("b"))))
    assert [log.end.position - len(records[1])] == matches(log.entries, wanted("b"))


def test_a_revived_message_is_found_where_it_was_put() -> None:
    revival = Revival(
        stamped_ms=NOW_MS, group="g", topic="orders", queue_id=0, checkpoints=((0, 1, 1),)
    )
    records = [record("a"), record("b")]
    log = ListLog([encode_revival(revival, [("orders", 0, 0, each) for each in records])])
    stretch = read_stretch(log, 1, 1)

    assert stretch is not None
    assert (NOW_MS, True) == (stretch.first_ms, bool(places(stretch.hashes, hash_of("b"))))
    assert [log.end.position - len(records[1])] == matches(log.entries, wanted("b"))


def test_a_committed_message_is_found_where_its_transaction_ended() -> None:
    first = record("a")
    committed = EndTransaction(
        stamped_ms=NOW_MS, half_position=7, verdict=Verdict.COMMITTED, put=put(first)
    )
    withdrawn = EndTransaction(stamped_ms=NOW_MS, half_position=8, verdict=Verdict.ROLLED_BACK)
    log = ListLog([encode_end_transaction(each) for each in (withdrawn, committed)])
    stretch = read_stretch(log, 1, 2)

    assert stretch is not None
    assert places(stretch.hashes, hash_of("a"))
    assert [log.end.position - len(first)] == matches(log.entries, wanted("a"))


def test_no_operation_is_no_command() -> None:
    sealed = seal(EMPTY, [Plain(1, put(record("a")), KIND_NOOP)])
    entries = stored_entries(memoryview(sealed.data), walk(sealed.data, EMPTY).entries, 0)

    assert [] == matches(entries, wanted("a"))
