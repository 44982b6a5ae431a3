"""Members whose logs rotted get back what they lost from the others, and lose nothing."""

from __future__ import annotations

from itertools import count

import pytest
import trio
from structlog.testing import capture_logs

from dledger_py.actors import fail_stop_in
from dledger_py.ledger import repairing
from dledger_py.ledger.fetch_client import Fetch, FetchFailed
from dledger_py.storage import lying
from dledger_py.storage.formats import EMPTY, ENTRY_HEADER_BYTES, HEADER_BLOCK_BYTES, walk
from dledger_py.storage.lying import LyingFiles
from tests.ledger.test_group import commands, commit_all

SEGMENT_BYTES = 700
BYTE_CLASSES = {
    "magic": 0,
    "kind": 2,
    "version": 3,
    "length": 7,
    "index": 15,
    "term": 23,
    "position": 31,
    "chain": 33,
    "crc": 37,
    "payload": ENTRY_HEADER_BYTES + 3,
}


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(repairing, "RETRY_S", 0.01)


class Disks:
    """One lying disk for each member."""

    def __init__(self):
        self.by_name = {}

    def __call__(self, name):
        return self.by_name.setdefault(name, LyingFiles(seed=name))

    def segments(self, folder, name):
        """path -> entries' bytes"""
        files = self(name)
        directory = str(folder / name)
        return {
            f"{directory}/{each}": files.content(f"{directory}/{each}")[HEADER_BLOCK_BYTES:]
            for each in files.list(directory)
            if each.endswith(".log")
        }

    def log_bytes(self, folder, name):
        return b"".join(self.segments(folder, name).values())

    def flip(self, folder, name, position):
        """Rot one bit of the log at a position."""
        for path, content in self.segments(folder, name).items():
            start = int(path[-24:-4])
            if start <= position < start + len(content):
                self(name).flip_bit(path, HEADER_BLOCK_BYTES + position - start)
                return
        raise AssertionError(f"no byte at {position}")


def places(raw):
    """Where each entry begins."""
    return [entry[3] for entry in walk(raw, EMPTY).entries]


def others_than(group, name):
    return [each for each in group.names if each != name]


async def filled(group, count=40):
    """A group that has committed some commands, and one of its followers, stopped."""
    await group.start()
    leader = await group.wait_leader()
    await commit_all(leader, commands(count))
    await group.wait_applied(count)
    name = group.follower().name
    await group.stop(name)
    return leader, name


async def test_a_bit_of_any_field_of_an_entry_in_the_middle_comes_back(open_group, tmp_path):
    disks = Disks()
    async with open_group(3, files=disks, segment_size_bytes=SEGMENT_BYTES) as group:
        leader, name = await filled(group)
        whole = disks.log_bytes(tmp_path, name)
        entry = places(whole)[15]
        for offset in BYTE_CLASSES.values():
            before = disks.segments(tmp_path, name)
            disks.flip(tmp_path, name, entry + offset)
            assert before != disks.segments(tmp_path, name)
            with capture_logs() as logs:
                await group.start(name)
            await group.wait_applied(40)
            (repaired,) = [each for each in logs if each["event"] == "log.repaired"]
            assert repaired["peers"][0] in others_than(group, name)
            assert 0 < repaired["entries"] < 40
            await group.stop(name)
            after = disks.segments(tmp_path, name)
            assert before == {path: after[path][: len(before[path])] for path in before}
        await group.start(name)
        await commit_all(leader, commands(5, first=40))
        await group.wait_applied(45)

        assert commands(45) == group.members[name].machine.commands
        assert leader.machine.positions == group.members[name].machine.positions


async def test_two_members_damaged_in_different_places_are_both_repaired(open_group, tmp_path):
    disks = Disks()
    async with open_group(3, files=disks, segment_size_bytes=SEGMENT_BYTES) as group:
        await group.start()
        await commit_all(await group.wait_leader(), commands(40))
        await group.wait_applied(40)
        for name in group.names:
            await group.stop(name)
        starts = places(disks.log_bytes(tmp_path, "n0"))
        disks.flip(tmp_path, "n0", starts[3] + 5)
        disks.flip(tmp_path, "n1", starts[30] + 50)
        await group.start("n2")
        await group.start("n0", "n1")
        await commit_all(await group.wait_leader(), commands(5, first=40))
        await group.wait_applied(45)

        assert [commands(45)] * 3 == [group.members[n].machine.commands for n in group.names]


