"""Members that fell behind all that the others keep take over a copy of another member's log."""

from __future__ import annotations

from itertools import count

import pytest
import trio
from structlog.testing import capture_logs

from dledger_py.actors import fail_stop_in
from dledger_py.ledger import installing, snapshotter
from dledger_py.ledger.fetch_client import Fetch, FetchFailed
from dledger_py.ledger.reopening import FellBehind, Reopen
from dledger_py.raft.membership import Configuration, encode
from dledger_py.storage import Identity, lying, recover, want_installation
from tests.ledger.test_group import commit_all
from tests.ledger.test_membership import FOUNDERS, start_founders, start_joining, wait_voters
from tests.ledger.test_repair import Died, Disks, others_than
from tests.ledger.test_snapshotter import Diary, texts

SEGMENT_BYTES = 700
SETTINGS = {"machine": Diary, "segment_size_bytes": SEGMENT_BYTES}


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(installing, "RETRY_S", 0.01)
    monkeypatch.setattr(snapshotter, "LOOK_S", 0.0)


class Trimmed(Disks):
    """Disks whose logs can lose their front while nobody uses them."""

    def folder(self, group, name):
        return str(group.folder / name)

    def opened(self, group, name):
        identity = Identity(cluster="dledger", group="broker-a", member=name)
        return recover(self(name), self.folder(group, name), identity, SEGMENT_BYTES)

    def drop(self, group, name, index):
        """Let this member keep only what begins about there; the first entry it has then."""
        opened = self.opened(group, name)
        founders = (0, encode(Configuration(voters=group.names)))
        known = [each for each in (founders, *opened.configurations) if each[0] < index]
        first = opened.log.drop_before(index, known[-1])
        opened.close()
        return first


async def left_behind(group, disks, *, before=20, after=40, used=True):
    """A follower that stopped early; the others have dropped what it lacks, and run."""
    if not used:
        group.keep_away(group.names[2])
    await group.start(*(group.names if used else group.names[:2]))
    leader = await group.wait_leader()
    await commit_all(leader, texts(before))
    await group.wait_applied(before, *(group.names if used else group.names[:2]))
    name = group.follower().name if used else group.names[2]
    if used:
        await group.stop(name)
    await commit_all(leader, texts(after, first=before))
    others = others_than(group, name)
    await group.wait_applied(before + after, *others)
    await stop_and_drop(group, disks, others, before + after - 5)
    await group.start(*others)
    await group.wait_leader()
    return name


async def stop_and_drop(group, disks, names, index):
    for name in names:
        await group.stop(name)
    firsts = [disks.drop(group, name, index) for name in names]
    assert all(first > index - 20 for first in firsts)


async def fall_behind(group, name):
    """Run this member until it finds out; what it stops with."""
    member = group.make(name)
    await group.nursery.start(member.run)
    await member.ended.wait()
    return fail_stop_in(member.error)


async def check_whole(group, disks, name, number):
    """It has everything, and takes part."""
    leader = await group.wait_leader()
    await commit_all(leader, texts(3, first=number))
    await group.wait_applied(number + 3)
    member = group.members[name]
    assert texts(number + 3) == member.machine.commands
    assert leader.machine.positions == member.machine.positions
    mine, theirs = member.ledger.log, leader.ledger.log
    first = max(mine.first_position, theirs.first_position)
    size = member.ledger.committed_position - first
    assert mine.first_index > 1
    assert theirs.read_bytes(first, size) == mine.read_bytes(first, size)


@pytest.mark.parametrize("used", [True, False])
async def test_a_member_that_fell_behind_takes_over_a_copy_and_takes_part(open_group, used):
    disks = Trimmed()
    async with open_group(3, files=disks, **SETTINGS) as group:
        name = await left_behind(group, disks, used=used)
        stop = await fall_behind(group, name)
        assert isinstance(stop, FellBehind)
        assert "a copy of another member's log is needed" in str(stop)
        with capture_logs() as logs:
            await group.start(name)
        await check_whole(group, disks, name, 60)
        machine = group.members[name].machine
        await group.stop(name)
        await group.start(name)  # and like any other member from now on
        await check_whole(group, disks, name, 63)

        assert "log.installed" in [each["event"] for each in logs]
        assert 60 == machine.restored
        others = others_than(group, name)
        assert 1 == len({group.members[each].ledger.log.first_index for each in others})


