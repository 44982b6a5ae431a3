"""Rot that nobody reads is found, told, and mended by opening the folder again."""

from __future__ import annotations

import pytest
import trio
from structlog.testing import capture_logs

from dledger_py.actors import fail_stop_in
from dledger_py.ledger import scrubber
from dledger_py.ledger.reopening import Reopen
from dledger_py.storage import anchors
from dledger_py.storage.log import Scrubbed
from tests.ledger.test_group import commands, commit_all
from tests.ledger.test_repair import Disks, places

SETTINGS = {"segment_size_bytes": 700, "scrub_max_bytes_per_s": 1 << 40}


@pytest.fixture(autouse=True)
def always(monkeypatch):
    monkeypatch.setattr(scrubber, "PASS_S", 0.0)
    monkeypatch.setattr(scrubber, "SLICE_BYTES", 300)
    monkeypatch.setattr(anchors, "ANCHOR_SPACING_BYTES", 100)  # less is read of a sealed segment


async def rotten_leader(group, disks, folder):
    """Committed commands, and the leader has one of them no more."""
    await group.start()
    leader = await group.wait_leader()
    await commit_all(leader, commands(40))
    await group.wait_applied(40)
    raw = disks.log_bytes(folder, leader.name)
    disks.flip(folder, leader.name, places(raw)[20] + 45)
    return leader


async def test_a_leader_that_finds_rot_gives_way_and_is_whole_after_it_was_opened_again(
    open_group, tmp_path
):
    disks = Disks()
    async with open_group(3, files=disks, **SETTINGS) as group:
        leader = await rotten_leader(group, disks, tmp_path)
        await leader.ended.wait()
        stop = fail_stop_in(leader.error)
        assert isinstance(stop, Reopen)
        assert "the log is damaged" in str(stop)
        assert "leader" != leader.ledger.view.role
        with capture_logs() as logs:
            await group.start(leader.name)
        successor = await group.wait_leader()
        await commit_all(successor, commands(3, first=40))
        await group.wait_applied(43)

        assert "log.repaired" in [each["event"] for each in logs]
        assert [commands(43)] * 3 == [group.members[n].machine.commands for n in group.names]


async def test_rot_that_a_start_meets_only_when_it_applies_the_log_is_mended_by_the_next(
    open_group, tmp_path
):
    disks = Disks()
    settings = SETTINGS | {"scrub_max_bytes_per_s": 1}  # it comes upon it much later
    async with open_group(3, files=disks, **settings) as group:
        name = (await rotten_leader(group, disks, tmp_path)).name
        await group.stop(name)
        await group.start(name)
        stopped = group.members[name]
        await stopped.ended.wait()
        stop = fail_stop_in(stopped.error)
        assert isinstance(stop, Reopen)
        assert str(stop).startswith("the applier cannot go on: Corrupt(")
        with capture_logs() as logs:
            await group.start(name)
        await group.wait_applied(40)

        assert "log.repaired" in [each["event"] for each in logs]
        assert [commands(40)] * 3 == [group.members[n].machine.commands for n in group.names]


async def test_a_member_that_is_alone_goes_on_with_what_it_has(open_group, tmp_path):
    disks = Disks()
    async with open_group(1, files=disks, **SETTINGS) as group:
        with capture_logs() as logs:
            leader = await rotten_leader(group, disks, tmp_path)
            while not any(each["event"] == "log.rotted" for each in logs):
                await trio.lowlevel.checkpoint()

        assert 41 == await leader.ledger.commit(b"goes on")


async def test_a_sound_log_is_read_again_and_again_and_nobody_notices(open_group, monkeypatch):
    disks = Disks()
    async with open_group(3, files=disks, **SETTINGS) as group:
        await group.start()
        leader = await group.wait_leader()
        passes = []
        scrub = leader.ledger.log.scrub
        monkeypatch.setattr(
            type(leader.ledger.log),
            "scrub",
            lambda of, position, size: (passes.append(position), scrub(position, size))[1],
        )
        await commit_all(leader, commands(40))
        begun = len(passes)
        while passes[begun:].count(0) < 10:
            await trio.lowlevel.checkpoint()
        await commit_all(leader, commands(5, first=40))
        await group.wait_applied(45)

        assert not any(member.ended.is_set() for member in group.members.values())


async def test_how_fast_the_log_is_read(autojump_clock, monkeypatch):
    """5 MB/s are 20 slices of 256 KiB a second; and the next pass begins an hour after this one."""
    monkeypatch.undo()
    begins = []

    class Log:
        def scrub(self, position, size):
            begins.append(trio.current_time())
            stop = position + size
            return Scrubbed(start_position=position, stop_position=stop, at_end=stop == 40 * size)

    class Host:
        async def run_in_thread(self, fn, *args, abandon_on_cancel):
            return fn(*args)

    actor = scrubber.Scrubber(
        of=Log(), bytes_per_s=5 << 20, alone=lambda: False, give_way=None, host=Host()
    )
    began = trio.current_time()
    with trio.move_on_after(3601):
        await actor._scrub()
    times = [at - began for at in begins]

    assert [0.05 * (n + 1) for n in range(40)] == pytest.approx(times[:40])
    assert 3600.05 == pytest.approx(times[40])
