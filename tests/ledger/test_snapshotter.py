"""Starts that go on from a state that was written down."""

import errno
import json
import shutil
from collections.abc import Callable

import pytest
import trio
from attrs import define, field

from dledger_py.actors import fail_stop_in
from dledger_py.ledger import snapshotter
from dledger_py.ledger.reopening import Reopen
from dledger_py.storage import Corrupt, Log
from dledger_py.storage.lying import LyingFiles
from tests.ledger.conftest import Recorder


@define(eq=False)
class Written:
    """What a `Diary` looked like at one moment; notes what it is asked for."""

    body: bytes
    calls: list[str]
    slices: int = 2

    def prepare(self):
        self.calls.append("prepare")
        self.slices -= 1
        return self.slices > 0

    def sync(self):
        self.calls.append("sync")

    def chunks(self):
        self.calls.append("chunks")
        yield self.body[:10]
        yield self.body[10:]

    def release(self):
        self.calls.append("release")

    def end(self):
        self.calls.append("end")


@define(eq=False)
class Diary(Recorder):
    """A recorder that remembers."""

    willing: bool = True
    restored: int = 0
    """How many commands came out of the snapshot."""
    calls: list[str] = field(factory=list)

    def capture(self, place):
        texts = [command.decode() for command in self.commands]
        return Written(json.dumps([texts, self.positions]).encode(), self.calls)

    def restore(self, body):
        assert not self.commands
        if not self.willing:
            return False
        texts, self.positions = json.loads(body)
        self.commands = [text.encode() for text in texts]
        self.restored = len(texts)
        return True

    def rebuild(self, body, commands):
        self.willing = True
        self.restore(body)
        self.calls.append(f"rebuilt from {[bytes(each.payload) for each in commands()]}")
        assert list(commands()), "they can be had again and again"


@define(eq=False)
class Watched(Written):
    """Notes how far the log was on the disk when this is to go there."""

    note: Callable[[], None] = field(kw_only=True)

    def sync(self):
        self.note()
        super().sync()


@define(eq=False)
class Watching(Diary):
    """A diary that is told of its log."""

    log: Log | None = None
    noted: list[tuple[int, int]] = field(factory=list)
    """Of each state the entry it was taken behind, and the last one on the disk by then."""

    def capture(self, place):
        def note():
            if self.log is not None:
                self.noted.append((place.index, self.log.durable_index))

        written = super().capture(place)
        return Watched(written.body, written.calls, note=note)


def unwilling():
    return Diary(willing=False)


@pytest.fixture(autouse=True)
def often(monkeypatch):
    """The log's growth is looked at all the time."""
    monkeypatch.setattr(snapshotter, "LOOK_S", 0.0)


def texts(count, first=0):
    return [b"command %d" % number for number in range(first, first + count)]


async def commit_all(member, payloads):
    for payload in payloads:
        await member.ledger.commit(payload)


async def failed_start(group):
    """Start n0, which cannot; an operator reads what it stops with."""
    member = group.make("n0")
    await group.nursery.start(member.run)
    await member.ended.wait()
    failure = fail_stop_in(member.error)
    assert failure is not None
    return failure


def snapshots_of(folder):
    return sorted(path.name for path in (folder / "snapshots").iterdir())


async def test_a_stop_writes_the_state_down_and_a_start_applies_the_rest_only(open_group, tmp_path):
    async with open_group(3, machine=Diary) as group:
        await group.start()
        leader = await group.wait_leader()
        await commit_all(leader, texts(10))
        name = group.follower().name
        await group.wait_applied(10)
        stopped = group.members[name].machine
        await group.stop(name)
        await commit_all(leader, texts(5, first=10))
        await group.start(name)
        await group.wait_applied(15, name)
        member = group.members[name]

        assert ["prepare", "prepare", "sync", "chunks", "release", "end"] == stopped.calls
        assert 10 == member.machine.restored
        assert 5 == len(member.machine.performed)
        assert texts(15) == member.machine.commands
        assert leader.machine.positions == member.machine.positions
        assert 1 == len(snapshots_of(tmp_path / name))


async def test_a_whole_group_goes_on_from_its_snapshots(open_group):
    async with open_group(3, machine=Diary) as group:
        for life in range(3):
            await group.start()
            leader = await group.wait_leader()
            await commit_all(leader, texts(10, first=10 * life))
            await group.wait_applied(10 * (life + 1))
            restored = {member.machine.restored for member in group.members.values()}
            assert {10 * life} == restored
            for member in group.members.values():
                assert texts(10 * (life + 1)) == member.machine.commands
            for name in group.names:
                await group.stop(name)


