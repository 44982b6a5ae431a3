"""The key index and searching with it, over a log that is a list of entries."""

from functools import partial

import pytest
import trio
import trio.testing
from attrs import define, evolve

from broker.errors import LogUnreadable, TooManyQueries
from broker.serving import key_index, key_search
from broker.serving.key_index import KeyIndex, share_of_time
from broker.serving.key_search import KeySearch
from dledger_py.storage import Corrupt
from tests.broker.keys_kit import ListLog, log_of, put, record, wanted


async def at_once(fn, *arguments, abandon_on_cancel=False):
    return fn(*arguments)


def index_of(log: ListLog, folder, *, applied: int | None = None) -> KeyIndex:
    def place() -> tuple[int, int]:
        if applied is None:
            return log.end.index, log.end.position
        entry = log.entries[applied - 1]
        return applied, entry.position + len(entry.raw)

    return KeyIndex(
        directory=folder,
        log=lambda: log,
        applied=place,
        wait_replayed=partial(at_once, list),
        run_in_thread=at_once,
    )


async def indexed(log: ListLog, folder, **how) -> KeyIndex:
    index = index_of(log, folder, **how)
    await index.open()
    await index.catch_up()
    return index


@pytest.fixture
def small(monkeypatch):
    """Stretches of two entries and files of two stretches."""
    monkeypatch.setattr(key_index, "STRETCH_BYTES", 1000)
    monkeypatch.setattr("broker.store.key_stretches.STRETCH_BYTES", 1200)
    monkeypatch.setattr(key_index, "FILE_STRETCHES", 2)


def spans(index: KeyIndex) -> list[tuple[int, int]]:
    return [(file.first_index, file.last_index) for file in index.files]


# --- the index ------------------------------------------------------------------------------------


async def test_full_stretches_become_files_in_the_order_of_the_log(tmp_path, small) -> None:
    log = log_of(11)
    index = await indexed(log, tmp_path)

    assert [(1, 4), (5, 8)] == spans(index)
    assert [(9, 10)] == [(each.first_index, each.last_index) for each in index.stretches]
    assert (11, log.entries[10].position) == (index.next_index, index.next_position)


async def test_what_is_not_applied_is_not_indexed(tmp_path, small) -> None:
    index = await indexed(log_of(11), tmp_path, applied=5)

    assert 6 > index.next_index > 1


async def test_another_life_goes_on_behind_the_files(tmp_path, small) -> None:
    log = log_of(11)
    first = await indexed(log, tmp_path)
    again = index_of(log, tmp_path)
    await again.open()

    assert first.files == again.files
    assert (9, log.entries[8].position) == (again.next_index, again.next_position)


@pytest.mark.parametrize("change,left", [("another", []), ("shorter", [(1, 4)]), ("front", [])])
async def test_files_of_another_log_are_removed(tmp_path, small, change, left) -> None:
    await indexed(log_of(11), tmp_path)
    log = log_of(11, "other" if change == "another" else "k")
    if change == "front":
        (tmp_path / f"{1:020d}").unlink()
    index = index_of(log, tmp_path, applied=7 if change == "shorter" else None)
    await index.open()

    assert left == spans(index)
    assert len(left) == len(list(tmp_path.iterdir()))


async def test_files_go_with_the_entries_they_are_about(tmp_path, small) -> None:
    log = log_of(15)
    index = await indexed(log, tmp_path)
    log.first_index = 6
    index._let_go()
    kept, left = spans(index), len(list(tmp_path.iterdir()))
    log.first_index = 15
    index._let_go()

    assert ([(5, 8), (9, 12)], 2) == (kept, left)
    assert ([], [], 15) == (index.files, list(tmp_path.iterdir()), index.next_index)


async def test_an_index_that_retention_overtakes_begins_anew_behind_it(tmp_path, small) -> None:
    log = log_of(15)
    index = await indexed(log, tmp_path, applied=7)
    assert index.stretches
    log.first_index = 11
    await index._advance()
    begun = (index.next_index, index.files[:], index.stretches[:])
    index.applied = lambda: (log.end.index, log.end.position)
    await index.catch_up()
    again = index_of(log, tmp_path)
    await again.open()

    assert (11, [], []) == begun
    assert [(11, 14)] == spans(index)
    assert index.files == again.files


