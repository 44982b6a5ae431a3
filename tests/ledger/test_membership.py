"""Members that come, go, come back, and come back with nothing."""

import shutil

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from dledger_py.ledger.errors import ChangeRefused, Indefinite, NotLeader
from tests.ledger.test_group import commands, commit_all, wait_written_down

FOUNDERS = ("n0", "n1", "n2")


def founders(group):
    return {name: group.peers[name] for name in FOUNDERS}


async def start_founders(group, *names):
    await group.start(*(names or FOUNDERS), peers=founders(group))


async def start_joining(group, name):
    await group.start(name, join=True, peers={**founders(group), name: group.peers[name]})


def members_of(member):
    return member.ledger.members


async def wait_voters(group, voters, *names):
    """Until these members' logs say so, and no change is under way."""

    def settled():
        return all(
            set(members_of(group.members[name]).voters) == set(voters)
            and not members_of(group.members[name]).changing
            for name in names
        )

    while not settled():
        await trio.lowlevel.checkpoint()


async def test_founders_are_written_down_together_and_only_once(open_group):
    async with open_group(3) as group:
        await group.start()
        leader = await group.wait_leader()
        await wait_written_down(group, *FOUNDERS)
        before = leader.ledger.statistics().raft.last_index
        await commit_all(leader, commands(3))
        await wait_all_tasks_blocked()

        assert before + 3 == leader.ledger.statistics().raft.last_index
        for name in FOUNDERS:
            views = members_of(group.members[name]).views()
            assert [(each.name, each.role, each.address) for each in views] == [
                (other, "voter", group.peers[other]) for other in FOUNDERS
            ]


async def test_a_group_of_one_has_nobody_to_tell(open_group):
    async with open_group(1) as group:
        await group.start()
        leader = await group.wait_leader()
        await commit_all(leader, commands(1))
        await wait_all_tasks_blocked()

        assert not members_of(leader).settled


async def test_changes_that_meet_another_one_wait_for_it(open_group):
    async with open_group(5) as group:
        await start_founders(group)
        leader = await group.wait_leader()
        await start_joining(group, "n3")
        await start_joining(group, "n4")
        async with trio.open_nursery() as nursery:
            for name in ("n3", "n4"):
                nursery.start_soon(leader.ledger.add_member, name, group.peers[name])
        await wait_voters(group, group.names, *group.names)

        assert 1 == await leader.ledger.commit(b"five of them")


async def test_a_new_member_gets_the_log_and_a_vote(open_group):
    async with open_group(4) as group:
        await start_founders(group)
        leader = await group.wait_leader()
        await commit_all(leader, commands(20))
        await start_joining(group, "n3")
        await leader.ledger.add_member("n3", group.peers["n3"])
        await commit_all(leader, commands(20, first=20))
        await wait_voters(group, group.names, *group.names)
        await group.wait_applied(40)

        assert commands(40) == group.members["n3"].machine.commands
        assert (group.peers["n3"],) == members_of(group.members["n1"]).addresses_of("n3")
        # Three of four are needed now, and the newcomer is one of them.
        await group.stop(next(name for name in FOUNDERS if name != leader.name))
        assert 41 == await leader.ledger.commit(b"counted")


async def test_a_group_of_one_becomes_a_group_of_two(open_group):
    async with open_group(2) as group:
        await group.start("n0", peers={"n0": group.peers["n0"]})
        leader = await group.wait_leader()
        await commit_all(leader, commands(5))
        await start_alongside(group, "n1")
        await leader.ledger.add_member("n1", group.peers["n1"])
        await wait_voters(group, group.names, *group.names)
        await group.stop("n0")
        await group.stop("n1")
        await group.start("n0", peers={"n0": group.peers["n0"]})
        await start_alongside(group, "n1")
        leader = await group.wait_leader()

        assert 6 == await leader.ledger.commit(b"both")


async def test_a_learner_that_was_fed_from_the_disk_gets_its_vote_though_nothing_follows(
    open_group,
):
    async with open_group(2) as group:
        await group.start("n0", peers={"n0": group.peers["n0"]})
        leader = await group.wait_leader()
        await commit_all(leader, commands(5))
        await leader.ledger.commit(b"x")
        await group.stop("n0")
        await group.start("n0", peers={"n0": group.peers["n0"]})  # its memory holds no entries
        leader = await group.wait_leader()
        await leader.ledger.add_member("n1", group.peers["n1"])  # and will hold the last ones only
        await start_alongside(group, "n1")
        await wait_voters(group, group.names, *group.names)