async def test_a_growing_log_is_written_down_again_and_again_and_a_kill_finds_it(
    open_group, tmp_path
):
    async with open_group(1, machine=Diary, snapshot_every_bytes=2000) as group:
        await group.start()
        leader = await group.wait_leader()
        for number in range(200):
            await leader.ledger.commit(b"%0100d" % number)
        calls = leader.machine.calls
        while calls.count("end") < 3 or calls.count("prepare") > 2 * calls.count("end"):
            await trio.lowlevel.checkpoint()  # no file comes or goes while the folder is copied
        shutil.copytree(tmp_path / "n0", tmp_path / "killed")
        await group.stop("n0")
        shutil.rmtree(tmp_path / "n0")
        (tmp_path / "killed").rename(tmp_path / "n0")
        await group.start()
        leader = await group.wait_leader()

        assert 0 < leader.machine.restored <= 200
        assert [b"%0100d" % number for number in range(200)] == leader.machine.commands
        await group.stop("n0")

        assert 2 == len(snapshots_of(tmp_path / "n0"))  # older ones went


async def test_no_state_is_written_down_before_its_log_is_on_the_disk(open_group, tmp_path):
    disks = {}

    def files(name):
        return disks.setdefault(name, LyingFiles(seed=name))

    settings = {"machine": Watching, "flush": "async", "async_flush_ms": 600_000, "files": files}
    async with open_group(1, **settings, snapshot_every_bytes=1) as group:
        await group.start()
        leader = await group.wait_leader()
        leader.machine.log = leader.ledger.log
        await commit_all(leader, texts(5))
        while not leader.machine.calls:
            await trio.lowlevel.checkpoint()
        for number in range(50):  # busy: the log is not sealed as it would be in a lull
            await leader.ledger.commit(b"more %d" % number)
        await group.stop("n0")

    assert leader.machine.noted
    assert [] == [each for each in leader.machine.noted if each[0] > each[1]]
    assert "end" in leader.machine.calls


async def test_a_machine_that_cannot_take_the_state_gets_the_whole_log(open_group):
    async with open_group(1, machine=unwilling) as group:
        await group.start()
        await commit_all(await group.wait_leader(), texts(5))
        await group.stop("n0")
        await group.start()
        leader = await group.wait_leader()

        assert texts(5) == leader.machine.commands
        assert 5 == len(leader.machine.performed)


async def test_a_log_that_ends_before_the_snapshot_does_not_start(open_group, tmp_path):
    async with open_group(1, machine=Diary) as group:
        await group.start()
        leader = await group.wait_leader()
        await commit_all(leader, texts(5))
        shutil.copytree(tmp_path / "n0", tmp_path / "older")
        await commit_all(leader, texts(5, first=5))
        await group.stop("n0")
        shutil.copytree(tmp_path / "n0/snapshots", tmp_path / "older/snapshots", dirs_exist_ok=True)
        shutil.rmtree(tmp_path / "n0")
        (tmp_path / "older").rename(tmp_path / "n0")
        story = str(await failed_start(group))

    assert "committed entries are missing" in story


async def test_rot_behind_which_the_snapshot_stands_is_mended_by_the_next_opening(
    open_group, monkeypatch
):
    read = Log.read

    def rotten(log, first_index, max_bytes):
        if max_bytes == 1:  # one entry: that of the snapshot
            raise Corrupt("a file", 7, "crc does not match")
        return read(log, first_index, max_bytes)

    async with open_group(1, machine=Diary) as group:
        await group.start()
        await commit_all(await group.wait_leader(), texts(5))
        await group.stop("n0")
        monkeypatch.setattr(Log, "read", rotten)
        stop = await failed_start(group)

    assert isinstance(stop, Reopen)
    assert "snapshot stands behind" in str(stop)


@pytest.mark.parametrize(("at", "harmless"), [(100, True), (-1, False)])
async def test_a_damaged_snapshot_is_told_and_not_passed_over(open_group, tmp_path, at, harmless):
    async with open_group(1, machine=Diary) as group:
        await group.start()
        await commit_all(await group.wait_leader(), texts(5))
        await group.stop("n0")
        (name,) = snapshots_of(tmp_path / "n0")
        path = tmp_path / "n0/snapshots" / name
        content = bytearray(path.read_bytes())
        content[at] ^= 1  # in one of the two headers, or in the body
        path.write_bytes(content)
        if harmless:
            await group.start()
            leader = await group.wait_leader()
            assert 5 == leader.machine.restored
        else:
            story = str(await failed_start(group))
            assert name in story
            assert "crc of the body" in story


async def test_a_disk_that_fails_under_a_snapshot_ends_the_member(open_group):
    disk = LyingFiles(seed=1)
    async with open_group(1, machine=Diary, files=lambda name: disk) as group:
        await group.start()
        leader = await group.wait_leader()
        await commit_all(leader, texts(5))
        disk.fail("create", errno.ENOSPC)
        await group.stop("n0")
        failure = fail_stop_in(leader.error)

    assert failure is not None
    assert "the snapshot at" in str(failure)
    assert "No space left" in str(failure)
