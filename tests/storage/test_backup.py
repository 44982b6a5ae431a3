"""A backup is the committed log, whoever writes, cuts or drops meanwhile; or it is none."""

import pytest

from dledger_py.storage import Corrupt, recover
from dledger_py.storage.backup import (
    BackedUp,
    NotBackedUp,
    NotEmpty,
    back_up,
    check_backup,
    is_backup,
    read_manifest,
)
from dledger_py.storage.formats import KIND_CONFIG, End
from dledger_py.storage.inspection import NoLog, dump
from dledger_py.storage.lying import LyingFiles, PowerCut
from dledger_py.storage.manifest import MANIFEST_NAME, UNFINISHED_NAME, BadBackup
from dledger_py.storage.snapshots import SnapshotPlace, open_snapshots
from tests.storage.log_scenes import (
    CONFIGURATION,
    DIRECTORY,
    ME,
    Entry,
    Life,
    all_entries,
    open_log,
)

TO = "backup"
TAKEN = "2031-05-06T07:08:09+00:00"


def life_of(*, commit: int, snapshot: int = 0, stop: bool = False) -> Life:
    """Eleven entries in four segments, of which so many are known to be committed."""
    life = Life(LyingFiles())
    life.open()
    life.files.put(f"{DIRECTORY}/LOCK", b"")  # as real files have it once it was taken
    life.append(1, 100, 0, 700)
    life.append(2, 30, 750)
    life.append(2, 60)
    life.append(3, 50, 12, 600, 20, 5)
    save(life, commit)
    if snapshot:
        take_snapshot(life, snapshot)
    if stop:
        life.opened.close()
    return life


def save(life: Life, commit: int) -> None:
    life.opened.hard_state_file.save(4, "n1", commit)


def take_snapshot(life: Life, index: int) -> None:
    (entry,) = life.opened.log.read(index, 1)
    place = SnapshotPlace(
        index=index,
        term=entry.term,
        position=entry.position + len(entry.raw),
        crc=end_at(life, index).crc,
    )
    open_snapshots(life.files, f"{DIRECTORY}/snapshots", ME).write(place, (b"state" * 300,))


def end_at(life: Life, index: int) -> End:
    (entry,) = life.opened.log.read(index, 1)
    crc = int.from_bytes(bytes(entry.raw[36:40]), "big")
    return End(index, entry.term, entry.position + len(entry.raw), crc)


def taken(life: Life, **more) -> BackedUp:
    options = {"taken": TAKEN, "members_of": lambda payload: ("n0", "n1")} | more
    return back_up(life.files, DIRECTORY, TO, **options)


def indices(files: LyingFiles) -> list[int]:
    return [entry.index for entry in dump(files, TO)]


def segments_of(files: LyingFiles, directory: str) -> list[str]:
    names = files.list(directory)
    return [f"{directory}/{name}" for name in names if name.endswith(".log")]


@pytest.mark.parametrize("commit", range(1, 12))
@pytest.mark.parametrize("stop", [False, True])
def test_a_backup_holds_what_is_committed_and_nothing_else(commit: int, stop: bool) -> None:
    life = life_of(commit=commit, stop=stop)
    end = End(0, 0, 0, 0) if stop else end_at(life, commit)
    life.files.trace.clear()
    made = taken(life)
    manifest = made.manifest

    assert (commit, 11 - commit) == (manifest.end.index, made.left_out)
    assert stop or end == manifest.end
    assert (ME, 4, commit, 0, TAKEN) == (
        manifest.identity,
        manifest.term,
        manifest.committed,
        manifest.snapshot,
        manifest.taken,
    )
    assert [] == [line for line in life.files.trace if f" {DIRECTORY}" in line]
    assert list(range(1, commit + 1)) == indices(life.files)
    for path in segments_of(life.files, TO):
        copy, whole = (life.files.content(each) for each in (path, path.replace(TO, DIRECTORY)))
        assert whole[4096:].startswith(copy[4096:])
    found = check_backup(life.files, TO)
    assert ((), manifest) == (found.damage, found.manifest)


def test_no_member_starts_on_a_backup() -> None:
    life = life_of(commit=9)
    taken(life)

    with pytest.raises(Corrupt, match="term and vote are missing"):
        recover(life.files, TO, ME, 700)


def test_a_snapshot_proves_how_far_the_log_is_committed_and_comes_along() -> None:
    life = life_of(commit=3, snapshot=8)
    manifest = taken(life).manifest

    assert (8, 8, 8) == (manifest.end.index, manifest.committed, manifest.snapshot)
    copy = open_snapshots(life.files, f"{TO}/snapshots", ME).read(8)
    assert (b"state" * 300, 8) == (copy.body, copy.place.index)