async def start_alongside(group, name):
    await group.start(name, join=True, peers=dict(group.peers))


async def test_everybody_remembers_the_members_after_a_restart(open_group):
    async with open_group(4) as group:
        await start_founders(group)
        leader = await group.wait_leader()
        await start_joining(group, "n3")
        await leader.ledger.add_member("n3", group.peers["n3"])
        await wait_voters(group, group.names, *group.names)
        await group.wait_applied(0)
        for name in group.names:
            await group.stop(name)
        await start_founders(group, "n0", "n1")
        await start_joining(group, "n3")
        leader = await group.wait_leader()

        assert 1 == await leader.ledger.commit(b"three of four")
        assert set(group.names) == set(members_of(leader).voters)


async def test_a_learner_that_is_to_stay_one_gets_the_log_and_no_vote(open_group):
    async with open_group(4, election_timeout_ms=400) as group:
        await start_founders(group)
        leader = await group.wait_leader()
        await start_joining(group, "n3")
        await leader.ledger.add_member("n3", group.peers["n3"], stays_learner=True)
        await commit_all(leader, commands(10))
        await group.wait_applied(10)
        await wait_written_down(group, "n3")

        assert ("n3",) == members_of(leader).learners
        for name in FOUNDERS:
            if name != leader.name:
                await group.stop(name)
        with pytest.raises(Indefinite):  # it gives up leading, for want of a majority
            await leader.ledger.commit(b"one of three")


async def test_a_removed_leader_hands_over_and_does_no_harm(open_group):
    async with open_group(3, election_timeout_ms=400) as group:
        await group.start()
        first = await group.wait_leader()
        await commit_all(first, commands(5))
        rest = [name for name in FOUNDERS if name != first.name]
        await first.ledger.remove_member(first.name)
        second = await group.wait_leader(but=first.name)
        await wait_voters(group, rest, *rest)
        term = second.ledger.view.term
        await group.stop(first.name)
        await group.start(first.name)
        timeout_s = 2 * first.ledger.config.election_timeout_ms / 1000
        with trio.move_on_after(timeout_s):  # long enough for it to try
            await trio.sleep_forever()

        assert 6 == await second.ledger.commit(b"undisturbed")
        assert (term, "leader") == (second.ledger.view.term, second.ledger.view.role)
        with pytest.raises(NotLeader):
            await group.members[first.name].ledger.commit(b"not by this one")


async def test_a_follower_cannot_change_the_members(open_group):
    async with open_group(3) as group:
        await group.start()
        leader = await group.wait_leader()
        follower = group.follower()

        with pytest.raises(NotLeader):
            await follower.ledger.remove_member(leader.name)
        with pytest.raises(NotLeader):
            await follower.ledger.add_member("n7", "127.0.0.1:1")


async def test_changes_that_make_no_sense_say_why(open_group):
    async with open_group(3) as group:
        await group.start()
        leader = await group.wait_leader()
        await wait_written_down(group, *FOUNDERS)

        with pytest.raises(ChangeRefused, match="n1 is a member already"):
            await leader.ledger.add_member("n1", "127.0.0.1:1")
        with pytest.raises(ChangeRefused, match="n7 is not a member"):
            await leader.ledger.remove_member("n7")
        with pytest.raises(ValueError, match="host:port"):
            await leader.ledger.add_member("n7", "nowhere")


async def test_the_last_that_can_be_reached_is_not_removed(open_group):
    async with open_group(3, election_timeout_ms=400) as group:
        await group.start()
        leader = await group.wait_leader()
        await wait_written_down(group, *FOUNDERS)
        gone, there = (name for name in FOUNDERS if name != leader.name)
        await group.stop(gone)
        while gone in leader.ledger._heard_lately():
            await trio.lowlevel.checkpoint()

        with pytest.raises(ChangeRefused, match=f"no majority: {gone} cannot be reached"):
            await leader.ledger.remove_member(there)
        await leader.ledger.remove_member(gone)
        assert {leader.name, there} == set(members_of(leader).voters)


