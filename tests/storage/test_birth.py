"""A folder's number: there before anything is promised, the same for ever, told from an emptied
one's."""

import pytest
from crc32c import crc32c

from dledger_py.storage import Birth, Corrupt, Identity, Recovered, recover
from dledger_py.storage.birth import BIRTH_NAME, decode_birth, encode_birth
from dledger_py.storage.formats import SECTOR_BYTES, segment_name
from dledger_py.storage.hard_state import HARD_STATE_NAME
from dledger_py.storage.lying import LyingFiles, PowerCut

WHOSE = Identity(cluster="c", group="g", member="n1")


def opened(files: LyingFiles, chosen: int = 7) -> Recovered:
    return recover(files, "data", WHOSE, random_bits=lambda bits: chosen)


def test_a_new_folder_has_a_birth_and_keeps_it() -> None:
    files = LyingFiles()
    opened(files, 7).close()
    again = opened(files, 8)

    assert Birth(8, older=False) == again.birth


def test_an_emptied_folder_has_another() -> None:
    files = LyingFiles()
    opened(files, 7).close()
    for name in files.list("data"):
        files.remove(f"data/{name}")

    assert Birth(9, older=False) == opened(files, 8).birth


def test_a_folder_that_is_older_than_births_gets_one_that_says_so() -> None:
    files = LyingFiles()
    opened(files).close()
    files.remove(f"data/{BIRTH_NAME}")
    opened(files, 4).close()

    assert Birth(5, older=True) == opened(files, 6).birth


@pytest.mark.parametrize("rotten", [0, SECTOR_BYTES])
def test_one_rotten_sector_is_survived(rotten: int) -> None:
    files = LyingFiles()
    opened(files).close()
    content = bytearray(files.content(f"data/{BIRTH_NAME}"))
    content[rotten + 13] ^= 1
    files.put(f"data/{BIRTH_NAME}", bytes(content))

    assert 8 == opened(files).birth.number


def test_two_rotten_sectors_stop_the_member() -> None:
    with pytest.raises(Corrupt, match="birth is readable"):
        decode_birth(bytes(2 * SECTOR_BYTES), "birth")


def test_a_newer_version_is_refused_and_not_replaced() -> None:
    newer = bytearray(encode_birth(Birth(5, older=False)))
    newer[9] = 2
    newer[-4:] = crc32c(bytes(newer[:-4])).to_bytes(4, "big")

    with pytest.raises(Corrupt, match="birth version 2"):
        decode_birth(bytes(newer), "birth")


def test_wherever_the_power_fails_no_folder_passes_for_one_older_than_births() -> None:
    """The birth is durable before the hard state, that before the log."""
    changes = 0
    while True:
        files = LyingFiles(seed=changes)
        files.stop_after(changes)
        try:
            opened(files)
        except PowerCut:
            pass
        else:
            break
        files.crash()
        names = files.list("data")
        if HARD_STATE_NAME in names or segment_name(0) in names:
            assert BIRTH_NAME in names
        assert not opened(files, 70 + changes).birth.older
        changes += 1
    assert changes > 5
