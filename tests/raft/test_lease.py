"""Leases: when a leader answers readers at once, and what others owe it for that."""

from collections.abc import Callable
from typing import Any

import pytest

from dledger_py.raft.config import RaftConfig
from dledger_py.raft.log_view import LogView
from dledger_py.raft.raft import Raft
from dledger_py.raft.roles import Leader
from dledger_py.raft.vocabulary import (
    Append,
    AppendAccepted,
    HardState,
    NodeId,
    PeerUnreachable,
    Persisted,
    PreVote,
    PreVoteGranted,
    Received,
    RequestVote,
    RequestVoteNow,
    Send,
    Tick,
    TimeoutNow,
    VoteGranted,
    VoteRefused,
)

N1, N2, N3 = NodeId("n1"), NodeId("n2"), NodeId("n3")
HEARTBEAT = Append(term=1, prev_index=0, prev_term=0, entries=(), commit=0, round=1)

Build = Callable[..., Any]


@pytest.fixture
def leased(led: Build) -> Any:
    """n1 leads, and may read by lease for 8 ticks of 20."""
    return led(election_timeout_ticks="20", lease_ticks="8")


@pytest.fixture
def led(led: Build) -> Build:
    """The first ticks are those in which nobody may campaign."""

    def build(**settings: str) -> Any:
        stage = led(**settings)
        for _ in range(3):
            for name in stage.cores:
                stage.tick(name, "7")
            stage.settle()
        while "leader" != stage.cores["n1"].role.name:
            stage.tick("n1")
            stage.settle()
        stage.tick("n1", "2")
        stage.settle()
        stage.lines.clear()
        return stage

    return build


def reads_at_once(stage: Any) -> bool:
    stage.lines.clear()
    stage.read("n1")
    return any("ReadReady" in line for line in stage.lines)


def test_a_fresh_answer_of_a_majority_lets_readers_pass_at_once(leased: Any) -> None:
    leased.tick("n1", "2")
    leased.settle()

    assert reads_at_once(leased)
    assert [] == leased.wires, "no round was needed"


def test_a_lease_ends_with_its_ticks(leased: Any) -> None:
    while not leased.wires:
        leased.tick("n1")
    leased.settle()
    leased.tick("n1", "7")

    assert reads_at_once(leased)
    leased.tick("n1")
    assert not reads_at_once(leased)


def test_a_lease_begins_when_the_round_was_sent_not_when_it_was_answered(leased: Any) -> None:
    while not leased.wires:
        leased.tick("n1")
    leased.deliver()
    leased.wires, late = [], leased.wires
    leased.tick("n1", "5")
    leased.wires = late
    leased.deliver()
    leased.tick("n1", "2")

    assert reads_at_once(leased)
    leased.tick("n1")
    assert not reads_at_once(leased)


def test_without_leases_every_reader_takes_a_round(led: Build) -> None:
    stage = led(election_timeout_ticks="20")
    stage.tick("n1", "2")
    stage.settle()

    assert not reads_at_once(stage)


def test_a_clock_that_stood_still_ends_the_lease_and_old_answers_do_not_renew_it(
    leased: Any,
) -> None:
    leased.tick("n1", "2")
    leased.settle()
    leased.tick("n1", "2")
    leased.deliver("n2", "n3")
    leased.stall("n1")

    assert not reads_at_once(leased)
    leased.deliver("n1")
    assert not reads_at_once(leased)
    leased.tick("n1", "2")
    leased.settle()
    assert reads_at_once(leased)


def test_who_calls_for_a_successor_has_no_lease_for_the_rest_of_the_term(leased: Any) -> None:
    """Even when the transfer fails: the call may arrive late."""
    leased.tick("n1", "2")
    leased.settle()
    leased.cut("n2")
    leased.transfer("n1", "n2")
    assert not reads_at_once(leased)

    for _ in range(12):
        leased.tick("n1", "2")
        leased.settle()
    assert leased.cores["n1"].transfer is None
    assert not reads_at_once(leased)


def test_no_lease_before_an_entry_of_the_own_term_is_committed(leased: Any) -> None:
    leased.tick("n1", "2")
    leased.settle()
    raft = leased.cores["n1"]
    leader = raft.role
    assert type(leader) is Leader
    leader.start_index = raft.commit + 1

    assert not reads_at_once(leased)


