"""Three ledgers in one process, with the real core, storage, sockets and actors."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from dledger_py.actors import FailStop, fail_stop_in
from dledger_py.ledger import Busy, Indefinite, LedgerError, NotLeader, TooLarge, TransferFailed
from dledger_py.ledger.fetch_frames import decode_last_word, encode_last_word
from dledger_py.ledger.peer_frames import Hello, encode_hello
from dledger_py.storage import Identity, recover
from dledger_py.storage.lying import LyingFiles

POISON = b"poison"
"""The machine of these tests chokes on it."""


def commands(count, first=0):
    return [b"command %d" % number for number in range(first, first + count)]


async def wait_written_down(group, *names):
    """Until each of these is known to the others by the birth of its folder."""

    def known():
        births = {name: group.members[name].ledger.members.own.birth for name in names}
        return all(
            group.members[name].ledger.members.birth_of(other) == birth
            for name in names
            for other, birth in births.items()
        )

    while not known():
        await trio.lowlevel.checkpoint()


async def commit_all(member, payloads):
    return [await member.ledger.commit(payload) for payload in payloads]


async def test_a_group_elects_a_leader_and_applies_the_same_everywhere(open_group):
    async with open_group(3) as group:
        await group.start()
        leader = await group.wait_leader()
        replies = await commit_all(leader, commands(20))
        await group.wait_applied(20)

        assert list(range(1, 21)) == replies
        first = group.members["n0"].machine
        assert 20 == len(first.performed)
        for member in group.members.values():
            assert commands(20) == member.machine.commands
            assert first.positions == member.machine.positions
            assert first.performed == member.machine.performed


async def test_the_log_files_are_the_same_bytes_on_every_member(open_group, tmp_path):
    async with open_group(3) as group:
        await group.start()
        leader = await group.wait_leader()
        await commit_all(leader, commands(5))
        await group.wait_applied(5)
        ends = {member.ledger.log.end_position for member in group.members.values()}
        logs = {
            bytes(member.ledger.log.read_bytes(0, member.ledger.committed_position))
            for member in group.members.values()
        }
        position = leader.machine.positions[3]
        body = leader.ledger.log.read_bytes(position, len(b"command 3"))

    assert 1 == len(ends) == len(logs)
    assert b"command 3" == body


async def test_a_group_of_one_leads_itself(open_group):
    async with open_group(1) as group:
        await group.start()
        leader = await group.wait_leader()

        assert 1 == await leader.ledger.commit(b"alone")
        await leader.ledger.read_barrier()


async def test_many_proposals_of_one_turn_are_settled_in_order_and_never_inside_the_call(
    open_group,
):
    async with open_group(3) as group:
        await group.start()
        leader = await group.wait_leader()
        replies = []
        turns = []
        leader.ledger.after_turn(lambda: turns.append(len(replies)))
        done = trio.Event()

        def settle(reply):
            replies.append(reply)
            if len(replies) == 300:
                done.set()

        for payload in commands(300):
            leader.ledger.propose(payload, settle)
            assert [] == replies
        await done.wait()
        await group.wait_until(lambda: turns and turns[-1] == 300)

        assert list(range(1, 301)) == replies
        assert len(turns) < 300  # answers of one burst share a turn


async def test_a_turn_ends_after_entries_that_are_no_commands_too(open_group):
    """Nobody is answered and nothing has effects; but who waits for an index wants to know."""
    async with open_group(3) as group:
        await group.start()
        leader = await group.wait_leader()
        seen = {}
        for name, member in group.members.items():
            member.ledger.after_turn(
                lambda name=name, ledger=member.ledger: seen.update({name: ledger.applied_index})
            )
            member.ledger.after_turn(group._tell)
        first = leader.ledger.applied_index + 1  # at least: the next leader's first entry
        await leader.ledger.transfer_leadership(group.follower().name)
        await group.wait_until(lambda: all(seen.get(name, 0) >= first for name in group.names))

        assert [] == [m.machine.commands for m in group.members.values() if m.machine.commands]


async def test_a_settled_caller_may_propose_again_at_once(open_group):
    async with open_group(3) as group:
        await group.start()
        leader = await group.wait_leader()
        replies = []
        done = trio.Event()

        def again(reply):
            replies.append(reply)
            if len(replies) < 50:
                leader.ledger.propose(b"again", again)
            else:
                done.set()

        leader.ledger.propose(b"first", again)
        await done.wait()

        assert list(range(1, 51)) == replies


async def test_a_dead_leader_is_noticed_by_its_connections_not_by_a_timeout(open_group):
    # Nothing but a connection's end can depose this leader within the test's patience.
    async with open_group(3, election_timeout_ms=60_000, heartbeat_ms=100) as group:
        await group.start()
        first = group.members["n0"]
        await group.wait_connected()
        first.ledger.parts.core.timer.timeout = 1  # campaign at the next tick
        leader = await group.wait_leader()
        await commit_all(leader, commands(3))
        await group.stop(leader.name)
        follower = await group.wait_leader(but=leader.name)
        await commit_all(follower, commands(3, first=3))
        survivors = [name for name in group.names if name != leader.name]
        await group.wait_applied(6, *survivors)

        for name in survivors:
            assert commands(6) == group.members[name].machine.commands


async def test_a_stopped_member_comes_back_with_its_log_and_catches_up(open_group):
    async with open_group(3) as group:
        await group.start()
        leader = await group.wait_leader()
        await commit_all(leader, commands(10))
        name = group.follower().name
        await group.stop(name)
        await commit_all(leader, commands(10, first=10))
        await group.start(name)
        await group.wait_applied(20)

        assert commands(20) == group.members[name].machine.commands
        assert leader.machine.positions == group.members[name].machine.positions


async def test_a_returning_member_is_not_current_before_it_has_caught_up(open_group):
    async with open_group(3) as group:
        await group.start()
        leader = await group.wait_leader()
        await commit_all(leader, commands(10))
        name = group.follower().name
        await group.stop(name)
        await commit_all(leader, commands(10, first=10))
        member = group.make(name)
        seen = [(member.ledger.current, 0)]
        member.ledger.after_turn(
            lambda: seen.append((member.ledger.current, len(member.machine.commands)))
        )
        await group.nursery.start(member.run)
        await group.wait_applied(20, name)
        await member.ledger.wait_current()

        assert (False, 0) == seen[0]
        assert [] == [entry for entry in seen if entry[0] and entry[1] < 20]
        assert leader.ledger.current


async def test_after_a_cold_start_nobody_is_current_before_the_new_term_has_begun(open_group):
    """A leader that was just elected does not know yet what is committed."""
    async with open_group(3) as group:
        await group.start()
        await commit_all(await group.wait_leader(), commands(10))
        for name in group.names:
            group.members[name].scope.cancel()  # together, so that nothing is written down
        for name in group.names:
            await group.members[name].ended.wait()
        too_early: list[tuple[str, int]] = []
        for name in group.names:
            member = group.make(name)

            def look(member=member) -> None:
                if member.ledger.current and len(member.machine.commands) < 10:
                    too_early.append((member.name, len(member.machine.commands)))

            member.ledger.after_turn(look)
            member.ledger.on_role_change(lambda _view, look=look: look())
            await group.nursery.start(member.run)
        leader = await group.wait_leader()
        await leader.ledger.commit(b"after")
        await group.wait_applied(11)

        assert [] == too_early
        assert all(member.ledger.current for member in group.members.values())


async def test_a_whole_group_restarts_with_everything_it_acknowledged(open_group):
    async with open_group(3) as group:
        await group.start()
        leader = await group.wait_leader()
        await commit_all(leader, commands(25))
        for name in group.names:
            await group.stop(name)
        await group.start()
        leader = await group.wait_leader()
        reply = await leader.ledger.commit(b"after")
        await group.wait_applied(26)

        assert 26 == reply
        for member in group.members.values():
            assert [*commands(25), b"after"] == member.machine.commands


async def test_what_was_committed_at_a_clean_stop_is_replayed_without_any_peer(open_group):
    async with open_group(3) as group:
        await group.start()
        leader = await group.wait_leader()
        await commit_all(leader, commands(10))
        await group.wait_applied(10)
        for name in group.names:
            await group.stop(name)
        await group.start("n1")
        await group.members["n1"].ledger.wait_replayed()

        assert commands(10) == group.members["n1"].machine.commands


async def test_the_commit_index_reaches_the_disk_while_there_is_work(
    open_group, monkeypatch, tmp_path
):
    monkeypatch.setattr("dledger_py.ledger.log_writer.HINT_S", 0.0)
    disks = {}

    def files(name):
        return disks.setdefault(name, LyingFiles(seed=name))

    async with open_group(1, files=files) as group:
        await group.start()
        leader = await group.wait_leader()
        await commit_all(leader, commands(20))
        disk = disks["n0"].copy("killed")  # as it is now, without a clean stop
    identity = Identity(cluster="dledger", group="broker-a", member="n0")
    recovered = recover(disk, str(tmp_path / "n0"), identity)

    assert 18 <= recovered.hard_state.commit <= 21
    recovered.close()


async def test_the_commit_index_reaches_the_disk_when_the_work_is_done(open_group, monkeypatch):
    monkeypatch.setattr("dledger_py.ledger.log_writer.HINT_S", 0.3)
    async with open_group(3) as group:
        await group.start()
        leader = await group.wait_leader()
        await wait_written_down(group, *group.names)  # nothing more is appended by itself

        def all_written():
            last = leader.ledger.statistics().raft.last_index
            writers = [member.ledger.parts.writer for member in group.members.values()]
            return all(writer._hard_state.load().commit == last for writer in writers)

        for _turn in range(2):  # the second follows so soon that no hint is due with its write
            await commit_all(leader, commands(1))
            while not all_written():
                await trio.lowlevel.checkpoint()


async def test_a_follower_far_behind_is_fed_from_the_disk(open_group):
    settings = {"tail_max_bytes": 4 << 10, "append_max_bytes": 2 << 10}
    async with open_group(3, **settings) as group:
        await group.start()
        leader = await group.wait_leader()
        name = group.follower().name
        await group.stop(name)
        payloads = [b"%04d" % number + bytes(1000) for number in range(60)]
        await commit_all(leader, payloads)
        tail = leader.ledger.parts.tail
        await group.start(name)
        await group.wait_applied(60)

        assert tail.first_index > 30  # the beginning could not come from memory
        assert payloads == group.members[name].machine.commands


async def test_what_left_the_tail_before_the_core_let_go_of_it_is_read_at_once(open_group):
    async with open_group(3) as group:
        await group.start()
        leader = await group.wait_leader()
        name = group.follower().name
        await group.stop(name)
        leader.ledger.parts.tail._max_bytes = 3000
        payloads = [b"%04d" % number + bytes(1000) for number in range(200)]
        await commit_all(leader, payloads)
        await group.start(name)
        await group.wait_applied(200)

        assert leader.ledger.parts.tail.first_index > 190
        assert leader.ledger.statistics().raft.tail_bytes > 200_000
        assert payloads == group.members[name].machine.commands


async def test_a_reader_that_is_behind_is_asked_again_later(open_group, monkeypatch):
    settings = {"tail_max_bytes": 4 << 10, "append_max_bytes": 2 << 10}
    async with open_group(3, **settings) as group:
        await group.start()
        leader = await group.wait_leader()
        name = group.follower().name
        await group.stop(name)
        payloads = [b"%04d" % number + bytes(1000) for number in range(60)]
        await commit_all(leader, payloads)
        driver = leader.ledger.parts.driver
        ask = driver._read_entries
        refusals = []

        def refuse_twice(request):
            if len(refusals) < 2:
                refusals.append(request)
                return False
            return ask(request)

        monkeypatch.setattr(driver, "_read_entries", refuse_twice)
        await group.start(name)
        await group.wait_applied(60)

        assert 2 == len(refusals)
        assert payloads == group.members[name].machine.commands


async def test_a_long_replay_leaves_the_loop_to_others(open_group, monkeypatch):
    async with open_group(1) as group:
        await group.start()
        leader = await group.wait_leader()
        done = []
        for payload in commands(400):
            leader.ledger.propose(payload, done.append)
        await group.wait_until(lambda: len(done) == 400)
        await group.stop("n0")
        monkeypatch.setattr("dledger_py.ledger.applier.SLICE_S", 0.0)
        member = group.make("n0")
        seen = set()

        async def look():
            while len(member.machine.commands) < 400:
                seen.add(len(member.machine.commands))
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            await group.nursery.start(member.run)
            await member.ledger.wait_replayed()
            await group.wait_applied(400)

        assert len(seen) > 100
        assert commands(400) == member.machine.commands


async def test_a_follower_takes_no_proposals_and_says_who_does(open_group):
    async with open_group(3) as group:
        await group.start()
        leader = await group.wait_leader()
        follower = group.follower()
        await group.wait_until(lambda: follower.ledger.view.leader == leader.name)

        with pytest.raises(NotLeader) as refusal:
            await follower.ledger.commit(b"elsewhere, please")
        assert leader.name == refusal.value.leader
        with pytest.raises(NotLeader):
            await follower.ledger.read_barrier()


async def test_a_ledger_that_is_not_open_refuses_definitely(open_group):
    async with open_group(3) as group:
        member = group.make("n0")

        with pytest.raises(NotLeader):
            await member.ledger.commit(b"too early")


async def test_what_no_entry_takes_is_refused_once_the_call_has_returned(open_group):
    """Whoever counts what is on its way has counted it by then."""
    async with open_group(1) as group:
        await group.start()
        leader = await group.wait_leader()
        told: list[object] = []
        leader.ledger.propose(bytes(9 << 20), told.append)

        assert [] == told
        with pytest.raises(ValueError, match="9437184 bytes: 8388608 are possible"):
            await leader.ledger.commit(bytes(9 << 20))
        assert [TooLarge] == [type(each) for each in told]
        await leader.ledger.commit(b"and it goes on")


async def test_a_leader_that_loses_its_quorum_says_that_it_cannot_know(open_group):
    async with open_group(3, election_timeout_ms=400) as group:
        await group.start()
        leader = await group.wait_leader()
        for name in group.names:
            if name != leader.name:
                await group.stop(name)

        with pytest.raises(Indefinite):
            await leader.ledger.commit(b"who knows")
        assert "leader" != leader.ledger.view.role
        with pytest.raises(NotLeader):
            await leader.ledger.commit(b"not here")


async def test_a_stopping_ledger_settles_whoever_waits(open_group):
    async with open_group(3, election_timeout_ms=1500, heartbeat_ms=100) as group:
        await group.start("n0", "n1")
        leader = await group.wait_leader()
        other = "n1" if leader.name == "n0" else "n0"
        await group.stop(other)
        results = []
        leader.ledger.propose(b"waits", results.append)
        leader.ledger.read_barrier_nowait(results.append)
        await group.stop(leader.name)

        assert [Indefinite, NotLeader] == [type(result) for result in results]


async def test_proposals_over_the_bound_are_refused_as_busy(open_group):
    async with open_group(3, uncommitted_max_bytes=10_000) as group:
        await group.start()
        leader = await group.wait_leader()
        results = []
        for _ in range(4):
            leader.ledger.propose(bytes(4000), results.append)
        await group.wait_until(lambda: len(results) == 4)

        assert [1, 2] == sorted(result for result in results if isinstance(result, int))
        assert [Busy, Busy] == [type(r) for r in results if isinstance(r, LedgerError)]
        assert 3 == await leader.ledger.commit(bytes(4000))


async def test_a_read_barrier_passes_after_the_call_and_shows_what_was_acknowledged(open_group):
    async with open_group(3) as group:
        await group.start()
        leader = await group.wait_leader()
        await commit_all(leader, commands(3))
        seen = []
        done = trio.Event()

        def passed(error):
            seen.append((error, leader.machine.commands[:]))
            done.set()

        leader.ledger.read_barrier_nowait(passed)
        assert [] == seen
        await done.wait()

        assert [(None, commands(3))] == seen


async def test_a_disk_that_fails_stops_its_member_and_only_that(open_group):
    disks = {}

    def files(name):
        return disks.setdefault(name, LyingFiles(seed=name))

    async with open_group(3, files=files) as group:
        await group.start()
        leader = await group.wait_leader()
        await commit_all(leader, commands(3))
        victim = group.follower()
        disks[victim.name].fail("fdatasync", 5)
        await commit_all(leader, commands(3, first=3))
        with trio.fail_after(20):
            await victim.ended.wait()

        stop = fail_stop_in(victim.error)
        assert isinstance(stop, FailStop)
        assert "errno 5" in str(stop)
        assert 7 == await leader.ledger.commit(b"the others go on")


async def test_a_leader_whose_disk_fails_is_replaced(open_group):
    disks = {}

    def files(name):
        return disks.setdefault(name, LyingFiles(seed=name))

    async with open_group(3, files=files) as group:
        await group.start()
        leader = await group.wait_leader()
        disks[leader.name].fail("fdatasync", 28)
        result = []
        leader.ledger.propose(b"may or may not", result.append)
        successor = await group.wait_leader(but=leader.name)
        await leader.ended.wait()

        assert fail_stop_in(leader.error) is not None
        assert isinstance(result[0], Indefinite)
        await successor.ledger.commit(b"goes on")


class HangingFiles(LyingFiles):
    """A disk that can be made to answer no more syncs until it is let go."""

    def __init__(self, seed):
        super().__init__(seed=seed)
        self.free = threading.Event()
        self.free.set()

    def _operation(self, operation, path):
        if operation == "fdatasync":
            self.free.wait()
        super()._operation(operation, path)


async def test_a_leader_whose_disk_hangs_gives_way_and_comes_back_as_a_follower(open_group):
    disks = {}

    def files(name):
        return disks.setdefault(name, HangingFiles(name))

    async with open_group(3, election_timeout_ms=400, files=files) as group:
        await group.start()
        leader = await group.wait_leader()
        disks[leader.name].free.clear()
        try:
            results = []
            leader.ledger.propose(b"on two disks of three", results.append)
            successor = await group.wait_leader(but=leader.name)
            await successor.ledger.commit(b"goes on")
        finally:
            disks[leader.name].free.set()
        await group.wait_applied(len(successor.machine.commands))

        assert [1] == results  # two disks of three had it: it did happen
        assert successor.machine.commands == leader.machine.commands


async def test_leadership_is_handed_over_without_losing_an_entry(open_group):
    async with open_group(3) as group:
        await group.start()
        leader = await group.wait_leader()
        await commit_all(leader, commands(10))
        to = leader.ledger.best_successor()
        assert to is not None
        await leader.ledger.transfer_leadership(to)
        successor = await group.wait_leader()

        assert to == successor.name
        assert 11 == await successor.ledger.commit(b"after")
        assert leader.ledger.best_successor() is None
        with pytest.raises(NotLeader):
            await leader.ledger.transfer_leadership(to)


async def test_leadership_handed_to_a_dead_member_comes_back(open_group):
    async with open_group(3, election_timeout_ms=400) as group:
        await group.start()
        leader = await group.wait_leader()
        dead = group.follower().name
        await group.stop(dead)
        with pytest.raises(TransferFailed, match=dead):
            await leader.ledger.transfer_leadership(dead)

        assert 1 == await leader.ledger.commit(b"still here")


async def test_a_member_that_may_not_lead_gives_way_and_does_not_stand_again(open_group):
    async with open_group(3) as group:
        await group.start()
        leader = await group.wait_leader()
        leader.ledger.set_electable(False)
        successor = await group.wait_leader(but=leader.name)
        await commit_all(successor, commands(3))
        await group.wait_applied(3)
        for member in group.members.values():
            if member.name not in (leader.name, successor.name):
                member.ledger.set_electable(False)
        successor.ledger.set_electable(False)
        await group.wait_until(lambda: successor.ledger.view.role == "follower")
        leader.ledger.set_electable(True)

        assert leader.name == (await group.wait_leader()).name


async def test_a_machine_that_raises_stops_the_process_and_not_the_caller(open_group):
    async with open_group(1) as group:
        await group.start()
        leader = await group.wait_leader()
        results = []
        leader.ledger.propose(POISON, results.append)
        with trio.fail_after(20):
            await leader.ended.wait()

        assert "no such command" in str(fail_stop_in(leader.error))
        assert isinstance(results[0], Indefinite)


async def test_a_callback_that_raises_stops_the_process(open_group):
    async with open_group(3) as group:
        await group.start()
        leader = await group.wait_leader()

        def broken(reply):
            raise RuntimeError("a broken callback")

        leader.ledger.propose(b"command", broken)
        with trio.fail_after(20):
            await leader.ended.wait()

        assert "a broken callback" in str(fail_stop_in(leader.error))


async def test_a_poisoned_log_stops_the_replay(open_group):
    async with open_group(1) as group:
        await group.start()
        leader = await group.wait_leader()
        leader.ledger.propose(POISON, lambda result: None)
        await leader.ended.wait()
        again = group.make("n0")
        await again.run(trio.TASK_STATUS_IGNORED)

        assert "no such command" in str(fail_stop_in(again.error))


async def test_a_member_that_lost_what_the_others_do_not_have_does_not_start(
    open_group, tmp_path: Path
):
    async with open_group(3) as group:
        await group.start()
        leader = await group.wait_leader()
        await commit_all(leader, commands(10))
        await group.wait_applied(10)
        victim = group.follower()
        await group.stop(victim.name)
        (file,) = (tmp_path / victim.name).glob("*.log")
        content = bytearray(file.read_bytes())
        content[20] ^= 1  # in the header of the first file
        file.write_bytes(content)
        member = group.make(victim.name)
        await member.run(trio.TASK_STATUS_IGNORED)
        stop = fail_stop_in(member.error)

        assert "crc" in str(stop)
        assert file.name in str(stop)
        assert content == file.read_bytes()  # nothing was cut away
        assert 11 == await leader.ledger.commit(b"the others go on")


async def test_a_member_of_another_cluster_is_not_let_in(open_group):
    async with open_group(3) as group:
        await group.start("n0", "n1")
        leader = await group.wait_leader()
        await group.start("n2", cluster="someone-else")
        await commit_all(leader, commands(5))
        stranger = group.members["n2"]
        # Its dials were closed and so were those to it, more than once.
        while min(link.dials for link in stranger.ledger.statistics().links) < 3:
            await trio.lowlevel.checkpoint()

        assert [] == stranger.machine.commands
        assert "leader" != stranger.ledger.view.role
        assert 0 == stranger.ledger.parts.log.last_index
        assert 6 == await leader.ledger.commit(b"undisturbed")


async def open_stream(group, name):
    host, port = group.peers[name].split(":")
    return await trio.open_tcp_stream(host, int(port))


async def closed_by_the_other_side(stream):
    """It ends, politely or not, with or without a reason; the group's patience bounds the wait."""
    received = b""
    with suppress(trio.BrokenResourceError):
        async for some in stream:
            received += some
    await stream.aclose()
    assert received == (received and encode_last_word(decode_last_word(received)))


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n",
        b"\0" * 64,
        b"\xff" * 64,
        b"\0\0\0\x20\0\0\0\x08" + b"\x9f" * 100,
        encode_hello(
            Hello(cluster="dledger", group="x", sender="n1", receiver="n0", incarnation=1)
        ),
        encode_hello(
            Hello(cluster="dledger", group="broker-a", sender="n0", receiver="n0", incarnation=1)
        ),
        encode_hello(
            Hello(cluster="dledger", group="broker-a", sender="n1", receiver="n2", incarnation=1)
        ),
        encode_hello(
            Hello(
                version=1,
                cluster="dledger",
                group="broker-a",
                sender="n1",
                receiver="n0",
                incarnation=1,
            )
        ),
    ],
)
async def test_strangers_at_the_peer_port_are_shown_out_and_harm_nobody(open_group, garbage):
    async with open_group(3) as group:
        await group.start()
        leader = await group.wait_leader()
        for _ in range(3):
            stream = await open_stream(group, "n0")
            await stream.send_all(garbage)
            await closed_by_the_other_side(stream)
        term = leader.ledger.view.term

        assert 1 == await leader.ledger.commit(b"undisturbed")
        assert term == leader.ledger.view.term


