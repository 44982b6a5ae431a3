"""What is restored has the log of the backup, one configuration more, and another identity."""

import pytest

from dledger_py.storage import Corrupt, HardState, Identity, Recovered, recover
from dledger_py.storage.backup import NotEmpty
from dledger_py.storage.formats import KIND_CONFIG, SEGMENT_HEADER_BYTES
from dledger_py.storage.inspection import Severity, inspect
from dledger_py.storage.lying import LyingFiles, PowerCut
from dledger_py.storage.manifest import BadBackup, Manifest
from dledger_py.storage.restore import restore
from dledger_py.storage.snapshots import open_snapshots
from tests.storage.log_scenes import CONFIGURATION, ME, Entries, Entry, all_entries
from tests.storage.test_backup import TO, life_of, segments_of, taken

FOLDER = "new"
NEW = Identity(cluster="another", group="group-9", member="n7")
PAYLOAD = b"who they are now"


def backed_up(
    *, commit: int = 9, snapshot: int = 0, drop: int = 0
) -> tuple[LyingFiles, Manifest, Entries]:
    life = life_of(commit=commit, snapshot=snapshot)
    if drop:
        life.drop(drop)
    entries = all_entries(life.opened.log)[: commit + 1 - life.opened.log.first_index]
    manifest = taken(life).manifest
    life.opened.close()
    return life.files, manifest, entries


def opened(files: LyingFiles, folder: str = FOLDER, identity: Identity = NEW) -> Recovered:
    return recover(files, folder, identity, 700)


@pytest.mark.parametrize("commit", range(1, 12))
def test_a_restored_log_is_that_of_the_backup_and_one_configuration(commit: int) -> None:
    files, _manifest, entries = backed_up(commit=commit)
    end = restore(files, TO, FOLDER, NEW, PAYLOAD, 77)
    found = opened(files)

    # The member it was taken from had heard of term 4.
    told = Entry(commit + 1, 5, KIND_CONFIG, PAYLOAD)
    assert (*entries, told) == all_entries(found.log)
    assert (commit + 1, 5, found.log.end_position) == (end.index, end.term, end.position)
    assert HardState(5, None, commit + 1) == found.hard_state
    assert (77, False) == (found.birth.number, found.birth.older)
    assert ((commit + 1, PAYLOAD),) == found.configurations
    assert (None, False) == (found.cut, found.created)


def test_the_logs_of_all_members_are_the_same_bytes() -> None:
    files, _manifest, _entries = backed_up(snapshot=8)
    for number in range(3):
        identity = Identity(cluster="c", group="g", member=f"n{number}")
        restore(files, TO, f"m{number}", identity, PAYLOAD, 100 + number)
    first, *others = ([files.content(p) for p in segments_of(files, f"m{n}")] for n in range(3))

    assert len(first) > 2
    for other in others:
        assert [each[SEGMENT_HEADER_BYTES:] for each in first] == [
            each[SEGMENT_HEADER_BYTES:] for each in other
        ]
        assert first != other  # whose it is


def test_a_restored_folder_is_sound_without_so_much_as_a_note() -> None:
    files, _manifest, _entries = backed_up(snapshot=8)
    restore(files, TO, FOLDER, NEW, PAYLOAD, 77)
    found = inspect(files, FOLDER)

    assert (NEW, (), PAYLOAD) == (found.identity, found.findings, found.configuration)
    assert all(segment.followed for segment in found.segments[:-1])
    assert found.segments[-1].end_position == found.segments[-1].attested_position
    body = open_snapshots(files, f"{FOLDER}/snapshots", NEW).read(8).body
    assert b"state" * 300 == body


def test_a_restored_log_goes_on_and_rolls() -> None:
    files, _manifest, entries = backed_up()
    restore(files, TO, FOLDER, NEW, PAYLOAD, 77)
    found = opened(files)
    more = tuple(Entry(11 + at, 6, 1, b"m" * 400) for at in range(4))
    found.log.write([found.log.seal(more)])
    found.close()

    assert (*entries, Entry(10, 5, KIND_CONFIG, PAYLOAD), *more) == all_entries(opened(files).log)


def test_a_log_without_its_front_is_restored_with_what_stands_for_it() -> None:
    files, manifest, entries = backed_up(snapshot=9, drop=6)
    restore(files, TO, FOLDER, NEW, PAYLOAD, 77)
    found = opened(files)

    assert manifest.start == found.log.start
    assert 1 < found.log.first_index
    assert (*entries, Entry(10, 5, KIND_CONFIG, PAYLOAD)) == all_entries(found.log)
    assert (CONFIGURATION, (10, PAYLOAD)) == found.configurations


def test_a_damaged_backup_is_refused_before_anything_is_made() -> None:
    files, manifest, _entries = backed_up(snapshot=8)
    for told in manifest.files:
        damaged = files.copy(told.name)
        damaged.flip_bit(f"{TO}/{told.name}", told.size_bytes // 2)
        with pytest.raises(BadBackup, match=f"{told.name}: its content is not what was written"):
            restore(damaged, TO, FOLDER, NEW, PAYLOAD, 77)
        assert FOLDER not in damaged._directories


def test_a_folder_in_use_is_not_touched() -> None:
    files, _manifest, _entries = backed_up()
    restore(files, TO, FOLDER, NEW, PAYLOAD, 77)
    before = {name: files.content(f"{FOLDER}/{name}") for name in files.list(FOLDER)}
    with pytest.raises(NotEmpty, match="new: it is not empty"):
        restore(files, TO, FOLDER, NEW, PAYLOAD, 78)

    assert before == {name: files.content(f"{FOLDER}/{name}") for name in files.list(FOLDER)}


def test_an_interrupted_restore_never_passes_for_a_member() -> None:
    """It is refused, or still nothing, or all there: whenever the power goes."""
    whole, _manifest, entries = backed_up(snapshot=8)
    seen = {"refused": 0, "nothing": 0, "whole": 0}
    for seed in range(6):
        changes = 0
        while True:
            files = whole.copy(f"{seed}/{changes}")
            files.stop_after(changes)
            try:
                restore(files, TO, FOLDER, NEW, PAYLOAD, 77)
            except PowerCut:
                done = False
            else:
                done = True
            files.crash()
            how = check_restored(files, entries)
            seen[how] += 1
            if done:
                assert "whole" == how
                break
            changes += 1

    assert seen["refused"] > 100
    assert seen["whole"] > 6  # some crashes come behind the last step


def check_restored(files: LyingFiles, entries: Entries) -> str:
    looked = inspect(files, FOLDER) if any_log(files) else None
    try:
        found = opened(files)
    except Corrupt:
        assert looked is not None
        assert Severity.DAMAGE in {each.severity for each in looked.findings}
        return "refused"
    if found.created:  # the first file had no header yet: the folder is as good as empty
        assert 0 == found.log.last_index
        return "nothing"
    assert (*entries, Entry(10, 5, KIND_CONFIG, PAYLOAD)) == all_entries(found.log)
    assert (HardState(5, None, 10), 77) == (found.hard_state, found.birth.number)
    return "whole"


def any_log(files: LyingFiles) -> bool:
    return FOLDER in files._directories and bool(segments_of(files, FOLDER))


def test_the_member_that_was_backed_up_is_another_one() -> None:
    files, _manifest, _entries = backed_up()
    restore(files, TO, FOLDER, ME, PAYLOAD, 77)
    old = recover(files, "data", ME, 700)
    new = recover(files, FOLDER, ME, 700)

    assert old.birth.number != new.birth.number
    assert old.hard_state.term < new.hard_state.term
