"""Snapshot files: whole or not there, whatever the power did; damage is told."""

import errno

import pytest

from dledger_py.storage import Corrupt, FileSystem, Identity, LogFailed, RealFiles, WrongIdentity
from dledger_py.storage.lying import LyingFiles, PowerCut
from dledger_py.storage.snapshot_format import HEADER_BLOCK_BYTES, snapshot_name
from dledger_py.storage.snapshots import (
    KEPT,
    SnapshotPlace,
    Snapshots,
    StoredSnapshot,
    open_snapshots,
)

IDENTITY = Identity(cluster="c", group="g", member="n0")
FOLDER = "disk/snapshots"
SEEDS = 60  # a crash that tears both copies of the header is rare


def place(index: int) -> SnapshotPlace:
    return SnapshotPlace(index=index, term=3, position=index * 100, crc=index ^ 0xFFFF)


def body(index: int) -> bytes:
    """Longer than some sectors, and another one for each index."""
    return b"%d|" % index * 700


def opened(files: FileSystem, folder: str = FOLDER, identity: Identity = IDENTITY) -> Snapshots:
    return open_snapshots(files, folder, identity)


def write(snapshots: Snapshots, index: int) -> None:
    whole = body(index)
    snapshots.write(place(index), (whole[at : at + 500] for at in range(0, len(whole), 500)))


@pytest.mark.parametrize("kind", ["real", "lying"])
def test_a_snapshot_is_read_as_it_was_written(kind: str, tmp_path) -> None:
    files: FileSystem = RealFiles() if kind == "real" else LyingFiles()
    folder = str(tmp_path / "s") if kind == "real" else FOLDER
    write(opened(files, folder), 7)
    found = opened(files, folder)

    assert 7 == found.newest_index
    assert StoredSnapshot(place=place(7), body=body(7)) == found.read(7)


def test_an_empty_folder_has_none_and_an_empty_state_is_a_state() -> None:
    files = LyingFiles()
    snapshots = opened(files)

    assert (0, ()) == (snapshots.newest_index, snapshots.indices)
    with pytest.raises(LookupError, match="no snapshot at index 3"):
        snapshots.read(3)

    snapshots.write(place(3), ())

    assert b"" == opened(files).read(3).body


def test_the_newest_few_are_kept() -> None:
    files = LyingFiles()
    snapshots = opened(files)
    for index in (1, 5, 9, 12):
        write(snapshots, index)

    assert (9, 12) == snapshots.indices == opened(files).indices
    assert KEPT == len(files.list(FOLDER))


def test_what_a_crash_left_of_older_ones_goes_at_the_next_start() -> None:
    files = LyingFiles()
    snapshots = opened(files)
    for index in (1, 2):
        write(snapshots, index)
    left = files.content(f"{FOLDER}/{snapshot_name(1)}")
    write(snapshots, 3)
    files.put(f"{FOLDER}/{snapshot_name(1)}", left)

    assert (2, 3) == opened(files).indices
    assert [snapshot_name(2), snapshot_name(3)] == files.list(FOLDER)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_after_a_crash_at_any_moment_each_snapshot_is_whole_or_gone(seed: int) -> None:
    changes = 0
    while True:
        files = LyingFiles(seed=f"{seed}/{changes}")
        durable = 0
        files.stop_after(changes)
        try:
            snapshots = opened(files)
            for index in (2, 4, 6, 8):
                write(snapshots, index)
                durable = index
            break
        except PowerCut:
            files.crash()
        again = opened(files)
        newest = again.newest_index

        assert durable <= newest <= 8, f"after {changes} changes"
        assert len(again.indices) == len(files.list(FOLDER))
        for index in again.indices:
            assert body(index) == again.read(index).body
        write(again, 10)  # and life goes on
        assert 10 == opened(files).newest_index
        changes += 1

    assert changes > 20


@pytest.mark.parametrize("offset", [0, 12, 247, 512, 600, 759])
def test_a_damaged_copy_of_the_header_is_made_up_for_by_the_other(offset: int) -> None:
    files = LyingFiles()
    write(opened(files), 5)
    files.flip_bit(f"{FOLDER}/{snapshot_name(5)}", offset)

    assert body(5) == opened(files).read(5).body


def test_damage_that_nothing_makes_up_for_is_told() -> None:
    of_both_copies = [(offset, 512 + offset) for offset in range(248)]
    of_the_body = [(HEADER_BLOCK_BYTES,), (HEADER_BLOCK_BYTES + len(body(5)) - 1,)]
    for offsets in (*of_both_copies, *of_the_body):
        files = LyingFiles()
        write(opened(files), 5)
        for offset in offsets:
            files.flip_bit(f"{FOLDER}/{snapshot_name(5)}", offset)
        with pytest.raises(Corrupt):
            opened(files).read(5)


def test_a_body_cut_short_is_told_with_its_file_and_place(tmp_path) -> None:
    folder = str(tmp_path)
    write(opened(RealFiles(), folder), 5)
    path = tmp_path / snapshot_name(5)
    path.write_bytes(path.read_bytes()[:-3])

    with pytest.raises(Corrupt, match=rf"{snapshot_name(5)}, byte \d+: the body ends after"):
        opened(RealFiles(), folder).read(5)


def test_another_members_snapshot_is_refused() -> None:
    files = LyingFiles()
    write(opened(files), 5)

    with pytest.raises(WrongIdentity, match=r"member 'n0', not to .*member 'n1'"):
        opened(files, identity=Identity(cluster="c", group="g", member="n1"))


@pytest.mark.parametrize("operation", ["pwrite", "fdatasync", "fsync_directory", "create"])
def test_after_a_failed_write_nothing_more_is_written(operation: str) -> None:
    files = LyingFiles()
    snapshots = opened(files)
    files.fail(operation, errno.EIO)
    with pytest.raises(OSError, match=r"."):
        write(snapshots, 5)

    with pytest.raises(LogFailed):
        write(snapshots, 6)
    assert 0 == snapshots.newest_index


def test_a_finished_snapshot_is_read_piece_by_piece():
    snapshots = opened(LyingFiles())
    assert 0 == snapshots.newest().place.index
    write(snapshots, 7)
    whole = body(7)
    pieces = [snapshots.read_piece(7, at, 1000) for at in range(0, len(whole), 1000)]

    assert place(7) == snapshots.newest().place
    assert len(whole) == snapshots.newest().body_bytes
    assert whole == b"".join(pieces)
    for index, offset in ((8, 0), (7, len(whole)), (7, len(whole) + 5), (7, -1)):
        with pytest.raises(LookupError):
            snapshots.read_piece(index, offset, 10)


def test_a_piece_of_a_snapshot_that_made_room_is_looked_up_in_vain():
    snapshots = opened(LyingFiles())
    for index in range(1, KEPT + 2):
        write(snapshots, index)

    assert body(2)[:5] == snapshots.read_piece(2, 0, 5)
    with pytest.raises(LookupError, match="no snapshot at index 1"):
        snapshots.read_piece(1, 0, 5)
