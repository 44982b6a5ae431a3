"""Groups that begin with the log of another: restored from a backup, or rescued by one member."""

import shutil

import pytest
import trio
from attrs import evolve

from dledger_py.ledger.details import Details
from dledger_py.ledger.details import decode as decode_details
from dledger_py.ledger.details import encode as encode_details
from dledger_py.ledger.founding import (
    WrongNames,
    found_from_backup,
    members_of,
    reach,
    rescue,
)
from dledger_py.raft.membership import Configuration, decode, encode
from dledger_py.raft.vocabulary import Entry, Kind
from dledger_py.storage import Corrupt, Identity, RealFiles, recover
from dledger_py.storage.backup import back_up
from dledger_py.storage.inspection import NoLog
from dledger_py.storage.lying import LyingFiles, PowerCut
from tests.ledger.test_group import commands, commit_all, wait_written_down
from tests.ledger.test_membership import members_of as members_in
from tests.ledger.test_membership import wait_voters

ME = Identity(cluster="dledger", group="broker-a", member="n1")
FILES = RealFiles()
NOTHING = (0, b"")  # is known to be committed
ALL = ("n0", "n1", "n2")


def chosen(bits):
    return 4711


def described(name, birth):
    return name, encode_details(
        Details(address=f"h:{birth}", birth=birth, contact=f"c{birth}", stays_learner=True)
    )


def disk_with_a_log():
    """Of n1: three members written down, then commands; the last two are not committed."""
    files = LyingFiles()
    recovered = recover(files, "data", ME, 700)
    founders = Configuration(
        voters=ALL, details=tuple(described(n, at) for at, n in enumerate(ALL))
    )
    for index in range(1, 9):
        kind, payload = (2, encode(founders)) if index == 2 else (1, b"%d" % index * 100)
        recovered.log.write([recovered.log.seal([entry(index, kind, payload)])])
    recovered.hard_state_file.save(5, "n2", 6)
    birth = recovered.birth.number
    recovered.close()
    files.put("data/LOCK", b"")
    return files, birth


def entry(index, kind, payload):
    return Entry(index=index, term=3, kind=Kind(kind), payload=payload)


# -- rescue


def test_how_far_a_log_reaches_is_told_and_nothing_changed():
    files, _birth = disk_with_a_log()
    files.trace.clear()
    found = reach(files, "data")

    assert (ME, 3, 8, 6, ALL) == (
        found.identity,
        found.last_term,
        found.last_index,
        found.committed,
        found.members,
    )
    assert (("n0", "n2"), []) == (found.others, files.trace)
    with pytest.raises(NoLog):
        reach(files, "nowhere")


def test_a_rescue_keeps_the_log_and_makes_its_member_the_only_one():
    files, birth = disk_with_a_log()
    founded = rescue(files, "data", chosen)
    found = recover(files, "data", ME, 700)
    configuration = decode(found.configurations[-1][1])

    assert (9, 6, ("n1",)) == (founded.end.index, founded.end.term, founded.voters)
    assert (9, 6) == (found.log.last_index, found.log.last_term)
    assert (6, None, 9) == (found.hard_state.term, found.hard_state.vote, found.hard_state.commit)
    assert (4712, False) == (found.birth.number, found.birth.older)
    assert birth != 4712
    assert (("n1",), (), ()) == (
        configuration.voters,
        configuration.learners,
        configuration.voters_old,
    )
    ((node, details),) = configuration.details
    assert ("n1", Details(address="h:1", birth=4712, contact="c1")) == (
        node,
        decode_details(details),
    )


def test_a_rescue_that_is_cut_short_is_done_again():
    """Whenever the power goes: the member is what it was, or cannot vote, or is rescued."""
    whole, birth = disk_with_a_log()
    states = {"as it was": 0, "no vote": 0, "rescued": 0}
    for seed in range(8):
        changes = 0
        while True:
            files = whole.copy(f"{seed}/{changes}")
            files.stop_after(changes)
            try:
                rescue(files, "data", chosen)
            except PowerCut:
                done = False
            else:
                done = True
            files.crash()
            states[state_of(files, birth)] += 1
            again = rescue(files, "data", lambda bits: 815)
            assert "rescued" == state_of(files, birth, expected=816)
            assert again.end.index >= 9
            if done:
                break
            changes += 1

    assert states["as it was"] > 20
    assert states["no vote"] > 8
    assert states["rescued"] >= 8


def state_of(files, birth, expected=4712):
    found = recover(files, "data", ME, 700)
    try:
        configuration = decode(found.configurations[-1][1])
        assert found.log.last_index >= 8
        assert not found.birth.older
        if configuration.voters == ALL:
            assert birth == found.birth.number
            return "as it was"
        assert ("n1",) == configuration.voters
        assert found.hard_state.term >= found.log.last_term
        written = decode_details(dict(configuration.details)["n1"]).birth
        if found.birth.number != written:
            return "no vote"
        assert expected == found.birth.number
        assert found.hard_state.commit == found.log.last_index
        return "rescued"
    finally:
        found.close()


def test_a_damaged_log_rescues_nobody():
    files, _birth = disk_with_a_log()
    files.flip_bit("data/00000000000000000000.log", 4096 + 50)

    with pytest.raises(Corrupt):
        rescue(files, "data", chosen)