def test_a_running_member_is_waited_for_until_all_it_had_is_known_to_be_committed() -> None:
    life = life_of(commit=3)
    waits = []

    def keep_waiting() -> bool:
        waits.append(len(waits))
        if len(waits) == 3:
            save(life, 11)
        return True

    assert 11 == taken(life, keep_waiting=keep_waiting).manifest.end.index
    assert 3 == len(waits)


def test_a_stopped_member_is_not_waited_for() -> None:
    life = life_of(commit=3, stop=True)

    def keep_waiting() -> bool:
        raise AssertionError("nobody is there who could learn more")

    assert 3 == taken(life, keep_waiting=keep_waiting).manifest.end.index


def test_the_whole_log_of_a_stopped_member_may_be_wanted() -> None:
    life = life_of(commit=3, stop=True)
    made = taken(life, whole=True)

    assert (11, 3, 0) == (made.manifest.end.index, made.manifest.committed, made.left_out)
    assert list(range(1, 12)) == indices(life.files)


def test_a_running_member_may_take_back_what_is_not_committed() -> None:
    life = life_of(commit=3)

    with pytest.raises(NotBackedUp, match="a running member has it open"):
        taken(life, whole=True)
    assert TO not in life.files._directories


def test_what_is_cut_and_written_meanwhile_does_not_matter() -> None:
    life = life_of(commit=7)
    wanted = [bytes(e.raw) for e in life.opened.log.read(1, 10_000)][:7]
    files = []

    def on_file(file) -> None:
        files.append(file.name)
        if len(files) == 1:
            life.cut(8, 5, 900, 901, 902)

    assert 7 == taken(life, on_file=on_file).manifest.end.index
    joined = b"".join(life.files.content(path)[4096:] for path in segments_of(life.files, TO))
    assert b"".join(wanted) == joined


def test_a_copy_is_begun_again_when_the_front_of_the_log_goes_meanwhile() -> None:
    life = life_of(commit=9, snapshot=9)
    dropped = []

    def on_file(file) -> None:
        if not dropped and file.name.endswith(".log"):
            life.drop(6)
            dropped.append(life.opened.log.first_index)

    manifest = taken(life, on_file=on_file).manifest

    assert 1 < dropped[0] == manifest.start.index + 1
    assert list(range(dropped[0], 10)) == indices(life.files)
    assert () == check_backup(life.files, TO).damage
    assert ("n0", "n1") == manifest.members  # from the file that stands for what was dropped
    assert f"configuration-{CONFIGURATION[0]:020d}" in [file.name for file in manifest.files]


def test_the_members_are_those_at_the_end_of_the_backup() -> None:
    life = Life(LyingFiles())
    life.open()
    log = life.opened.log
    for index in range(1, 9):
        kind = KIND_CONFIG if index in (3, 6) else 1
        log.write([log.seal([Entry(index, 1, kind, b"of %d" % index)])])
    told = []
    for commit in (2, 5, 6, 8):
        save(life, commit)
        made = back_up(
            life.files, DIRECTORY, f"to {commit}", taken=TAKEN, members_of=lambda p: (p.decode(),)
        )
        told.append(made.manifest.members)

    assert [(), ("of 3",), ("of 6",), ("of 6",)] == told


def test_a_log_without_its_front_needs_a_snapshot_of_it() -> None:
    life = life_of(commit=9)
    life.drop(6)

    with pytest.raises(NotBackedUp, match="no snapshot of what came before"):
        taken(life)


@pytest.mark.parametrize("path", [f"{DIRECTORY}/{0:020d}.log", f"{DIRECTORY}/hard-state"])
def test_of_a_damaged_log_there_is_no_backup(path: str) -> None:
    life = life_of(commit=9, stop=True)
    for offset in (100, 2148, 4096 + 50):
        life.files.flip_bit(path, offset)

    with pytest.raises(Corrupt):
        taken(life)
    with pytest.raises((NoLog, BadBackup)):
        read_manifest(life.files, TO)


def test_a_log_that_lacks_what_was_committed_is_damaged() -> None:
    life = life_of(commit=11, stop=True)
    last = segments_of(life.files, DIRECTORY)[-1]
    life.files.put(last, life.files.content(last)[:-3])

    with pytest.raises(Corrupt, match="the log ends with entry 10, but 11 is committed"):
        taken(life)


