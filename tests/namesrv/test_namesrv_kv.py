"""Configuration entries of the name server."""

import pytest

from namesrv import kv
from namesrv.kv import EntryRefused, KvTable


def test_entries_are_put_read_listed_and_deleted() -> None:
    table = KvTable()
    table.put("ns", "k", "v")
    table.put("ns", "k2", "v2")

    assert table.get("ns", "k") == "v"
    assert table.namespace("ns") == {"k": "v", "k2": "v2"}
    table.delete("ns", "k")
    table.delete("ns", "k2")
    table.delete("ns", "k2")
    assert table.get("ns", "k") is None
    assert table.namespace("ns") is None


def test_the_file_is_the_same_as_java_s() -> None:
    table = KvTable()
    table.put("ORDER_TOPIC_CONFIG", "T", "broker-a:4")

    assert table.to_text() == '{"configTable":{"ORDER_TOPIC_CONFIG":{"T":"broker-a:4"}}}'
    assert KvTable.from_text(table.to_text()) == table


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"configTable":{"ns":1}}'])
def test_another_file_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        KvTable.from_text(text)


def test_the_table_has_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv, "ENTRIES_MAX", 1)
    monkeypatch.setattr(kv, "ENTRY_MAX_BYTES", 10)
    table = KvTable()
    table.put("ns", "k", "v")

    table.put("ns", "k", "w")
    with pytest.raises(EntryRefused):
        table.put("ns", "k2", "v")
    with pytest.raises(EntryRefused):
        table.put("ns", "k", "v" * 10)
    assert table.namespace("ns") == {"k": "w"}
