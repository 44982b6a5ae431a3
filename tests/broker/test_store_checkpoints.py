"""Checkpoints: after any crash, the queues go on from the last one, or say that they cannot.

A power cut is played by `Disk`, which keeps of each file and folder what was synced, and nothing
else; the death of the process alone leaves everything as it was written.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field, frozen
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker import formats
from broker.formats import UNIT, queue_file_name
from broker.store.checkpoints import CannotResume, Checkpoint, Reached
from broker.store.consume_queues import ConsumeQueues
from broker.store.queue_files import ASIDE, QueueFiles
from dledger_py.actors import FailStop

Key = tuple[str, int]


@define(repr=False)
class Disk:
    """What a power cut leaves: contents and names as they were when last synced.

    It knows files by inode number, so `forget` before these can be given out again.
    """

    contents: dict[int, bytes] = field(factory=dict)
    names: dict[int, dict[str, int]] = field(factory=dict)
    folders: set[int] = field(factory=set)
    held: list[int] = field(factory=list)
    """Descriptors that keep the file system from using an inode number again."""
    syncs: int = 0

    def fdatasync(self, descriptor: int) -> None:
        self.syncs += 1
        self.held.append(os.dup(descriptor))
        status = os.fstat(descriptor)
        self.contents[status.st_ino] = os.pread(descriptor, status.st_size, 0)

    def fsync(self, descriptor: int) -> None:
        self.held.append(os.dup(descriptor))
        listing = self.names[os.fstat(descriptor).st_ino] = {}
        for name in os.listdir(descriptor):
            held = os.open(name, os.O_PATH, dir_fd=descriptor)
            self.held.append(held)
            status = os.fstat(held)
            listing[name] = status.st_ino
            if stat.S_ISDIR(status.st_mode):
                self.folders.add(status.st_ino)

    def power_cut(self, folder: Path, to: Path) -> None:
        """What is left of a folder appears as another."""
        inode = folder.stat().st_ino
        self.folders.add(inode)
        self.restored(inode, to)

    def restored(self, inode: int, to: Path) -> None:
        """What is left of an inode appears here, and is on the disk."""
        names = self.names.get(inode, {})
        if inode in self.folders:
            to.mkdir(parents=True)
            for name, child in names.items():
                self.restored(child, to / name)
            fresh = self._hold(to)
            self.folders.add(fresh)
            self.names[fresh] = {name: (to / name).stat().st_ino for name in names}
        else:
            content = self.contents.get(inode, b"")
            to.write_bytes(content)
            self.contents[self._hold(to)] = content

    def _hold(self, path: Path) -> int:
        self.held.append(os.open(path, os.O_PATH))
        return path.stat().st_ino

    def forget(self) -> None:
        """Be new, and let go of the inodes."""
        self.contents.clear()
        self.names.clear()
        self.folders.clear()
        while self.held:
            os.close(self.held.pop())


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk()
    monkeypatch.setattr(os, "fdatasync", lambda fd: disk.fdatasync(fd))
    monkeypatch.setattr(os, "fsync", lambda fd: disk.fsync(fd))
    yield disk
    disk.forget()


@frozen
class Saved:
    """What the caller's snapshot would hold."""

    model: dict[Key, list[int]]
    reached: dict[Key, Reached]
    below: int
    log: int