async def test_the_last_of_three_goes_on_alone_and_is_joined_by_others(open_group, tmp_path):
    async with open_group(4) as group:
        await group.start(*ALL, peers={name: group.peers[name] for name in ALL})
        leader = await group.wait_leader()
        await wait_written_down(group, *ALL)
        await commit_all(leader, commands(20))
        await group.wait_applied(20, *ALL)
        for name in ALL:
            await group.stop(name)
        rescue(FILES, str(tmp_path / "n1"), chosen)
        await group.start("n1", peers={name: group.peers[name] for name in ALL})
        alone = await group.wait_leader()
        reply = await alone.ledger.commit(b"alone")

        assert ("n1", 21) == (alone.name, reply)
        assert [*commands(20), b"alone"] == alone.machine.commands
        joining = {"n1": group.peers["n1"], "n3": group.peers["n3"]}
        await group.start("n3", join=True, peers=joining)
        await alone.ledger.add_member("n3", group.peers["n3"])
        await wait_voters(group, ("n1", "n3"), "n1", "n3")
        await group.wait_applied(21, "n3")

        assert alone.machine.commands == group.members["n3"].machine.commands


async def test_lost_members_that_come_back_on_their_old_folders_are_not_heard(open_group, tmp_path):
    async with open_group(3) as group:
        await group.start()
        leader = await group.wait_leader()
        await wait_written_down(group, *ALL)
        await commit_all(leader, commands(5))
        await group.wait_applied(5)
        for name in ALL:
            await group.stop(name)
        rescue(FILES, str(tmp_path / "n1"), chosen)
        await group.start()
        ours = group.members["n1"]
        await group.wait_until(lambda: ours.ledger.view.ready)
        theirs = await group.wait_leader(but="n1")
        assert 6 == await theirs.ledger.commit(b"what must not be")
        assert 6 == await ours.ledger.commit(b"ours")

        # Each is refused by the other, whoever dials.
        for old in ("n0", "n2"):
            its = members_in(group.members[old])
            said = its.hello_to("n1", 1, NOTHING)
            assert "knows an older data folder of 'n1'" in members_in(ours).unwelcome(said)
            answer = members_in(ours).hello_to(old, 1, NOTHING)
            assert "another data folder than the group knows" in its.unknown_folder(answer)
        assert [*commands(5), b"ours"] == ours.machine.commands
        assert ("leader", ours.ledger.view.term) == (
            ours.ledger.view.role,
            ours.ledger.parts.core.term,
        )


# -- restore


async def test_a_restored_group_has_what_was_committed(open_group, tmp_path):
    async with open_group(3) as group:
        await group.start()
        leader = await group.wait_leader()
        await wait_written_down(group, *ALL)
        await commit_all(leader, commands(20))
        written = leader.ledger.parts.writer._hard_state
        last = leader.ledger.statistics().raft.last_index
        while written.load().commit < last:
            await trio.lowlevel.checkpoint()
        backup = str(tmp_path / "backup")
        made = back_up(
            FILES,
            str(tmp_path / leader.name),
            backup,
            taken="now",
            members_of=members_of,
        )
        await commit_all(leader, [b"too late"])
        for name in ALL:
            await group.stop(name)
            shutil.rmtree(tmp_path / name)
            found_from_backup(
                FILES,
                backup,
                str(tmp_path / name),
                member=name,
                members=ALL,
                cluster=None,
                group=None,
                random_bits=lambda bits, at=name: int(at[1:]),
            )
        await group.start()
        again = await group.wait_leader()

        assert (ALL, last) == (made.manifest.members, made.manifest.end.index)
        assert 21 == await again.ledger.commit(b"and on")
        await group.wait_applied(21)
        for member in group.members.values():
            assert [*commands(20), b"and on"] == member.machine.commands
        await wait_written_down(group, *ALL)  # as for any new group


def test_a_restored_member_is_a_stranger_to_the_old_group(tmp_path):
    files, birth = disk_with_a_log()
    back_up(files, "data", "backup", taken="now", members_of=members_of)
    founded = found_from_backup(
        files,
        "backup",
        "new",
        member="n1",
        members=["n2", "n1"],
        cluster="x",
        group=None,
        random_bits=chosen,
    )
    found = recover(files, "new", evolve(ME, cluster="x"), 700)

    assert (("n1", "n2"), "x", "broker-a", 6) == (
        founded.voters,
        founded.identity.cluster,
        founded.identity.group,
        founded.end.term,
    )
    assert (4712, False) == (found.birth.number, found.birth.older)
    assert Configuration(voters=("n1", "n2")) == decode(found.configurations[-1][1])
    assert birth != found.birth.number


@pytest.mark.parametrize(
    "member,members,cluster,reason",
    [
        ("n3", ["n1", "n2"], None, "'n3' is not among the members n1, n2"),
        ("n1", ["n1", "n2", "n1"], None, "names a node twice"),
        ("n1", ["n1", ""], None, "a member without a name"),
        ("n" * 65, ["n" * 65], None, "1 to 64 bytes"),
        ("n1", ["n1"], "x" * 65, "1 to 64 bytes"),
    ],
)
def test_names_that_no_group_can_have_are_refused(member, members, cluster, reason):
    files, _birth = disk_with_a_log()
    back_up(files, "data", "backup", taken="now", members_of=members_of)

    with pytest.raises(WrongNames, match=reason):
        found_from_backup(
            files,
            "backup",
            "new",
            member=member,
            members=members,
            cluster=cluster,
            group=None,
            random_bits=chosen,
        )
    assert "new" not in files._directories
