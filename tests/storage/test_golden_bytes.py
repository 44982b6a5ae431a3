"""Bytes that must stay readable for ever, and that this version still writes.

tests/golden/storage/ holds one member's directory after `write_golden` below: add new ones for
new versions, never change these.
"""

from pathlib import Path

import pytest

from dledger_py.storage import Birth, HardState, Identity, recover
from dledger_py.storage.files import FileSystem
from dledger_py.storage.formats import segment_name
from dledger_py.storage.lying import LyingFiles
from dledger_py.storage.summaries import summary_name
from tests.storage.log_scenes import Entry, all_entries

GOLDEN = Path(__file__).parents[1] / "golden" / "storage"
BIRTH = 0x0102030405060708
SUMMARY = summary_name(0)
NAMES = [segment_name(0), SUMMARY, segment_name(152), "birth", "hard-state"]
WHOSE = Identity(cluster="golden", group="brök", member="n1")
ENTRIES = (
    Entry(1, 1, 0, b""),
    Entry(2, 1, 1, b"first command of a log"),
    Entry(3, 4, 1, bytes(range(10))),
    Entry(4, 7, 2, b"a change of members"),
)


def write_golden(files: FileSystem, directory: str) -> None:
    opened = recover(files, directory, WHOSE, 120, random_bits=lambda bits: BIRTH - 1)
    opened.hard_state_file.save(3, "n2", 0)
    opened.log.write([opened.log.seal(ENTRIES[:1])])
    opened.log.write([opened.log.seal(ENTRIES[1:])])
    opened.hard_state_file.save(7, None, 2)
    opened.close()


def golden_files() -> LyingFiles:
    files = LyingFiles()
    files.make_directory("golden")
    for name in NAMES:
        files.put(f"golden/{name}", (GOLDEN / name).read_bytes())
    return files


@pytest.mark.parametrize("summarised,checked_bytes", [(True, 59), (False, 211)])
def test_golden_bytes_are_read(summarised: bool, checked_bytes: int) -> None:
    files = golden_files()
    if not summarised:
        files.remove(f"golden/{SUMMARY}")  # the first version wrote none
    opened = recover(files, "golden", WHOSE, 120)

    assert checked_bytes == opened.checked_bytes

    assert ENTRIES == all_entries(opened.log)
    assert HardState(7, None, 2) == opened.hard_state
    assert Birth(BIRTH, older=False) == opened.birth
    assert ((4, b"a change of members"),) == opened.configurations
    assert ((1, 1), (3, 4), (4, 7)) == opened.log.terms
    assert opened.cut is None


def test_golden_bytes_are_what_is_written() -> None:
    files = LyingFiles()
    write_golden(files, "golden")

    assert NAMES == [name for name in files.list("golden") if name != "LOCK"]
    for name in NAMES:
        assert (GOLDEN / name).read_bytes() == files.content(f"golden/{name}"), name