async def test_a_damaged_file_is_indexed_again(tmp_path, small) -> None:
    index = await indexed(log_of(15), tmp_path)
    before = spans(index)
    index.drop_from(index.files[1])
    dropped = spans(index)
    index.drop_from(evolve(index.files[0], path=tmp_path / "unknown"))
    await index.catch_up()

    assert [(1, 4)] == dropped
    assert before == spans(index)


@pytest.mark.parametrize("error", [Corrupt("f", 0, "bad"), OSError("disk")])
async def test_a_log_that_cannot_be_read_is_tried_again_and_stops_nothing(
    tmp_path, small, error, autojump_clock
) -> None:
    log = log_of(11)
    index = await indexed(log, tmp_path, applied=5)
    index.applied = lambda: (log.end.index, log.end.position)
    log.error = error
    async with trio.open_nursery() as nursery:
        nursery.start_soon(index._live)
        await trio.sleep(key_index.PUT_OFF_S / 2)
        with pytest.raises(LogUnreadable):
            await search_of(index, log).find(wanted("k1"), 1)
        log.error = None
        await trio.sleep(key_index.PUT_OFF_S)
        nursery.cancel_scope.cancel()

    assert [(1, 4), (5, 8)] == spans(index)


def test_a_broker_in_use_gives_little_time_and_more_only_busy_and_far_behind() -> None:
    far = key_index.FAR_BEHIND_BYTES + 1
    rates = (0, 100_000, 700_000)
    shares = [share_of_time(bytes_per_s=r, behind_bytes=n) for r in rates for n in (0, far)]

    assert [0.25, 0.25, 0.05, 0.05, 0.01, 0.04] == shares


# --- searching ------------------------------------------------------------------------------------


@define(eq=False)
class AnyQueue:
    """Has every record at every position."""

    def offset_of(self, topic: str, queue_id: int, position: int) -> int | None:
        return 0


@define(eq=False)
class Bytes:
    log: ListLog

    def read_bytes(self, position: int, length: int, *, nowait: bool = False) -> bytearray:
        raw = b"".join(entry.raw for entry in self.log.entries)
        return bytearray(raw[position : position + length])


def search_of(index: KeyIndex, log: ListLog) -> KeySearch:
    return KeySearch(
        index=index,
        log=lambda: log,
        applied=index.applied,
        reader=Bytes(log),
        queues=AnyQueue(),  # type: ignore[arg-type]
        run_in_thread=at_once,
    )


async def test_a_search_that_did_not_see_all_says_so(tmp_path, small, monkeypatch) -> None:
    """Far behind, the newest is searched, and what is indexed."""
    log = log_of(41)
    index = await indexed(log, tmp_path, applied=12)
    index.applied = lambda: (log.end.index, log.end.position)
    monkeypatch.setattr(key_search, "UNINDEXED_BYTES_MAX", 3000)
    search = search_of(index, log)
    results = {key: await search.find(wanted(key), 1) for key in ("k1", "k20", "k40", "none")}

    assert {"k1": (1, True), "k20": (0, False), "k40": (1, True), "none": (0, False)} == {
        key: (len(found.records), found.complete) for key, found in results.items()
    }


async def test_only_so_many_searches_wait(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(key_search, "WAITING_MAX", 1)
    log = log_of(1)
    search = search_of(index_of(log, tmp_path), log)
    results = []

    async def ask() -> None:
        try:
            results.append(len((await search.find(wanted("k0"), 1)).records))
        except TooManyQueries:
            results.append("refused")

    async with trio.open_nursery() as nursery, search._one:
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()

    assert ["refused", 1] == results


async def test_a_search_in_vain_ends(tmp_path, small, monkeypatch) -> None:
    log = ListLog([put(record("k", topic="others", body=bytes(300)), topic="others")] * 41)
    index = await indexed(log, tmp_path)
    search = search_of(index, log)
    whole = await search.find(wanted("k"), 1)
    monkeypatch.setattr(key_search, "INDEXED_BYTES_MAX", 3000)
    part = await search.find(wanted("k"), 1)

    assert (True, False) == (whole.complete, part.complete)


async def test_entries_that_go_during_a_search_are_passed_over(tmp_path, small) -> None:
    log = log_of(15)
    index = await indexed(log, tmp_path)
    log.first_index = 7
    index.files[0].path.unlink()
    found = [await search_of(index, log).find(wanted(f"k{n}"), 1) for n in (4, 7)]

    assert [0, 1] == [len(each.records) for each in found]