async def test_a_member_that_has_its_folder_is_not_replaced(open_group):
    async with open_group(3, election_timeout_ms=400) as group:
        await group.start()
        leader = await group.wait_leader()
        await wait_written_down(group, *FOUNDERS)
        await group.wait_heard()
        gone, there = (name for name in FOUNDERS if name != leader.name)

        with pytest.raises(ChangeRefused, match=f"{there} follows, so its data folder is there"):
            await leader.ledger.remove_member(there, only_silent=True)
        with pytest.raises(ChangeRefused, match=f"{leader.name} leads"):
            await leader.ledger.remove_member(leader.name, only_silent=True)
        await group.stop(gone)
        await leader.ledger.remove_member(gone, only_silent=True)

        assert {leader.name, there} == set(members_of(leader).voters)


async def test_whoever_seems_silent_for_a_moment_is_not(open_group, monkeypatch):
    async with open_group(3) as group:
        await group.start()
        leader = await group.wait_leader()
        await wait_written_down(group, *FOUNDERS)
        await group.wait_heard()
        there = next(name for name in FOUNDERS if name != leader.name)
        heard, moments = leader.ledger._heard_lately, []

        def held_up():
            moments.append(heard())
            return [each for each in moments[-1] if each != there or len(moments) > 4]

        monkeypatch.setattr(type(leader.ledger), "_heard_lately", lambda _self: held_up())
        with pytest.raises(ChangeRefused, match=f"{there} follows"):
            await leader.ledger.remove_member(there, only_silent=True)


async def test_whom_a_new_leader_has_not_heard_yet_is_not_counted_on(open_group):
    async with open_group(3, election_timeout_ms=400) as group:
        await group.start()
        first = await group.wait_leader()
        await wait_written_down(group, *FOUNDERS)
        await group.stop(first.name)
        second = await group.wait_leader(but=first.name)
        (third,) = (name for name in FOUNDERS if name not in (first.name, second.name))

        with pytest.raises(ChangeRefused, match=f"no majority: {first.name} cannot be reached"):
            await second.ledger.remove_member(third)


async def test_an_emptied_folder_is_refused_and_comes_back_as_a_new_member(
    open_group, tmp_path, capsys
):
    async with open_group(3) as group:
        await group.start()
        leader = await group.wait_leader()
        await commit_all(leader, commands(10))
        await wait_written_down(group, *FOUNDERS)
        wiped = group.follower().name
        await group.stop(wiped)
        shutil.rmtree(tmp_path / wiped)
        await group.start(wiped)
        said = ""
        while "member.folder_unknown" not in said or "peer.refused" not in said:
            await trio.lowlevel.checkpoint()
            said += capsys.readouterr().out
        assert f"replaceMember -m {wiped}" in said
        assert "another data folder" in said
        assert [] == group.members[wiped].machine.commands

        await leader.ledger.remove_member(wiped)
        await leader.ledger.add_member(wiped, group.peers[wiped])
        await wait_voters(group, FOUNDERS, *FOUNDERS)
        await group.wait_applied(10)
        assert commands(10) == group.members[wiped].machine.commands


@pytest.mark.parametrize("restarted", [True, False], ids=["restarted", "connected"])
async def test_who_was_away_when_its_leader_was_replaced_follows_it(
    open_group, tmp_path, restarted
):
    """Its log says that the leader has another folder; only the leader could bring it the entry
    that says which."""
    async with open_group(5, election_timeout_ms=400) as group:
        await group.start()
        leader = await group.wait_leader()
        await wait_written_down(group, *group.names)
        await group.wait_heard()
        behind, wiped, *_ = (name for name in group.names if name != leader.name)
        if restarted:
            await group.stop(behind)
        else:  # it hears the leader no more, and nobody else leads
            cut(group.members[behind], leader.name)
        await group.stop(wiped)
        shutil.rmtree(tmp_path / wiped)
        await leader.ledger.remove_member(wiped)
        await group.start(wiped)
        await leader.ledger.add_member(wiped, group.peers[wiped])
        running = [name for name in group.names if name != behind]
        await wait_voters(group, group.names, *running)
        await wait_written_down(group, *running)
        await commit_all(leader, commands(5))
        await group.wait_applied(5, *running)
        await leader.ledger.transfer_leadership(wiped)
        if restarted:
            await group.start(behind)
        await group.wait_applied(5)

        assert wiped == group.members[behind].ledger.view.leader