@define
class Life:
    """Queues beside the lists they should be, and the log of how that came about."""

    queues: ConsumeQueues
    model: dict[Key, list[int]] = field(factory=dict)
    position: int = 0
    log: list[tuple[str, int, list[int]] | str] = field(factory=list)

    def index(self, topic: str, queue_id: int, messages: int) -> None:
        positions = [self.position + 10 * n for n in range(messages)]
        self.position += 10 * messages
        self.log.append((topic, queue_id, positions))
        self._index(topic, queue_id, positions)

    def drop(self, topic: str) -> None:
        self.log.append(topic)
        self._drop(topic)

    def save(self) -> Saved:
        return Saved(
            {key: list(positions) for key, positions in self.model.items()},
            {
                key: Reached(min_offset=0, next_offset=len(positions))
                for key, positions in self.model.items()
            },
            self.position,
            len(self.log),
        )

    def reborn(self, queues: ConsumeQueues, saved: Saved) -> "Life":
        """Another life from what was saved, the rest of the log not applied yet."""
        model = {key: list(positions) for key, positions in saved.model.items()}
        return Life(queues, model, self.position, self.log[:])

    def replay(self, saved: Saved) -> None:
        for entry in self.log[saved.log :]:
            if isinstance(entry, str):
                self._drop(entry)
            else:
                self._index(*entry)

    def check(self) -> None:
        for (topic, queue_id), positions in self.model.items():
            assert units(positions) == self.queues.range(topic, queue_id, 0, 10_000)
            assert len(positions) == self.queues.next_offset(topic, queue_id)

    def _index(self, topic: str, queue_id: int, positions: list[int]) -> None:
        of_queue = self.model.setdefault((topic, queue_id), [])
        self.queues.index(topic, queue_id, len(of_queue), units(positions))
        of_queue += positions

    def _drop(self, topic: str) -> None:
        for key in [key for key in self.model if key[0] == topic]:
            del self.model[key]
        self.queues.drop(topic)


def units(positions: list[int]) -> bytes:
    return b"".join(UNIT.pack(position, 5, 0) for position in positions)


def small(directory: Path) -> ConsumeQueues:
    return ConsumeQueues(
        QueueFiles(directory, open_files_max=2), tail_units_max=4, tails_bytes_max=10_000
    )


def finish(queues: ConsumeQueues, work: Checkpoint) -> None:
    while work.write_some(1):
        pass
    work.sync()
    queues.end_checkpoint()


@pytest.fixture
def life(tmp_path: Path, disk: Disk) -> Life:
    (tmp_path / "life").mkdir()
    return Life(small(tmp_path / "life" / "q"))


def after_a_power_cut(tmp_path: Path, disk: Disk) -> Path:
    disk.power_cut(tmp_path / "life", tmp_path / "again")
    return tmp_path / "again" / "q"


def test_a_start_goes_on_from_a_checkpoint(tmp_path: Path, disk: Disk, life: Life) -> None:
    for queue_id in range(3):
        life.index("orders", queue_id, 9)
    life.index("bills", 0, 1)
    saved = life.save()
    finish(life.queues, life.queues.checkpoint())
    life.index("orders", 0, 3)
    life.index("refunds", 0, 5)

    again = ConsumeQueues.open(after_a_power_cut(tmp_path, disk), saved.reached, below=saved.below)

    after = life.reborn(again, saved)
    after.check()
    assert b"" == again.range("orders", 0, 9, 1)
    after.replay(saved)
    after.check()
    assert life.model == after.model


def test_a_checkpoint_costs_nothing_before_its_first_step(disk: Disk, life: Life) -> None:
    life.index("orders", 0, 3)
    work = life.queues.checkpoint()

    assert (60, 0) == (life.queues.statistics().tail_bytes, disk.syncs)
    assert not work.write_some()
    assert (0, 0) == (life.queues.statistics().tail_bytes, disk.syncs)
    work.sync()
    assert 1 == disk.syncs


def test_tails_are_written_in_slices(life: Life) -> None:
    for queue_id in range(5):
        life.index("orders", queue_id, 1)
    work = life.queues.checkpoint()
    left = [life.queues.statistics().tail_bytes]
    while work.write_some(2):
        left.append(life.queues.statistics().tail_bytes)

    assert [100, 60, 20] == left
    assert 0 == life.queues.statistics().tail_bytes


