"""The front of the log goes, and nobody misses it."""

import pytest
import trio

from dledger_py.ledger.machine import Applied
from dledger_py.storage.formats import segment_start
from tests.ledger.test_snapshotter import Diary, commit_all, failed_start, often

__all__ = ["often"]  # a fixture: the log's growth is looked at all the time

SMALL = {"segment_size_bytes": 2000, "snapshot_every_bytes": 1 << 30}


class Trimmed(Diary):
    """A diary that is told by a command what it needs no more."""

    def apply(self, committed):
        applied = super().apply(committed)
        text = bytes(committed.payload)
        if text.startswith(b"trim "):
            return Applied(reply=applied.reply, effects=(("trim", int(text[5:])),))
        return applied


def told(group):
    """Members whose performed effects reach their ledgers."""
    for member in group.members.values():
        performed = member.machine.performed
        if not isinstance(performed, Performed):
            member.machine.performed = Performed(member.ledger)


class Performed(list):
    def __init__(self, ledger):
        super().__init__()
        self._ledger = ledger

    def extend(self, effects):
        for effect in effects:
            if effect[0] == "trim":
                self._ledger.trim(effect[1])


def texts(count, first=0):
    return [b"%0200d" % number for number in range(first, first + count)]


def segments(folder):
    return sorted(
        start for path in folder.iterdir() if (start := segment_start(path.name)) is not None
    )


async def wait_first_index(group, first, *names):
    while any(group.members[name].ledger.log.first_index < first for name in names):
        await trio.lowlevel.checkpoint()


@pytest.fixture
def trimming_group(open_group):
    return lambda size, **settings: open_group(size, machine=Trimmed, **{**SMALL, **settings})


async def test_all_members_let_go_of_the_same_and_go_on(trimming_group, tmp_path):
    async with trimming_group(3) as group:
        await group.start()
        told(group)
        leader = await group.wait_leader()
        await commit_all(leader, texts(60))
        boundary = leader.ledger.log.boundaries[-2]
        await leader.ledger.commit(b"trim %d" % boundary.index)
        await wait_first_index(group, boundary.index + 1, *group.names)
        await commit_all(leader, texts(20, first=60))
        await group.wait_applied(81)
        for name in group.names:
            log = group.members[name].ledger.log
            assert boundary == log.start
            assert boundary.position == group.members[name].ledger.first_position
            with pytest.raises(LookupError):
                log.read(1, 1)
            assert boundary.position == segments(tmp_path / name)[0]
        for name in group.names:
            await group.stop(name)
        await group.start()
        told(group)
        leader = await group.wait_leader()

        assert 82 == await leader.ledger.commit(b"once more")
        assert {*group.names} == {*leader.ledger.members.voters}
        for name in group.names:
            assert boundary == group.members[name].ledger.log.start


async def test_nothing_goes_before_a_snapshot_can_do_without_it(trimming_group, tmp_path):
    async with trimming_group(1) as group:
        await group.start()
        told(group)
        leader = await group.wait_leader()
        await commit_all(leader, texts(60))
        boundary = leader.ledger.log.boundaries[-1]
        written = []
        snapshots = leader.ledger.parts.snapshots
        drop = leader.ledger.parts.writer.drop
        leader.ledger.parts.writer.drop = lambda job: (
            written.append(snapshots.newest_index),
            drop(job),
        )
        trim_index = 1 + leader.ledger.applied_index
        await leader.ledger.commit(b"trim %d" % boundary.index)
        await wait_first_index(group, boundary.index + 1, "n0")

        assert [True] == [index >= trim_index for index in written]


async def test_a_log_without_a_beginning_and_without_a_snapshot_stops_the_member(
    trimming_group, tmp_path
):
    async with trimming_group(1) as group:
        await group.start()
        told(group)
        leader = await group.wait_leader()
        await commit_all(leader, texts(60))
        boundary = leader.ledger.log.boundaries[-1]
        await leader.ledger.commit(b"trim %d" % boundary.index)
        await wait_first_index(group, boundary.index + 1, "n0")
        await group.stop("n0")
        for path in (tmp_path / "n0" / "snapshots").iterdir():
            path.unlink()
        story = str(await failed_start(group))

    assert "newest snapshot is of entry 0" in story
    assert "replaceMember -m n0" in story


async def test_a_group_whose_members_changed_before_the_cut_still_knows_them(trimming_group):
    async with trimming_group(4) as group:
        founders = {name: group.peers[name] for name in ("n0", "n1", "n2")}
        await group.start("n0", "n1", "n2", peers=founders)
        await group.start("n3", join=True, peers=group.peers)
        told(group)
        leader = await group.wait_leader()
        await leader.ledger.add_member("n3", group.peers["n3"])
        while not all(
            "n3" in m.ledger.members.voters and not m.ledger.members.changing
            for m in group.members.values()
        ):
            await trio.lowlevel.checkpoint()
        await commit_all(leader, texts(60))
        boundary = leader.ledger.log.boundaries[-1]
        await leader.ledger.commit(b"trim %d" % boundary.index)
        await wait_first_index(group, boundary.index + 1, *group.names)
        for name in group.names:
            await group.stop(name)
        await group.start("n0", "n1", "n2", peers=founders)
        leader = await group.wait_leader()

        assert {*group.names} == {*leader.ledger.members.voters}
        assert leader.ledger.members.addresses_of("n3") == (group.peers["n3"],)
