"""Every crash point of scripted lives, on a disk that lies; and what a failed sync leaves.

A crash at change number n means: n writes, syncs and names happened, then the power went; what
was not synced is kept, lost or torn as the seed has it.
"""

import errno
import itertools
from collections.abc import Callable, Iterator

import pytest

from dledger_py.storage import Corrupt, LogFailed
from dledger_py.storage.lying import LyingFiles, PowerCut
from tests.storage.log_scenes import Life, Step, all_entries, open_log, retention_script, script

SEEDS = 6
Script = Callable[[], Iterator[Step]]
SCRIPTS: dict[str, Script] = {"ends": script, "starts": retention_script}


def run_until_stopped(life: Life, changes: int, script: Script) -> bool:
    """True when the script came to its end before the armed power cut."""
    life.files.stop_after(changes)
    try:
        for step in script():
            step(life)
    except PowerCut:
        return False
    return True


def run_until_failed(life: Life, script: Script) -> bool:
    try:
        for step in script():
            step(life)
    except OSError:
        return True
    return False


def changes_of(script: Script) -> int:
    life = Life(LyingFiles())
    for step in script():
        step(life)
    return life.files.changes


CHANGES = {name: changes_of(script) for name, script in SCRIPTS.items()}


def test_the_script_reaches_every_kind_of_change() -> None:
    life = Life(LyingFiles())
    for step in script():
        step(life)
    kinds = {line.split()[0] for line in life.files.trace}

    assert {"create", "remove", "pwrite", "truncate", "fdatasync", "fsync", "fsync_directory"} == (
        kinds
    )


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_power_cut_anywhere_loses_nothing_that_was_synced(name: str, seed: int) -> None:
    """And nothing unknown appears, the term never goes back, recovery is stable, work goes on."""
    for changes in range(CHANGES[name]):
        life = Life(LyingFiles(seed=f"{seed}/{changes}"))
        assert not run_until_stopped(life, changes, SCRIPTS[name])
        life.files.crash()
        life.open()
        once = all_entries(life.opened.log)
        life.files.crash()  # right after recovery: what it returned was durable
        life.open()

        assert once == all_entries(life.opened.log)

        life.append(9, 33)
        life.append(9, 800, 1)
        life.drop(-1)
        life.files.crash()
        life.open()
        life.reopen()


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_power_cut_during_recovery_changes_nothing(name: str, killed: bool) -> None:
    """Recovery after a power cut finds what is on disk; after a kill, what was never synced too."""
    for changes in range(1, CHANGES[name], 2):
        for nested in itertools.count():
            life = Life(LyingFiles(seed=f"{killed}/{changes}/{nested}"))
            run_until_stopped(life, changes, SCRIPTS[name])
            if killed:
                life.files.kill()
            else:
                life.files.crash()
            life.files.stop_after(nested)
            try:
                life.open()
            except PowerCut:
                life.files.crash()
                life.open()
            else:
                break
        assert nested > 3


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_killed_process_leaves_nothing_that_a_later_power_cut_takes(name: str, seed: int) -> None:
    """What recovery found in the page cache only, it has to sync before anyone relies on it."""
    for changes in range(CHANGES[name]):
        life = Life(LyingFiles(seed=f"{seed}/{changes}"))
        run_until_stopped(life, changes, SCRIPTS[name])
        life.files.kill()
        life.open()
        found = all_entries(life.opened.log)
        life.files.crash()
        life.open()

        assert found == all_entries(life.opened.log)


@pytest.mark.parametrize("operation", ["fdatasync", "fsync", "fsync_directory", "pwrite", "remove"])
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_failed_write_or_sync_stops_the_log_and_the_next_start_trusts_nothing(
    name: str, operation: str
) -> None:
    """EIO at the nth such call: the dropped pages are still readable, and are not believed."""
    for count in itertools.count():
        life = Life(LyingFiles(seed=f"{operation}/{count}"))
        life.files.fail(operation, errno.EIO, after=count)
        if not run_until_failed(life, SCRIPTS[name]):
            break
        life.files.kill()
        life.open()
        found = all_entries(life.opened.log)
        life.files.crash()
        life.open()

        assert found == all_entries(life.opened.log)
    assert count >= 5


def test_after_a_failed_sync_nothing_more_is_written() -> None:
    files = LyingFiles()
    life = Life(files)
    life.open()
    life.append(1, 10)
    files.fail("fdatasync", errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        life.append(1, 10)
    before = files.changes
    for act in (life.opened.log.seal_idle, lambda: life.opened.log.write([])):
        with pytest.raises(LogFailed):
            act()
    life.opened.log.close()

    assert before == files.changes


def test_after_a_failed_save_no_further_vote_is_written() -> None:
    files = LyingFiles()
    life = Life(files)
    life.open()
    files.fail("fdatasync", errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        life.save(1, "n0")
    before = files.changes
    with pytest.raises(LogFailed):
        life.save(2, "n1")

    assert before == files.changes


def append_for_ever(life: Life) -> None:
    while True:
        life.append(1, 30, 40)


@pytest.mark.parametrize("room", range(0, 400, 7))
def test_a_full_disk_stops_the_log_and_keeps_what_was_synced(room: int) -> None:
    files = LyingFiles(seed=room)
    life = Life(files)
    life.open()
    life.append(1, 10)
    files.capacity_bytes = 8192 + 4096 + 50 + room
    with pytest.raises(OSError, match="No space"):
        append_for_ever(life)
    with pytest.raises(LogFailed):
        life.append(1, 1)
    files.kill()
    files.capacity_bytes = None
    life.open()
    life.append(2, 5)
    files.crash()
    life.open()


def test_a_read_error_while_opening_is_refused() -> None:
    life = Life(LyingFiles())
    life.open()
    life.append(1, 10)
    life.opened.close()
    for count in range(5):  # hard state; header, whether it is the end, entries, rewriting
        life.files.fail("pread", errno.EIO, after=count)
        with pytest.raises(Corrupt, match="the disk cannot read it"):
            open_log(life.files)
        life.files.kill()