def test_a_tail_that_left_by_itself_is_synced_too(tmp_path: Path, disk: Disk, life: Life) -> None:
    life.index("orders", 0, 3)
    saved = life.save()
    work = life.queues.checkpoint()
    life.index("orders", 0, 3)
    assert 0 == life.queues.statistics().tail_bytes
    finish(life.queues, work)

    again = ConsumeQueues.open(after_a_power_cut(tmp_path, disk), saved.reached, below=saved.below)
    life.reborn(again, saved).check()


def test_only_what_changed_is_synced_again(disk: Disk, life: Life) -> None:
    for queue_id in range(5):
        life.index("orders", queue_id, 1)
    finish(life.queues, life.queues.checkpoint())
    assert (5, 0) == (disk.syncs, life.queues.statistics().unsynced_files)
    life.index("orders", 3, 1)
    finish(life.queues, life.queues.checkpoint())

    assert 6 == disk.syncs


def test_a_checkpoint_given_up_leaves_its_work_to_the_next(
    tmp_path: Path, disk: Disk, life: Life
) -> None:
    life.index("orders", 0, 5)
    life.index("bills", 0, 5)
    life.index("refunds", 0, 5)
    work = life.queues.checkpoint()
    work.write_some()
    life.drop("bills")
    life.drop("refunds")
    life.index("refunds", 0, 4)
    life.queues.end_checkpoint()
    saved = life.save()
    finish(life.queues, life.queues.checkpoint())

    again = ConsumeQueues.open(after_a_power_cut(tmp_path, disk), saved.reached, below=saved.below)
    life.reborn(again, saved).check()


def test_there_is_one_checkpoint_at_a_time(life: Life) -> None:
    work = life.queues.checkpoint()

    with pytest.raises(AssertionError, match="under way"):
        life.queues.checkpoint()
    with pytest.raises(AssertionError, match="not written yet"):
        work.sync()
    life.queues.end_checkpoint()
    life.queues.checkpoint()


def test_units_behind_the_checkpoint_are_overwritten_in_place(tmp_path: Path, life: Life) -> None:
    """A crash may leave anything there: what is applied again is what counts."""
    life.index("orders", 0, 6)
    saved = life.save()
    finish(life.queues, life.queues.checkpoint())
    life.index("orders", 0, 8)
    directory = tmp_path / "life" / "q"
    with (directory / "orders" / "0" / queue_file_name(0)).open("r+b") as file:
        file.seek(6 * UNIT.size)
        file.write(b"\xee" * 15 * UNIT.size)

    again = ConsumeQueues.open(directory, saved.reached, below=saved.below)

    assert 6 == again.next_offset("orders", 0)
    assert units([0, 10, 20, 30, 40, 50]) == again.range("orders", 0, 0, 99)
    again.index("orders", 0, 6, units(list(range(60, 140, 10))))
    assert units(list(range(0, 140, 10))) == again.range("orders", 0, 0, 99)