def test_a_damaged_snapshot_is_not_copied() -> None:
    life = life_of(commit=9, snapshot=9, stop=True)
    life.files.flip_bit(f"{DIRECTORY}/snapshots/{9:020d}.snapshot", 4096 + 700)

    with pytest.raises(Corrupt, match="crc of the body"):
        taken(life)


def test_every_bit_of_a_backup_is_watched() -> None:
    life = life_of(commit=9, snapshot=8)
    manifest = taken(life).manifest
    for told in manifest.files:
        for offset in range(0, told.size_bytes, 97):
            files = life.files.copy(offset)
            files.flip_bit(f"{TO}/{told.name}", offset)
            (line,) = check_backup(files, TO).damage
            assert f"{TO}/{told.name}: its content is not what was written" == line


def test_what_is_missing_or_too_short_is_told() -> None:
    life = life_of(commit=9)
    first, second, *_more = [file.name for file in taken(life).manifest.files]
    life.files.forget(f"{TO}/{first}")
    content = life.files.content(f"{TO}/{second}")
    life.files.put(f"{TO}/{second}", content[:-1])

    assert (
        f"{TO}/{first}: it is missing",
        f"{TO}/{second}: it has {len(content) - 1} bytes, {len(content)} were written",
    ) == check_backup(life.files, TO).damage


def test_a_changed_manifest_is_no_manifest() -> None:
    life = life_of(commit=9)
    taken(life)
    path = f"{TO}/{MANIFEST_NAME}"
    content = life.files.content(path)
    for old, new, reason in [
        (b'"committed": 9', b'"committed": 8', "was changed since the backup was taken"),
        (b'"version": 1', b'"version": 2', "a backup of version 2, only 1 is known"),
        (b'"index"', b'"inde"', "no manifest of a backup"),
        (b"{", b"[", "no manifest of a backup"),
    ]:
        assert old in content
        life.files.put(path, content.replace(old, new))
        with pytest.raises(BadBackup, match=reason):
            read_manifest(life.files, TO)


def test_a_backup_that_a_power_cut_stopped_is_none() -> None:
    whole = life_of(commit=9, snapshot=8, stop=True)
    ends = {False: 0, True: 0}
    for seed in range(6):
        changes = 0
        while True:
            files = whole.files.copy(f"{seed}/{changes}")
            before = {path: files.content(path) for path in segments_of(files, DIRECTORY)}
            life = Life(files)
            files.stop_after(changes)
            try:
                taken(life)
            except PowerCut:
                files.crash()
                done = False
            else:
                files.crash()
                done = True
            assert before == {path: files.content(path) for path in before}
            ends[check_stopped(files)] += 1
            if done:
                assert check_stopped(files)
                break
            changes += 1

    assert ends[False] > 100
    assert ends[True] >= 6


def check_stopped(files: LyingFiles) -> bool:
    """Whether there is a backup, which is then all of it."""
    try:
        found = check_backup(files, TO)
    except (NoLog, BadBackup):
        return False
    assert () == found.damage
    assert 9 == found.manifest.end.index
    return True


def test_only_a_new_or_empty_folder_takes_a_backup() -> None:
    life = life_of(commit=9)
    taken(life)
    with pytest.raises(NotEmpty, match="backup: it is not empty"):
        taken(life)

    life.files.rename(f"{TO}/{MANIFEST_NAME}", f"{TO}/{UNFINISHED_NAME}")
    with pytest.raises(NotEmpty, match="a backup that was not finished; remove it"):
        taken(life)
    with pytest.raises(BadBackup, match="the backup was not finished"):
        read_manifest(life.files, TO)
    assert is_backup(life.files, TO)
    assert not is_backup(life.files, DIRECTORY)


def test_where_nothing_is_committed_there_is_nothing_to_copy() -> None:
    life = life_of(commit=0)

    with pytest.raises(NotBackedUp, match="no entry is known to be committed"):
        taken(life)
    with pytest.raises(NoLog, match="no such directory"):
        back_up(life.files, "nowhere", TO, taken=TAKEN, members_of=lambda payload: ())
    life.files.make_directory("empty")
    with pytest.raises(NoLog, match="no log in it"):
        back_up(life.files, "empty", TO, taken=TAKEN, members_of=lambda payload: ())


def test_the_member_goes_on_as_if_nothing_had_been() -> None:
    life = life_of(commit=9)
    taken(life)
    life.append(5, 300)
    life.opened.close()
    again = open_log(life.files)

    assert 12 == len(all_entries(again.log))