async def test_a_new_member_of_a_group_without_its_first_entries_gets_a_copy_and_a_vote(open_group):
    disks = Trimmed()
    async with open_group(4, files=disks, **SETTINGS) as group:
        await start_founders(group)
        await commit_all(await group.wait_leader(), texts(60))
        await group.wait_applied(60, *FOUNDERS)
        await stop_and_drop(group, disks, FOUNDERS, 55)
        await start_founders(group)
        leader = await group.wait_leader()
        await start_joining(group, "n3")
        await leader.ledger.add_member("n3", group.peers["n3"])
        await group.members["n3"].ended.wait()
        assert isinstance(fail_stop_in(group.members["n3"].error), FellBehind)
        await start_joining(group, "n3")
        await wait_voters(group, group.names, *group.names)
        await check_whole(group, disks, "n3", 60)


async def test_term_and_vote_stay_what_they_were(open_group):
    disks = Trimmed()
    async with open_group(3, files=disks, **SETTINGS) as group:
        name = await left_behind(group, disks)
        opened = disks.opened(group, name)
        opened.hard_state_file.save(99, name, 1)
        opened.close()
        want_installation(disks(name), disks.folder(group, name))
        member = group.make(name)
        await group.nursery.start(member.run)
        hard = member.ledger.parts.writer._hard_state.load()

        assert 99 <= hard.term
        assert 60 <= hard.commit


async def test_a_member_whose_damage_nobody_can_mend_any_more_takes_over_a_copy(open_group):
    """It ended before the others' beginning, or behind it: both may be replaced."""
    for after in (40, 0):
        disks = Trimmed()
        async with open_group(3, files=disks, **SETTINGS) as group:
            group.folder = group.folder / str(after)
            name = await left_behind(group, disks, before=60 - after, after=after)
            disks.flip(group.folder, name, 300)
            with capture_logs() as logs:
                await group.start(name)
            await check_whole(group, disks, name, 60)

            expected = ["log.damaged", "log.install_began", "log.installed"]
            assert expected == [e["event"] for e in logs if e["event"] in expected]


async def test_a_damaged_log_is_not_replaced_by_a_copy_that_may_lack_what_it_held(
    open_group, monkeypatch
):
    monkeypatch.setattr(installing, "TELL_S", 0.0)
    disks = Trimmed()
    async with open_group(3, files=disks, **SETTINGS) as group:
        name = await left_behind(group, disks, before=60, after=0)
        path = max(disks.segments(group.folder, name))
        content = disks(name).content(path)
        disks(name).put(path, content + bytes(5000))  # whatever that was
        disks.flip(group.folder, name, 300)
        with capture_logs() as logs:
            member = group.make(name)
            group.nursery.start_soon(member.run, trio.TASK_STATUS_IGNORED)
            while not any(each["event"] == "log.install_delayed" for each in logs):
                await trio.lowlevel.checkpoint()
            delayed = next(each for each in logs if each["event"] == "log.install_delayed")
            assert "to be committed" in delayed["reasons"][0]
            await commit_all(await group.wait_leader(), [b"%d" % n * 2000 for n in range(4)])
            await group.wait_applied(64)

        assert "log.installed" in [each["event"] for each in logs]


async def test_a_member_that_lacks_nothing_copies_nothing(open_group):
    disks = Trimmed()
    async with open_group(3, files=disks, **SETTINGS) as group:
        await group.start()
        await commit_all(await group.wait_leader(), texts(20))
        await group.wait_applied(20)
        name = group.follower().name
        await group.stop(name)
        want_installation(disks(name), disks.folder(group, name))
        with capture_logs() as logs:
            await group.start(name)
        await group.wait_applied(20)

        assert "log.install_dropped" in [each["event"] for each in logs]
        assert 1 == group.members[name].ledger.log.first_index
        assert "install" not in disks(name).list(disks.folder(group, name))


async def test_another_member_goes_on_where_the_first_one_left_off(open_group, monkeypatch):
    disks = Trimmed()
    async with open_group(3, files=disks, machine=Diary, segment_size_bytes=1 << 20) as group:
        name = "n2"
        group.keep_away(name)
        await group.start("n0", "n1")
        leader = await group.wait_leader()
        for number in range(8):
            await leader.ledger.commit(b"%d" % number * 300_000)
        others = others_than(group, name)
        await group.wait_applied(8, *others)
        for each in others:
            await group.stop(each)
            assert disks.drop(group, each, 8) > 1
        await group.start(*others)
        await group.wait_leader()
        await fall_behind(group, name)
        asked = []
        read_log = Fetch.read_log

        async def once(fetch, position):
            if asked and asked[-1][0] == fetch.peer:
                raise FetchFailed(f"{fetch.peer} is gone")
            asked.append((fetch.peer, position))
            return await read_log(fetch, position)

        monkeypatch.setattr(Fetch, "read_log", once)
        await group.start(name)
        await group.wait_applied(8)

        assert {*others} == {peer for peer, _ in asked}
        assert len(asked) >= 3
        assert sorted(asked, key=lambda each: each[1]) == asked
        assert leader.machine.commands == group.members[name].machine.commands