async def test_damage_in_the_last_attested_group_is_repaired(open_group, tmp_path):
    disks = Disks()
    async with open_group(3, files=disks) as group:
        leader, name = await filled(group)
        last = places(disks.log_bytes(tmp_path, name))[-1]
        disks.flip(tmp_path, name, last + ENTRY_HEADER_BYTES + 1)
        await group.start(name)
        await commit_all(leader, commands(5, first=40))
        await group.wait_applied(45)

        assert commands(45) == group.members[name].machine.commands


async def test_who_lost_what_it_acknowledged_gets_it_again_from_the_same_leader(
    open_group, tmp_path
):
    """What rots before it is attested passes for a torn write, and is cut by the next start."""
    disks = Disks()
    async with open_group(3, files=disks) as group:
        leader, name = await filled(group)
        with_less = disks(name).copy("with less")
        await group.start(name)
        await commit_all(leader, commands(5, first=40))
        await group.wait_applied(45)
        await group.stop(name)
        disks.by_name[name] = with_less
        await group.start(name)
        await commit_all(leader, commands(5, first=45))
        await group.wait_applied(50)

        assert commands(50) == group.members[name].machine.commands
        assert leader is await group.wait_leader()


@pytest.mark.parametrize("damaged", [0, 10, 19])
@pytest.mark.parametrize("segment_bytes", [SEGMENT_BYTES, 1 << 20], ids=["files", "one file"])
async def test_damage_among_entries_that_nobody_committed_does_not_keep_a_member_away(
    open_group, tmp_path, segment_bytes, damaged
):
    """The others have committed something else there, which continues no good entry of this log:
    neither the ones before the damage nor the next file."""
    disks = Disks()
    async with open_group(
        3, election_timeout_ms=400, files=disks, segment_size_bytes=segment_bytes
    ) as group:
        leader, name = await filled(group)
        alone = leader.name
        others = others_than(group, alone)
        await group.stop(next(other for other in others if other != name))
        for payload in commands(20):
            leader.ledger.propose(payload, lambda _: None)
        await group.wait_until(lambda: leader.ledger.statistics().raft.durable_index > 60)
        await group.stop(alone)
        await group.start(*others)
        await commit_all(await group.wait_leader(but=alone), commands(40, first=40))
        uncommitted = places(disks.log_bytes(tmp_path, alone))[-20:]
        disks.flip(tmp_path, alone, uncommitted[damaged] + 5)
        with capture_logs() as logs:
            await group.start(alone)
            await group.wait_applied(80)

        events = [each["event"] for each in logs]
        assert "log.damaged" in events
        assert 1 == events.count("log.repaired") + events.count("log.installed")
        assert [commands(80)] * 3 == [group.members[n].machine.commands for n in group.names]


async def test_what_is_fetched_may_be_of_a_term_that_is_new_here(open_group, tmp_path):
    disks = Disks()
    async with open_group(3, files=disks) as group:
        leader, name = await filled(group)
        last = places(disks.log_bytes(tmp_path, name))[-1]
        (successor,) = (each for each in others_than(group, name) if each != leader.name)
        await leader.ledger.transfer_leadership(successor)
        leader = await group.wait_leader(but=leader.name)
        await commit_all(leader, commands(5, first=40))
        await group.wait_applied(45, *others_than(group, name))
        disks.flip(tmp_path, name, last + ENTRY_HEADER_BYTES + 1)
        await group.start(name)
        await group.wait_applied(45)

        assert commands(45) == group.members[name].machine.commands


async def test_a_repair_waits_until_somebody_has_it_committed_and_says_so(
    open_group, tmp_path, monkeypatch
):
    """All were stopped: no member knows that the last entries are committed before one leads."""
    monkeypatch.setattr(repairing, "TELL_S", 0.0)
    disks = Disks()
    async with open_group(3, files=disks) as group:
        _leader, name = await filled(group)
        for other in others_than(group, name):
            await group.stop(other)
        disks.flip(tmp_path, name, places(disks.log_bytes(tmp_path, name))[20])
        with capture_logs() as logs:
            member = group.make(name)
            group.nursery.start_soon(member.run, trio.TASK_STATUS_IGNORED)
            while not any(each["event"] == "log.repair_delayed" for each in logs):
                await trio.lowlevel.checkpoint()
            delayed = next(each for each in logs if each["event"] == "log.repair_delayed")
            assert ["n0", "n1", "n2"] == sorted([name, *[r[:2] for r in delayed["reasons"]]])
            assert member.ledger.statistics() is None, "no Raft runs"
            await group.start(*others_than(group, name))
            await group.wait_applied(40)

        assert commands(40) == group.members[name].machine.commands