def follower(**settings: int) -> Raft:
    config = RaftConfig(
        node=N1,
        members=(N1, N2, N3),
        election_timeout_ticks=20,
        heartbeat_ticks=2,
        **({"lease_ticks": 8} | settings),
    )
    return Raft(config=config, log=LogView(), hard=HardState(term=1), random=lambda n: 0)


def said(raft: Raft, event: Any) -> list[Any]:
    effects = raft.step(event)
    if raft._writes:
        effects += raft.step(Persisted(write=raft._writes.issued))
    return [type(effect.message) for effect in effects if isinstance(effect, Send)]


def after_the_start(raft: Raft) -> Raft:
    """Past the time for which a member that starts is bound, hearing n2 in the end."""
    for _ in range(21):
        raft.step(Tick())
        raft.step(Received(sender=N2, message=HEARTBEAT))
    return raft


PRE_VOTE = PreVote(term=1, last_index=9, last_term=1)


def test_a_broken_connection_does_not_free_a_member_from_its_leader() -> None:
    raft = after_the_start(follower())
    raft.step(PeerUnreachable(peer=N2))

    assert [] == said(
        raft, Received(sender=N3, message=RequestVote(term=2, last_index=9, last_term=1))
    )
    assert PreVoteGranted not in said(raft, Received(sender=N3, message=PRE_VOTE))
    for _ in range(20):
        assert PreVote not in said(raft, Tick()), "nor does it stand itself"


def test_without_leases_a_broken_connection_is_enough() -> None:
    raft = after_the_start(follower(lease_ticks=0))
    raft.step(PeerUnreachable(peer=N2))

    assert [PreVoteGranted] == said(raft, Received(sender=N3, message=PRE_VOTE))


def test_a_newer_term_heard_of_elsewhere_does_not_free_a_member_either() -> None:
    raft = after_the_start(follower())
    raft.step(Received(sender=N3, message=VoteRefused(term=5)))
    request = RequestVote(term=5, last_index=9, last_term=1)

    assert 5 == raft.term
    assert [VoteRefused] == said(raft, Received(sender=N3, message=request))


def test_a_member_is_free_an_election_timeout_after_it_heard_its_leader() -> None:
    raft = after_the_start(follower())
    for _ in range(20):
        raft.step(Tick())
        assert PreVoteGranted not in said(raft, Received(sender=N3, message=PRE_VOTE))
    raft.step(Tick())

    assert [PreVoteGranted] == said(raft, Received(sender=N3, message=PRE_VOTE))


def test_a_member_that_starts_helps_nobody_for_an_election_timeout() -> None:
    """It may have bound itself before it stopped, and does not know to whom."""
    raft = follower()
    for _ in range(20):
        assert PreVote not in said(raft, Tick())
        assert PreVoteGranted not in said(raft, Received(sender=N3, message=PRE_VOTE))
    raft.step(Tick())

    assert [PreVoteGranted] == said(raft, Received(sender=N3, message=PRE_VOTE))


def test_the_leader_itself_frees_those_bound_to_it() -> None:
    called = after_the_start(follower())
    assert RequestVoteNow in said(called, Received(sender=N2, message=TimeoutNow(term=1)))

    asked = after_the_start(follower())
    request = RequestVoteNow(term=2, last_index=9, last_term=1)
    assert [VoteGranted] == said(asked, Received(sender=N3, message=request))


def test_the_leader_may_ask_those_bound_to_it_for_another_term() -> None:
    """It does not lead any more, or it would not ask."""
    raft = after_the_start(follower())
    request = RequestVote(term=2, last_index=9, last_term=1)

    assert [VoteGranted] == said(raft, Received(sender=N2, message=request))


def test_leases_longer_than_others_are_bound_are_refused() -> None:
    for ticks in (9, -1):
        with pytest.raises(ValueError, match="0 to 8 are safe"):
            follower(lease_ticks=ticks)


def test_rounds_of_which_the_time_is_no_longer_known_renew_nothing(leased: Any) -> None:
    raft = leased.cores["n1"]
    leader = raft.role
    assert type(leader) is Leader
    assert leader.lease is not None
    oldest = leader.round
    for _ in range(10):
        leased.tick("n1")
        leased.settle()
    before = dict(leader.lease.since)
    answer = AppendAccepted(term=raft.term, match=0, round=oldest)
    raft.step(Received(sender=N2, message=answer))

    assert before == leader.lease.since
    assert len(leader.lease.rounds) <= 8
