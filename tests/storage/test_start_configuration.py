"""Who the members were before the front of a log was dropped."""

import pytest

from dledger_py.storage import Corrupt, recover
from dledger_py.storage.lying import LyingFiles, PowerCut
from dledger_py.storage.start_configuration import (
    configuration_name,
    encode,
    read_start_configuration,
    remove_start_configurations,
    write_start_configuration,
)
from tests.storage.log_scenes import DIRECTORY, ME, Life, entries_after, open_log

FOLDER = "disk"


def disk() -> LyingFiles:
    files = LyingFiles()
    files.make_directory(FOLDER)
    return files


def test_the_newest_whole_one_speaks() -> None:
    files = disk()
    write_start_configuration(files, FOLDER, 3, b"three")
    write_start_configuration(files, FOLDER, 7, b"seven")
    write_start_configuration(files, FOLDER, 7, b"seven")
    assert (7, b"seven") == read_start_configuration(files, FOLDER)

    files.flip_bit(f"{FOLDER}/{configuration_name(7)}", 30)
    assert (3, b"three") == read_start_configuration(files, FOLDER)

    write_start_configuration(files, FOLDER, 7, b"seven")
    remove_start_configurations(files, FOLDER, below=7)
    assert [configuration_name(7)] == files.list(FOLDER)
    for at in (30, 8, 0, 25):
        files.flip_bit(f"{FOLDER}/{configuration_name(7)}", at)
        with pytest.raises(Corrupt, match="no file says who the members were"):
            read_start_configuration(files, FOLDER)
        files.flip_bit(f"{FOLDER}/{configuration_name(7)}", at)


def test_it_has_the_bytes_it_always_had() -> None:
    assert encode(258, b"ab").hex() == (
        "444c454447434647" + "00010000" + "0000000000000102" + "00000002" + "61af0d65" + "6162"
    )


def test_a_power_cut_anywhere_leaves_one_to_speak() -> None:
    changes = 0
    while True:
        files = disk()
        write_start_configuration(files, FOLDER, 3, b"three")
        files.stop_after(changes)
        try:
            write_start_configuration(files, FOLDER, 7, b"seven")
            remove_start_configurations(files, FOLDER, below=7)
        except PowerCut:
            files.crash()
            assert read_start_configuration(files, FOLDER)[1] in (b"three", b"seven")
            changes += 1
            continue
        break
    assert changes > 3


def test_a_log_whose_front_was_dropped_tells_who_its_members_were() -> None:
    files = LyingFiles()
    opened = recover(files, DIRECTORY, ME, 200)
    for _ in range(6):
        opened.log.write([opened.log.seal(entries_after(opened.log, 1, [150]))])
    opened.log.drop_before(4, (2, b"who they were"))
    opened.close()
    assert ((2, b"who they were"),) == recover(files.copy(1), DIRECTORY, ME, 200).configurations

    files.remove(f"{DIRECTORY}/{configuration_name(2)}")
    with pytest.raises(Corrupt, match="no file says"):
        recover(files, DIRECTORY, ME, 200)


def test_a_later_configuration_counts_from_where_the_log_starts() -> None:
    """It is committed: what was in force before it can come back no more."""
    life = Life(LyingFiles())
    life.open()
    life.append(1, *[100] * 20)
    log = life.opened.log
    first = log.drop_before(12, (15, b"later"))
    life.opened.close()

    assert ((first - 1, b"later"),) == open_log(life.files).configurations