async def test_a_power_cut_anywhere_in_a_copy_is_gone_on_with(open_group, monkeypatch):
    monkeypatch.setattr(lying, "PowerCut", Died)
    disks = Trimmed()
    async with open_group(3, files=disks, **SETTINGS) as group:
        name = await left_behind(group, disks)
        await fall_behind(group, name)
        disks(name).kill()
        behind = disks(name)
        for changes in count(0, 3):
            disks.by_name[name] = behind.copy(f"cut {changes}")
            disks(name).stop_after(changes)
            member = group.make(name)
            await group.nursery.start(member.run)
            while not member.ended.is_set() and member.ledger.statistics() is None:
                await trio.lowlevel.checkpoint()
            if member.ledger.statistics() is not None:
                break  # the folder was opened before the end
            assert "cannot be opened" in str(fail_stop_in(member.error))
            disks(name).crash()
            await group.start(name)
            await group.wait_applied(60, name)
            await group.stop(name)

            assert texts(60) == group.members[name].machine.commands[:60]
        assert changes > 30


async def test_a_copy_whose_next_bytes_were_dropped_meanwhile_is_begun_anew(
    open_group, monkeypatch
):
    disks = Trimmed()
    async with open_group(3, files=disks, **SETTINGS) as group:
        name = await left_behind(group, disks)
        await fall_behind(group, name)
        asked = []
        read_log = Fetch.read_log

        async def never(fetch, position):
            asked.append(position)
            raise FetchFailed("not now")

        monkeypatch.setattr(Fetch, "read_log", never)
        member = group.make(name)
        group.nursery.start_soon(member.run, trio.TASK_STATUS_IGNORED)
        while not asked:
            await trio.lowlevel.checkpoint()
        await group.stop(name)
        others = others_than(group, name)
        leader = await group.wait_leader()
        await commit_all(leader, texts(40, first=60))
        await group.wait_applied(100, *others)
        await stop_and_drop(group, disks, others, 95)
        await group.start(*others)
        await group.wait_leader()
        monkeypatch.setattr(Fetch, "read_log", read_log)
        with capture_logs() as logs:
            await group.start(name)
        await check_whole(group, disks, name, 100)

        assert 1 == [each["event"] for each in logs].count("log.install_began")
        assert group.members[name].ledger.log.first_position > asked[0]


async def test_a_snapshot_with_wrong_bytes_is_not_taken_over(open_group, monkeypatch):
    disks = Trimmed()
    async with open_group(3, files=disks, **SETTINGS) as group:
        name = await left_behind(group, disks)
        await fall_behind(group, name)
        bad, good = others_than(group, name)
        read_snapshot = Fetch.read_snapshot

        async def flipped(fetch, index, offset):
            piece = await read_snapshot(fetch, index, offset)
            return bytes([piece[0] ^ 1]) + piece[1:] if fetch.peer == bad else piece

        monkeypatch.setattr(Fetch, "read_snapshot", flipped)
        with capture_logs() as logs:
            await group.start(name)
        await check_whole(group, disks, name, 60)
        (installed,) = [each for each in logs if each["event"] == "log.installed"]

        assert good == installed["peer"]


def unwilling():
    return Diary(willing=False)


async def test_what_a_machine_derives_from_the_log_is_made_anew_from_what_the_log_has(
    open_group,
):
    disks = Trimmed()
    async with open_group(3, files=disks, **SETTINGS) as group:
        name = await left_behind(group, disks)
        await fall_behind(group, name)
        group.machine = unwilling
        await group.start(name)
        group.machine = Diary
        await check_whole(group, disks, name, 60)
        (rebuilt,) = [c for c in group.members[name].machine.calls if c.startswith("rebuilt")]

        assert "b'command 59'" in rebuilt
        assert "b'command 20'" not in rebuilt


async def test_an_installation_that_waits_says_so_and_can_be_stopped(open_group, monkeypatch):
    monkeypatch.setattr(installing, "TELL_S", 0.0)
    disks = Trimmed()
    async with open_group(3, files=disks, **SETTINGS) as group:
        name = await left_behind(group, disks)
        await fall_behind(group, name)
        for other in others_than(group, name):
            await group.stop(other)
        with capture_logs() as logs:
            member = group.make(name)
            group.nursery.start_soon(member.run, trio.TASK_STATUS_IGNORED)
            while not any(each["event"] == "log.install_delayed" for each in logs):
                await trio.lowlevel.checkpoint()
        assert member.ledger.statistics() is None, "no Raft runs"
        await group.stop(name)

        assert member.error is None
        assert "install" in disks(name).list(disks.folder(group, name))
        assert issubclass(FellBehind, Reopen)