async def test_a_member_that_sends_rubbish_after_its_hello_is_shown_out(open_group):
    async with open_group(3) as group:
        await group.start("n0", "n1")
        leader = await group.wait_leader()
        hello = Hello(
            cluster="dledger", group="broker-a", sender="n2", receiver="n0", incarnation=7
        )
        stream = await open_stream(group, "n0")
        await stream.send_all(encode_hello(hello) + b"\0\0\0\x05\0\0\0\x01\x07")
        await closed_by_the_other_side(stream)

        assert 1 == await leader.ledger.commit(b"undisturbed")


async def test_a_newer_connection_of_a_member_replaces_the_older(open_group):
    async with open_group(3) as group:
        await group.start("n0", "n1")
        await group.wait_leader()
        hello = encode_hello(
            Hello(cluster="dledger", group="broker-a", sender="n2", receiver="n0", incarnation=7)
        )
        older = await open_stream(group, "n0")
        await older.send_all(hello)
        newer = await open_stream(group, "n0")
        await newer.send_all(hello)
        with trio.fail_after(20):
            assert b"" == await older.receive_some(1)
        await older.aclose()
        await newer.aclose()


async def test_acknowledged_commands_survive_a_power_cut_of_everybody(open_group):
    disks = {}

    def files(name):
        return disks.setdefault(name, LyingFiles(seed=name))

    async with open_group(3, files=files) as group:
        await group.start()
        leader = await group.wait_leader()
        await commit_all(leader, commands(10))
        for name in group.names:
            group.members[name].scope.cancel()
        for name in group.names:
            await group.members[name].ended.wait()
            disks[name].crash()
        await group.start()
        await group.wait_leader()
        await group.wait_applied(10)

        for member in group.members.values():
            assert commands(10) == member.machine.commands


async def test_a_reply_is_given_when_a_majority_has_it_on_disk_and_not_before(open_group):
    async with open_group(3) as group:
        await group.start()
        leader = await group.wait_leader()
        on_disk = []
        done = trio.Event()

        def settle(reply):
            index = leader.ledger.applied_index
            logs = [member.ledger.log for member in group.members.values()]
            on_disk.append(sum(log.durable_index >= index for log in logs))
            if len(on_disk) < 30:
                leader.ledger.propose(b"again", settle)
            else:
                done.set()

        leader.ledger.propose(b"first", settle)
        await done.wait()

        assert {2, 3} >= set(on_disk)


async def test_async_flush_commits_and_reaches_the_disk_in_the_end(open_group):
    disks = {}

    def files(name):
        return disks.setdefault(name, LyingFiles(seed=name))

    async with open_group(3, files=files, flush="async", async_flush_ms=50) as group:
        await group.start()
        leader = await group.wait_leader()
        await commit_all(leader, commands(10))
        await group.wait_applied(10)
        log = leader.ledger.log
        with trio.fail_after(20):
            while log.durable_position < log.end_position:
                await trio.lowlevel.checkpoint()

        assert commands(10) == leader.machine.commands
