"""Claims of §6 and of thesis chapter 4 about changing who is a member."""

from collections.abc import Callable
from itertools import combinations, pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dledger_py.raft.config import RaftConfig
from dledger_py.raft.log_view import LogView
from dledger_py.raft.membership import Configuration, Forbidden, decode, encode
from dledger_py.raft.raft import Raft
from dledger_py.raft.vocabulary import (
    AddLearner,
    AppendAccepted,
    Change,
    ChangeMembers,
    ChangeRefused,
    Describe,
    Effect,
    Entry,
    HardState,
    Kind,
    Lost,
    NodeId,
    Outcome,
    Persisted,
    Promote,
    Received,
    Remove,
    Replace,
    RequestVote,
    RoleName,
    Send,
    Settle,
    Tick,
    TimeoutNow,
    VoteGranted,
    VoteRefused,
)

NAMES = tuple(NodeId(f"n{number}") for number in range(1, 7))
N1, N2, N3, N4, N5, N6 = NAMES
THREE = Configuration(voters=(N1, N2, N3))
Build = Callable[..., Any]

CONFIGURATIONS = st.builds(
    lambda order, voters, old, learners, described, details: Configuration(
        voters=tuple(order[:voters]),
        voters_old=tuple(order[voters - 1 : voters - 1 + old]),
        learners=tuple(order[voters + old : voters + old + learners]),
        details=tuple((node, details * 3) for node in order[: min(voters, described)]),
    ),
    st.permutations([*NAMES, NodeId("größer"), NodeId("x" * 255)]),
    st.integers(1, 3),
    st.integers(0, 3),
    st.integers(0, 2),
    st.integers(0, 3),
    st.binary(max_size=10),
)


def outcomes(effects: list[Effect]) -> list[Outcome]:
    return [effect.outcome for effect in effects if isinstance(effect, Settle)]


def config_entry(index: int, term: int, configuration: Configuration) -> Entry:
    return Entry(index=index, term=term, kind=Kind.CONFIG, payload=encode(configuration))


# ---------------------------------------------------------------------------------- configurations


@given(CONFIGURATIONS)
def test_a_configuration_survives_its_bytes(configuration: Configuration) -> None:
    data = encode(configuration)

    assert configuration == decode(data)
    assert configuration == decode(memoryview(data))
    for length in range(len(data)):
        with pytest.raises(ValueError):
            decode(data[:length])
    with pytest.raises(ValueError, match="1 bytes behind"):
        decode(data + b"\0")


def test_a_configuration_has_the_bytes_it_always_had() -> None:
    """They are on disks."""
    joint = Configuration(
        voters=(N2,), learners=(N3,), voters_old=(N1, N2), details=((N3, b"\x07\x08"),)
    )

    assert encode(joint) == (b"\x01\x01\x01\x02\x01\x02n2\x02n3\x02n1\x02n2\x02n3\x00\x02\x07\x08")
    with pytest.raises(ValueError, match="version 2"):
        decode(b"\x02" + encode(joint)[1:])


@given(CONFIGURATIONS, st.sets(st.sampled_from(NAMES)))
def test_a_joint_decision_takes_both_majorities_and_learners_count_for_nothing(
    configuration: Configuration, granted: set[NodeId]
) -> None:
    """§6."""
    groups = [group for group in (configuration.voters, configuration.voters_old) if group]
    oracle = all(2 * len(granted & set(group)) > len(group) for group in groups)
    reached = {name: 7 if name in granted else 3 for name in configuration.members}

    assert oracle == configuration.is_majority(granted)
    assert (7 if oracle else 3) == configuration.agreed(reached)
    assert configuration.is_majority(granted) == configuration.is_majority(
        granted - set(configuration.learners)
    )