async def test_a_repair_that_waits_can_be_stopped(open_group, tmp_path, monkeypatch):
    monkeypatch.setattr(repairing, "TELL_S", 0.0)
    disks = Disks()
    async with open_group(3, files=disks) as group:
        _leader, name = await filled(group)
        for other in others_than(group, name):
            await group.stop(other)
        disks.flip(tmp_path, name, places(disks.log_bytes(tmp_path, name))[20])
        with capture_logs() as logs:
            member = group.make(name)
            group.nursery.start_soon(member.run, trio.TASK_STATUS_IGNORED)
            while not any(each["event"] == "log.repair_delayed" for each in logs):
                await trio.lowlevel.checkpoint()
        await group.stop(name)

        assert member.error is None
        disks(name).lock(f"{tmp_path / name}/LOCK").release()  # nobody has it any more


async def test_a_member_that_is_alone_stays_refused(open_group, tmp_path):
    disks = Disks()
    async with open_group(1, files=disks) as group:
        await group.start()
        await commit_all(await group.wait_leader(), commands(5))
        await group.stop("n0")
        disks.flip(tmp_path, "n0", 60)
        member = group.make("n0")
        await group.nursery.start(member.run)
        await member.ended.wait()

        assert "Nothing was changed. Keep a copy" in str(fail_stop_in(member.error))


async def test_another_member_goes_on_where_the_first_one_left_off(
    open_group, tmp_path, monkeypatch
):
    """Each answer of the first one is its last."""
    disks = Disks()
    async with open_group(3, files=disks, segment_size_bytes=1 << 20) as group:
        await group.start()
        leader = await group.wait_leader()
        await commit_all(leader, [b"%d" % n * 300_000 for n in range(6)])
        await group.wait_applied(6)
        name = group.follower().name
        await group.stop(name)
        starts = places(disks.log_bytes(tmp_path, name))
        for start in starts[-5:-1]:
            disks.flip(tmp_path, name, start + 1000)
        asked = []
        read_log = Fetch.read_log

        async def once(fetch, position):
            if asked and asked[-1][0] == fetch.peer:
                raise FetchFailed(f"{fetch.peer} is gone")
            asked.append((fetch.peer, position))
            return await read_log(fetch, position)

        monkeypatch.setattr(Fetch, "read_log", once)
        await group.start(name)
        await group.wait_applied(6)

        assert {*others_than(group, name)} == {peer for peer, _ in asked}
        assert len(asked) >= 4
        assert sorted(asked, key=lambda each: each[1]) == asked


async def test_wrong_bytes_of_a_member_are_refused_and_another_one_is_asked(
    open_group, tmp_path, monkeypatch
):
    disks = Disks()
    async with open_group(3, files=disks) as group:
        _leader, name = await filled(group)
        whole = disks.log_bytes(tmp_path, name)
        disks.flip(tmp_path, name, places(whole)[20])
        bad, good = others_than(group, name)
        read_log = Fetch.read_log

        async def flipped(fetch, position):
            raw = await read_log(fetch, position)
            return raw[:50] + bytes([raw[50] ^ 4]) + raw[51:] if fetch.peer == bad else raw

        monkeypatch.setattr(Fetch, "read_log", flipped)
        with capture_logs() as logs:
            await group.start(name)
        await group.wait_applied(40)
        (repaired,) = [each for each in logs if each["event"] == "log.repaired"]

        assert good in repaired["peers"]
        assert whole == disks.log_bytes(tmp_path, name)[: len(whole)]
        assert commands(40) == group.members[name].machine.commands


class Died(OSError):
    """What a dead disk says: the member stops, and the power is cut."""


async def test_a_power_cut_anywhere_in_a_repair_is_begun_again(open_group, tmp_path, monkeypatch):
    monkeypatch.setattr(lying, "PowerCut", Died)
    disks = Disks()
    async with open_group(3, files=disks, segment_size_bytes=SEGMENT_BYTES) as group:
        _leader, name = await filled(group)
        starts = places(disks.log_bytes(tmp_path, name))
        for at in (3, 4, 25):
            disks.flip(tmp_path, name, starts[at] + 50)
        damaged = disks(name)
        for changes in count():
            disks.by_name[name] = damaged.copy(f"cut {changes}")
            disks(name).stop_after(changes)
            member = group.make(name)
            await group.nursery.start(member.run)
            while not member.ended.is_set() and member.ledger.statistics() is None:
                await trio.lowlevel.checkpoint()
            if member.ledger.statistics() is not None:
                break  # the folder was opened before the end
            assert "cannot be opened" in str(fail_stop_in(member.error))
            disks(name).crash()
            with capture_logs() as logs:
                await group.start(name)
            await group.wait_applied(40, name)
            await group.stop(name)

            assert commands(40) == group.members[name].machine.commands
            if changes == 0:
                assert 2 == [each["event"] for each in logs].count("log.repaired")
        assert changes > 12