def cut(member, other):
    """It takes nothing from this member any more."""
    driver = member.ledger.parts.driver
    receive = driver.receive

    def receive_from(peer, frames):
        if peer != other:
            receive(peer, frames)

    driver.receive = receive_from


async def test_an_emptied_folder_elects_nobody_who_lacks_what_it_forgot(open_group, tmp_path):
    """It acknowledged what only it and one absent member had; now it would vote for the third."""
    async with open_group(3, election_timeout_ms=400) as group:
        await group.start()
        leader = await group.wait_leader()
        await wait_written_down(group, *FOUNDERS)
        behind, wiped = (name for name in FOUNDERS if name != leader.name)
        await group.stop(behind)
        await commit_all(leader, commands(10))
        await group.stop(leader.name)
        await group.stop(wiped)
        shutil.rmtree(tmp_path / wiped)
        await group.start(behind, wiped)
        with trio.move_on_after(5 * leader.ledger.config.election_timeout_ms / 1000):
            await group.wait_leader()
            raise AssertionError("a member that lacks acknowledged entries leads")
        await group.start(leader.name)
        back = await group.wait_leader()

        assert leader.name == back.name
        assert 11 == await back.ledger.commit(b"nothing is lost")


async def test_who_has_no_vote_elects_nobody_and_is_not_elected(open_group):
    async with open_group(3, election_timeout_ms=400) as group:
        await group.start()
        leader = await group.wait_leader()
        await wait_written_down(group, *FOUNDERS)
        await group.wait_heard()  # no further hello tells it that its folder is known
        without = group.follower()
        members_of(without)._admitted = False
        members_of(without)._details.pop(without.name)  # as if its folder had never been heard of
        without.ledger.parts.driver._judge_electability()
        await group.stop(leader.name)
        with trio.move_on_after(5 * leader.ledger.config.election_timeout_ms / 1000):
            await group.wait_leader(but=leader.name)
            raise AssertionError("a leader without a majority of votes")

        members_of(without)._admitted = True
        without.ledger.parts.driver._judge_electability()
        await group.wait_leader(but=leader.name)


async def test_a_member_that_moved_is_found_where_the_log_says_it_is(open_group):
    async with open_group(4) as group:
        await group.start("n0", "n1", "n2", peers=founders(group))
        leader = await group.wait_leader()
        await wait_written_down(group, *FOUNDERS)
        moved = group.follower().name
        await group.stop(moved)
        elsewhere = {**founders(group), moved: group.peers["n3"]}  # where nobody listens so far
        group._sockets["n3"].close()
        await group.start(moved, peers=elsewhere)
        await group.wait_leader()

        def known():
            told = members_of(leader).addresses_of(moved)
            return told == (group.peers[moved], group.peers["n3"])

        while not known():
            await trio.lowlevel.checkpoint()
        await commit_all(leader, commands(5))
        await group.wait_applied(5, moved)


async def test_members_killed_before_anybody_was_written_down_elect_a_leader(open_group):
    async with open_group(3) as group:
        await group.start("n0", "n1")
        leader = await group.wait_leader()
        await commit_all(leader, commands(2))
        assert not members_of(leader).settled
        await group.stop("n0")
        await group.stop("n1")
        await group.start("n1", "n2")
        await group.wait_leader()
        await group.wait_applied(2, "n1", "n2")


async def test_a_member_announced_before_anybody_was_written_down_deposes_nobody(open_group):
    async with open_group(4) as group:
        await start_founders(group, "n0", "n1")  # the third is waited for
        leader = await group.wait_leader()
        await leader.ledger.add_member("n3", group.peers["n3"])
        await commit_all(leader, commands(3))
        await start_founders(group, "n2")
        await start_joining(group, "n3")
        await wait_voters(group, group.names, *group.names)

        assert "leader" == leader.ledger.view.role


async def test_a_member_taken_back_while_it_runs_says_who_it_is_once_more(open_group):
    async with open_group(3) as group:
        await group.start()
        leader = await group.wait_leader()
        await wait_written_down(group, *FOUNDERS)
        back = group.follower().name
        await leader.ledger.remove_member(back)
        await leader.ledger.add_member(back, group.peers[back])
        await wait_voters(group, FOUNDERS, *FOUNDERS)

        assert "leader" == leader.ledger.view.role