CHANGES = [
    AddLearner(node=N5),
    Promote(node=N4),
    Remove(node=N1),
    Remove(node=N4),
    Replace(old=N2, new=N4),
    Describe(details=((N1, b"here"),)),
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_at_every_step_of_a_change_majorities_meet(change: Change) -> None:
    """§6: the old and the joint configuration share a member in any two majorities, and so do
    the joint and the new. Without that there could be two leaders.
    """
    before = Configuration(voters=(N1, N2, N3), learners=(N4,))
    middle = before.changed(change)
    steps = [before, middle, middle.left()]
    everyone = [set(group) for size in range(1, 6) for group in combinations(NAMES[:5], size)]
    for one, next_one in pairwise(steps):
        for group in everyone:
            rest = set(NAMES) - group
            assert not (one.is_majority(group) and next_one.is_majority(rest))
    assert not middle.left().is_joint
    assert middle.is_joint == (middle.voters != before.voters)


@pytest.mark.parametrize(
    "change,reason",
    [
        (AddLearner(node=N1), "n1 is a member already"),
        (AddLearner(node=N4), "n4 is a member already"),
        (AddLearner(node=NodeId("")), "'' is no name"),
        (Promote(node=N1), "n1 is not a learner"),
        (Remove(node=N6), "n6 is not a member"),
        (Replace(old=N4, new=N4), "n4 is not a voter"),
        (Replace(old=N1, new=N5), "n5 is not a learner"),
        (Describe(details=((N5, b"far"),)), "n5.* are not all members"),
        (AddLearner(node=N5, details=bytes(1025)), "too much to remember of n5"),
        (Describe(details=((N1, bytes(1025)),)), "too much to remember of .*n1"),
    ],
    ids=str,
)
def test_a_change_that_makes_no_sense_is_forbidden(change: Change, reason: str) -> None:
    with pytest.raises(Forbidden, match=reason):
        Configuration(voters=(N1, N2, N3), learners=(N4,)).changed(change)


def test_what_is_remembered_of_a_member_goes_when_it_goes() -> None:
    """In a joint configuration the old voters still have to be reached."""
    told = THREE.changed(Describe(details=((N1, b"1"), (N2, b"2"))))
    more = told.changed(AddLearner(node=N4, details=b"4")).changed(Describe(details=((N2, b"b"),)))
    joint = more.changed(Replace(old=N1, new=N4))

    assert {N1: b"1", N2: b"2"} == dict(told.details)
    assert {N1: b"1", N2: b"b", N4: b"4"} == dict(joint.details)
    assert {N2: b"b", N4: b"4"} == dict(joint.left().details)
    assert {N1: b"1", N2: b"b"} == dict(more.changed(Remove(node=N4)).details)
    with pytest.raises(ValueError, match="described twice"):
        Configuration(voters=(N1,), details=((N1, b""), (N1, b"")))
    with pytest.raises(ValueError, match="not all members"):
        Configuration(voters=(N1,), details=((N2, b""),))


def test_the_last_voter_stays_and_joint_configurations_cannot_be_stacked() -> None:
    with pytest.raises(Forbidden, match="last voter"):
        Configuration(voters=(N1,)).changed(Remove(node=N1))
    with pytest.raises(Forbidden, match="under way"):
        THREE.changed(Remove(node=N1)).changed(Remove(node=N2))
    with pytest.raises(ValueError, match="twice"):
        Configuration(voters=(N1, N2), learners=(N2,))
    with pytest.raises(ValueError, match="at least one voter"):
        Configuration(voters=())


# --------------------------------------------------------------------------------------- in the log


def test_the_log_says_what_is_in_force_and_cutting_takes_it_back() -> None:
    """§6: the latest in the log, committed or not."""
    log = LogView()
    log.begin_with(THREE)
    second = THREE.changed(AddLearner(node=N4))
    third = second.changed(Promote(node=N4))
    log.append(Entry(index=1, term=1, kind=Kind.NOOP, payload=b""))
    log.append(config_entry(2, 1, second))
    log.append(config_entry(3, 1, third))
    seen = [(log.configuration_index, log.configuration)]
    log.cut(3)
    seen.append((log.configuration_index, log.configuration))
    log.cut(1)
    seen.append((log.configuration_index, log.configuration))

    assert [(3, third), (2, second), (0, THREE)] == seen


def test_configurations_before_the_latest_committed_one_are_forgotten() -> None:
    log = LogView()
    log.begin_with(THREE)
    for index in range(1, 100):
        log.append(config_entry(index, 1, THREE))
        log.settle_configurations(index - 2)

    assert 3 == len(log._configurations)
    log.cut(98)
    assert 97 == log.configuration_index


def test_a_restart_goes_by_the_configuration_in_the_log() -> None:
    second = Configuration(voters=(N1, N2, N3, N4))
    raft = Raft(
        config=RaftConfig(node=N1, members=(N1, N2, N3)),
        log=LogView(last_index=2, terms=[(1, 1)], configurations=[(2, second)]),
        hard=HardState(term=1),
        random=lambda n: 0,
    )

    assert second == raft.configuration
    assert (N2, N3, N4) == raft.peers


def test_configurations_must_fit_the_log_they_are_told_of() -> None:
    with pytest.raises(ValueError, match=r"configurations at \[3\] must rise, and end by 2"):
        LogView(last_index=2, terms=[(1, 1)], configurations=[(3, THREE)])
    with pytest.raises(ValueError, match="must rise"):
        LogView(last_index=2, terms=[(1, 1)], configurations=[(2, THREE), (1, THREE)])


def test_without_configuration_entries_the_settings_are_in_force(led: Build) -> None:
    seen = led().cores["n1"].statistics()

    assert ((N1, N2, N3), (), ()) == (seen.voters, seen.voters_old, seen.learners)


def test_only_who_joins_is_missing_among_the_founders() -> None:
    RaftConfig(node=N4, members=(N1, N2, N3), joining=True)
    with pytest.raises(ValueError, match="cannot join"):
        RaftConfig(node=N1, members=(N1, N2, N3), joining=True)


# -------------------------------------------------------------------------------------- the members


def test_who_has_no_vote_stands_for_no_election(stage: Any) -> None:
    """Thesis §4.2.1. Not when time passes, nor when told to."""
    stage.play("cluster n1 n2 n3")
    stage.play("joiner n4")
    raft = stage.cores["n4"]
    effects = [effect for _ in range(50) for effect in raft.step(Tick())]
    effects += raft.step(Received(sender=N1, message=TimeoutNow(term=0)))

    assert [] == effects
    assert RoleName.FOLLOWER == raft.role.name


def test_a_node_that_knows_of_no_vote_gives_one_when_asked(stage: Any) -> None:
    """Thesis §4.1: whoever asks may have the entry that made us a voter, and need us."""
    stage.play("cluster n1 n2 n3")
    stage.play("joiner n4")
    raft = stage.cores["n4"]
    raft.step(Received(sender=N5, message=RequestVote(term=3, last_index=1, last_term=1)))

    assert N5 == raft.vote


def test_answers_of_strangers_are_ignored(led: Build) -> None:
    """Thesis §4.2.3: a removed member may be in any term, and must not end ours."""
    raft = led().cores["n1"]
    for message in (VoteRefused(term=9), AppendAccepted(term=1, match=1, round=99)):
        assert [] == raft.step(Received(sender=N6, message=message))
    raft.step(Received(sender=N6, message=RequestVote(term=9, last_index=9, last_term=9)))

    assert (1, RoleName.LEADER) == (raft.term, raft.role.name)


def test_votes_of_strangers_and_learners_elect_nobody() -> None:
    """Thesis §4.2.1; and they are not even asked."""
    raft = Raft(
        config=RaftConfig(node=N1, members=(N1, N2, N3)),
        log=LogView(
            last_index=1,
            terms=[(1, 1)],
            configurations=[(1, Configuration(voters=(N1, N2, N3), learners=(N4,)))],
        ),
        hard=HardState(term=1),
        random=lambda n: 0,
    )
    raft.campaign()
    effects = raft.step(Persisted(write=1))
    for sender in (N4, N5, N6):
        effects += raft.step(Received(sender=sender, message=VoteGranted(term=2)))
    before = raft.role.name
    raft.step(Received(sender=N2, message=VoteGranted(term=2)))

    assert [N2, N3] == [effect.to for effect in effects if isinstance(effect, Send)]
    assert (RoleName.CANDIDATE, RoleName.LEADER) == (before, raft.role.name)


def test_a_learner_is_promoted_only_once_it_has_caught_up(led: Build) -> None:
    """Thesis §4.2.1: or commitment would wait for it."""
    stage = led()
    raft = stage.cores["n1"]
    added = stage.step("n1", ChangeMembers(ticket=1, change=AddLearner(node=N4)))
    stage.drop("n4")
    stage.settle()
    early = stage.step("n1", ChangeMembers(ticket=2, change=Promote(node=N4)))
    stage.play("joiner n4")
    for _ in range(3):
        stage.play("tick n1 2")
        stage.settle()
    late = stage.step("n1", ChangeMembers(ticket=3, change=Promote(node=N4)))
    stage.settle()

    assert [] == outcomes(added)
    assert [ChangeRefused(reason="n4 has not caught up")] == outcomes(early)
    assert [] == outcomes(late)
    assert "n1@1 settle 3 MembersChanged(index=4)" in stage.lines
    assert Configuration(voters=(N1, N2, N3, N4)) == raft.configuration


def test_a_leader_that_loses_its_leadership_does_not_know_how_a_change_ends(led: Build) -> None:
    raft = led().cores["n1"]
    raft.step(ChangeMembers(ticket=1, change=Remove(node=N3)))
    effects = raft.step(Received(sender=N2, message=VoteRefused(term=9)))

    assert [Lost(index=2, term=1)] == outcomes(effects)


def test_one_voter_replaces_another_in_one_change(led: Build) -> None:
    stage = led()
    stage.play("joiner n4")
    for change in (AddLearner(node=N4), Replace(old=N1, new=N4)):
        stage.step("n1", ChangeMembers(ticket=1, change=change))
        for _ in range(3):
            stage.settle()
            stage.play("tick n1 2")
    stage.settle()

    assert stage.lines.count("n1@1 settle 1 MembersChanged(index=2)") == 1
    assert stage.lines.count("n1@1 settle 1 MembersChanged(index=4)") == 1
    assert RoleName.FOLLOWER == stage.cores["n1"].role.name
    assert Configuration(voters=(N2, N3, N4)) == stage.leader().configuration
