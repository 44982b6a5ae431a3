"""Unique ids: the layout tools read, and no repeats."""

import os

from attrs import evolve

from dledger_py.client.surroundings import HERE
from dledger_py.client.unique_ids import UniqueIds


def test_the_layout_is_javas() -> None:
    made = UniqueIds("10.0.0.9").make()

    assert len(made) == 32
    assert made == made.upper()
    assert made[:8] == "0A000009"
    assert int(made[8:12], 16) == os.getpid() & 0xFFFF


def test_ten_thousand_ids_differ() -> None:
    ids = UniqueIds("127.0.0.1")

    assert len({ids.make() for _ in range(10_000)}) == 10_000


def test_a_forked_child_takes_a_prefix_of_its_own() -> None:
    ids = UniqueIds("127.0.0.1")
    before = ids.make()
    reading, writing = os.pipe()

    child = os.fork()
    if child == 0:
        os.write(writing, ids.make().encode())
        os._exit(0)
    os.waitpid(child, 0)
    after = os.read(reading, 64).decode()
    os.close(reading)
    os.close(writing)

    assert int(after[8:12], 16) == child & 0xFFFF
    assert after[12:20] != before[12:20]
    assert ids.make()[:20] == before[:20]


def test_the_time_counts_from_the_start_of_the_local_month() -> None:
    now_s = HERE.now_s()
    ids = UniqueIds("127.0.0.1", evolve(HERE, now_s=lambda: now_s))
    now_s = ids._month_started_ms / 1000 + 1.5

    assert int(ids.make()[20:28], 16) == 1500