def test_files_begun_behind_the_checkpoint_are_removed(
    tmp_path: Path, life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a file that is there has a durable name, and others count as new."""
    monkeypatch.setattr(formats, "UNITS_PER_FILE", 3)
    monkeypatch.setattr(formats, "FILE_BYTES", 60)
    monkeypatch.setattr("broker.store.queue_files.UNITS_PER_FILE", 3)
    life.index("orders", 0, 5)
    saved = life.save()
    finish(life.queues, life.queues.checkpoint())
    life.index("orders", 0, 5)
    life.index("orders", 1, 5)
    life.index("bills", 0, 5)
    directory = tmp_path / "life" / "q"

    again = ConsumeQueues.open(directory, saved.reached, below=saved.below)

    left = sorted(path.relative_to(directory) for path in directory.rglob("*") if path.is_file())
    assert [Path("orders", "0", queue_file_name(offset)) for offset in (0, 3)] == left
    after = life.reborn(again, saved)
    after.check()
    after.replay(saved)
    after.check()


def test_a_queue_may_begin_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "UNITS_PER_FILE", 3)
    monkeypatch.setattr("broker.store.queue_files.UNITS_PER_FILE", 3)
    queues = small(tmp_path / "q")
    queues.index("orders", 0, 7, units([70, 80, 90, 100]))
    finish(queues, queues.checkpoint())
    reached = {("orders", 0): Reached(min_offset=7, next_offset=11)}

    again = ConsumeQueues.open(tmp_path / "q", reached, below=110)

    assert (7, 11) == (again.min_offset("orders", 0), again.next_offset("orders", 0))
    assert units([70, 80, 90, 100]) == again.range("orders", 0, 7, 99)


def test_an_empty_queue_needs_no_file(tmp_path: Path) -> None:
    reached = {("orders", 0): Reached(min_offset=7, next_offset=7)}

    again = ConsumeQueues.open(tmp_path / "q", reached, below=110)

    assert 7 == again.next_offset("orders", 0)
    again.index("orders", 0, 7, units([110]))
    assert units([110]) == again.range("orders", 0, 7, 1)


def cut(path: Path) -> None:
    os.truncate(path, 5 * UNIT.size - 1)


def cut_and_zeroed(path: Path) -> None:
    os.truncate(path, 4 * UNIT.size)
    os.truncate(path, 5 * UNIT.size)


def overwritten(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4 * UNIT.size)
        file.write(UNIT.pack(100, 5, 0))


@pytest.mark.parametrize(
    "damage, reason",
    [
        (cut, "99 bytes, the checkpoint had 100"),
        (cut_and_zeroed, "offset 4 was never written"),
        (overwritten, "offset 4 is at 100, not below 100"),
        (Path.unlink, "the checkpoint had it, now it is gone"),
    ],
)
def test_files_that_fall_short_are_refused_and_left_alone(
    tmp_path: Path, life: Life, damage: object, reason: str
) -> None:
    life.index("orders", 0, 5)
    life.index("bills", 0, 5)
    saved = life.save()
    finish(life.queues, life.queues.checkpoint())
    life.index("refunds", 0, 5)
    directory = tmp_path / "life" / "q"
    assert callable(damage)
    damage(directory / "bills" / "0" / queue_file_name(0))
    before = sorted(directory.rglob("*"))

    with pytest.raises(CannotResume, match=rf"bills/0.*{reason}"):
        ConsumeQueues.open(directory, saved.reached, below=saved.below)

    assert before == sorted(directory.rglob("*"))
    assert b"" == ConsumeQueues.create(directory).range("orders", 0, 0, 1)


def test_an_earlier_file_that_falls_short_is_refused(
    tmp_path: Path, life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "UNITS_PER_FILE", 3)
    monkeypatch.setattr("broker.store.queue_files.UNITS_PER_FILE", 3)
    life.index("orders", 0, 5)
    saved = life.save()
    finish(life.queues, life.queues.checkpoint())
    path = tmp_path / "life" / "q" / "orders" / "0" / f"{0:020d}"
    os.truncate(path, 59)

    with pytest.raises(CannotResume, match="59 bytes, the checkpoint had 60"):
        ConsumeQueues.open(tmp_path / "life" / "q", saved.reached, below=saved.below)


def test_a_topic_deleted_since_is_there_until_its_deletion_is_applied_again(
    tmp_path: Path, life: Life
) -> None:
    """Also where topics of the same name came and went after it."""
    life.index("orders", 0, 6)
    life.index("bills", 0, 6)
    saved = life.save()
    finish(life.queues, life.queues.checkpoint())
    for _ in range(3):
        life.drop("orders")
        life.index("orders", 0, 7)
    life.drop("bills")
    directory = tmp_path / "life" / "q"
    assert not (directory / "bills").exists()

    after = life.reborn(ConsumeQueues.open(directory, saved.reached, below=saved.below), saved)

    after.check()
    assert not (directory / ASIDE).exists()
    after.replay(saved)
    after.check()
    assert life.model == after.model


def test_the_youngest_topic_of_that_name_before_the_snapshot_is_meant(
    tmp_path: Path, life: Life
) -> None:
    finish(life.queues, life.queues.checkpoint())
    life.index("orders", 0, 6)
    life.drop("orders")
    life.index("orders", 0, 6)
    saved = life.save()
    finish(life.queues, life.queues.checkpoint())
    life.drop("orders")

    again = ConsumeQueues.open(tmp_path / "life" / "q", saved.reached, below=saved.below)

    life.reborn(again, saved).check()


def test_what_was_set_aside_goes_once_a_snapshot_does_without_it(
    tmp_path: Path, life: Life
) -> None:
    aside = tmp_path / "life" / "q" / ASIDE
    life.index("orders", 0, 6)
    life.index("bills", 0, 6)
    finish(life.queues, life.queues.checkpoint())
    life.drop("orders")
    work = life.queues.checkpoint()
    finish(life.queues, work)
    life.drop("bills")
    assert ["bills", "orders"] == sorted(path.name for path in aside.glob("*/*"))
    work.release()

    assert ["bills"] == [path.name for path in aside.glob("*/*")]


def test_without_checkpoints_nothing_is_kept(tmp_path: Path, life: Life) -> None:
    life.index("orders", 0, 6)
    life.drop("orders")

    assert [] == list((tmp_path / "life" / "q").iterdir())
    assert 0 == life.queues.statistics().unsynced_files


MOMENTS = 26  # 4 files, 4 folders of queues, 2 of topics and 3 above are opened and synced


@pytest.mark.parametrize("when", ["before writing", "while writing", *range(MOMENTS)])
@pytest.mark.parametrize("anew", [0, 1, 9])
def test_topics_may_be_deleted_at_any_moment_of_a_checkpoint(
    tmp_path: Path,
    disk: Disk,
    life: Life,
    when: str | int,
    anew: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for topic in ("orders", "bills"):
        life.index(topic, 0, 6)
        life.index(topic, 1, 1)
    saved = life.save()
    work = life.queues.checkpoint()
    deleted = []

    def delete(now: str | int) -> None:
        if now == when:
            deleted.append(now)
            for topic in ("orders", "bills"):
                life.drop(topic)
                if anew:
                    life.index(topic, 0, anew)

    delete("before writing")
    work.write_some(1)
    delete("while writing")
    while work.write_some(1):
        pass
    with monkeypatch.context() as patch:
        moments = count()
        inside: list[Any] = []

        def interrupted(call: Callable[..., Any]) -> Callable[..., Any]:
            def first_delete(*args: Any, **named: Any) -> Any:
                if inside:
                    return call(*args, **named)
                inside.append(call)
                delete(next(moments))
                try:
                    return call(*args, **named)
                finally:
                    inside.clear()

            return first_delete

        for name in ("open", "fdatasync", "fsync"):
            patch.setattr(os, name, interrupted(getattr(os, name)))
        work.sync()
    assert MOMENTS <= next(moments)
    assert [when] == deleted
    life.queues.end_checkpoint()
    work.release()

    again = ConsumeQueues.open(after_a_power_cut(tmp_path, disk), saved.reached, below=saved.below)
    after = life.reborn(again, saved)
    after.check()
    after.replay(saved)
    after.check()


def test_a_failed_sync_stops_the_process(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    life.index("orders", 0, 1)
    work = life.queues.checkpoint()
    work.write_some()
    monkeypatch.setattr(os, "fdatasync", failing)
    with pytest.raises(FailStop, match="Input/output error"):
        work.sync()
    monkeypatch.setattr(os, "fdatasync", lambda _: None)
    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(FailStop, match=r"syncing .*/q/orders/0: .*Input/output error"):
        work.sync()


def test_a_file_that_is_gone_stops_the_process(tmp_path: Path, life: Life) -> None:
    life.index("orders", 0, 1)
    work = life.queues.checkpoint()
    work.write_some()
    (tmp_path / "life" / "q" / "orders" / "0" / queue_file_name(0)).unlink()

    with pytest.raises(FailStop, match="it is gone"):
        work.sync()


def test_queues_that_cannot_go_on_can_begin_again(tmp_path: Path, life: Life) -> None:
    """The same object, since rooms hold it by then."""
    life.index("orders", 0, 5)
    life.index("bills", 0, 1)
    saved = life.save()
    finish(life.queues, life.queues.checkpoint())
    directory = tmp_path / "life" / "q"
    (directory / "bills" / "0" / queue_file_name(0)).unlink()
    queues = small(directory)

    with pytest.raises(CannotResume):
        queues.resume(saved.reached, below=saved.below)
    queues.index("refunds", 0, 0, units([1]))
    with pytest.raises(AssertionError, match="indexed already"):
        queues.resume(saved.reached, below=saved.below)
    queues.clear()

    assert not directory.exists()
    assert (0, 0) == (queues.statistics().queues, queues.statistics().tail_bytes)
    queues.index("orders", 0, 0, units([1] * 5))
    assert units([1] * 5) == queues.range("orders", 0, 0, 9)
    queues.drop("orders")
    assert not (directory / ASIDE).exists()


def test_few_files_are_open_after_a_start_too(tmp_path: Path, life: Life) -> None:
    for queue_id in range(20):
        life.index("orders", queue_id, 5)
    saved = life.save()
    finish(life.queues, life.queues.checkpoint())
    before = len(os.listdir("/proc/self/fd"))

    again = ConsumeQueues.open(tmp_path / "life" / "q", saved.reached, below=saved.below)

    assert before == len(os.listdir("/proc/self/fd"))
    again._files.open_files_max = 3
    for queue_id in range(20):
        assert 5 * UNIT.size == len(again.range("orders", queue_id, 0, 9))
        assert again.statistics().open_files <= 3
    again.close()
    assert before == len(os.listdir("/proc/self/fd"))


_topics = st.sampled_from(["a", "b"])
_steps = st.lists(
    st.one_of(
        st.tuples(st.just("index"), _topics, st.integers(0, 1), st.integers(1, 9)),
        st.tuples(st.just("drop"), _topics),
        st.tuples(st.sampled_from(["begin", "write", "sync", "end", "release", "kill", "cut"])),
    ),
    max_size=40,
)


@given(steps=_steps)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
def test_after_any_crash_the_last_finished_checkpoint_is_there(
    tmp_path_factory: pytest.TempPathFactory, disk: Disk, steps: list[tuple[Any, ...]]
) -> None:
    """Whatever is indexed, deleted and made anew, and wherever in a checkpoint it ends."""
    disk.forget()
    root = tmp_path_factory.mktemp("lives")
    lives = 0
    (root / "0").mkdir()
    life = Life(small(root / "0" / "q"))
    work: Checkpoint | None = None
    pending: Saved | None = None
    saved: Saved | None = None
    finished: Checkpoint | None = None
    for step in [*steps, ("cut",)]:
        match step:
            case ("index", topic, queue_id, messages):
                life.index(topic, queue_id, messages)
            case ("drop", topic):
                life.drop(topic)
            case ("begin",) if work is None:
                pending, work = life.save(), life.queues.checkpoint()
            case ("write",) if work is not None:
                work.write_some(1)
            case ("sync",) if work is not None:
                while work.write_some():
                    pass
                work.sync()
                saved, finished = pending, work
            case ("end",) if work is not None:
                life.queues.end_checkpoint()
                work = None
            case ("release",) if finished is not None:
                finished.release()
            case ("kill" | "cut",) if saved is not None:
                directory = root / str(lives) / "q"
                life.queues.close()
                if step == ("cut",):
                    lives += 1
                    disk.power_cut(directory.parent, root / str(lives))
                    directory = root / str(lives) / "q"
                queues = ConsumeQueues.open(directory, saved.reached, below=saved.below)
                queues.tail_units_max = 4
                life = life.reborn(queues, saved)
                life.check()
                life.replay(saved)
                life.check()
                work = finished = None
    life.queues.close()
