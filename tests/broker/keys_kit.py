"""Entries with keyed messages, and a log that is a list of them."""

from attrs import define, field, frozen

from broker.machine.put_messages import encode_put_messages
from broker.store.stored_records import Wanted
from dledger_py.remoting.wire.message import encode_record, pack_host
from dledger_py.storage.batch import StoredEntry, seal, stored_entries
from dledger_py.storage.formats import EMPTY, KIND_COMMAND, End, walk

HOST = pack_host("127.0.0.1", 10911)
NOW_MS = 1_700_000_000_000
FOR_EVER = (-(1 << 63), (1 << 63) - 1)


def record(keys: str, *, topic="orders", body=b"x", stored_ms=NOW_MS, more="", sys_flag=0) -> bytes:
    return encode_record(
        queue_id=0,
        flag=0,
        sys_flag=sys_flag,
        born_timestamp_ms=1,
        born_host=HOST,
        store_timestamp_ms=stored_ms,
        store_host=HOST,
        body=body,
        topic=topic,
        properties=f"{more}KEYS\x01{keys}".encode(),
    )


def put(*records: bytes, topic="orders", stamped_ms=NOW_MS) -> bytes:
    return encode_put_messages(stamped_ms, [(topic, 0, 0, each) for each in records])


def wanted(key: str, **fields) -> Wanted:
    defaults = {"topic": "orders", "begin_ms": 0, "end_ms": FOR_EVER[1], "unique": False}
    return Wanted(key=key, **(defaults | fields))


@frozen
class Plain:
    index: int
    payload: bytes
    kind: int = KIND_COMMAND
    term: int = 1


@define(eq=False)
class ListLog:
    """A log of these payloads; `first_index` moves when its front is dropped."""

    payloads: list[bytes]
    first_index: int = 1
    end: End = EMPTY
    error: Exception | None = None
    entries: tuple[StoredEntry, ...] = field(init=False)

    def __attrs_post_init__(self) -> None:
        sealed = seal(EMPTY, [Plain(n, each) for n, each in enumerate(self.payloads, 1)])
        self.end = sealed.end
        self.entries = stored_entries(memoryview(sealed.data), walk(sealed.data, EMPTY).entries, 0)

    @property
    def first_position(self) -> int:
        return self.entries[self.first_index - 1].position

    def read(self, first_index: int, max_bytes: int) -> tuple[StoredEntry, ...]:
        if self.error is not None:
            raise self.error
        if not self.first_index <= first_index <= self.end.index:
            raise LookupError(first_index)
        found: list[StoredEntry] = []
        for entry in self.entries[first_index - 1 :]:
            if found and sum(len(each.raw) for each in found) + len(entry.raw) > max_bytes:
                break
            found.append(entry)
        return tuple(found)


def log_of(count: int, name: str = "k") -> ListLog:
    return ListLog([put(record(f"{name}{number}", body=bytes(300))) for number in range(count)])
