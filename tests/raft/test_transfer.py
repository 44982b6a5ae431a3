"""Claims of thesis §3.10 about handing leadership over, and of the traps others fell into."""

from collections.abc import Callable
from typing import Any

from dledger_py.raft.vocabulary import (
    Effect,
    NodeId,
    NotLeader,
    Outcome,
    Propose,
    Received,
    RequestVote,
    RequestVoteNow,
    RoleName,
    Send,
    Settle,
    Tick,
    TimeoutNow,
    TransferFailed,
    TransferLeadership,
    Transferred,
    Transferring,
)

N1, N2, N3 = (NodeId(name) for name in ("n1", "n2", "n3"))
Build = Callable[..., Any]
ASK = TransferLeadership(ticket=7, to=N2)


def outcomes(effects: list[Effect]) -> list[Outcome]:
    return [effect.outcome for effect in effects if isinstance(effect, Settle)]


def test_the_target_is_told_once_per_heartbeat(led: Build) -> None:
    """The message may get lost; but one acknowledgement in must not mean one message out."""
    stage = led()
    raft = stage.cores["n1"]
    told = [e for e in raft.step(ASK) if isinstance(e, Send)]
    for _ in range(4):
        told += [
            effect
            for effect in raft.step(Tick())
            if isinstance(effect, Send) and type(effect.message) is TimeoutNow
        ]

    assert [Send(to=N2, message=TimeoutNow(term=1))] * 3 == told


def test_a_called_campaign_is_heard_by_those_who_hear_a_leader_and_no_other_is(led: Build) -> None:
    """Thesis §4.2.3."""
    stage = led()
    raft = stage.cores["n3"]
    raft.step(Received(sender=N2, message=RequestVote(term=2, last_index=9, last_term=9)))
    before = raft.term
    raft.step(Received(sender=N2, message=RequestVoteNow(term=2, last_index=9, last_term=9)))

    assert (1, 2, N2) == (before, raft.term, raft.vote)


def test_a_called_campaign_cannot_win_with_a_worse_log(led: Build) -> None:
    """§5.4.1 holds for it too."""
    stage = led()
    raft = stage.cores["n3"]
    raft.step(Received(sender=N2, message=RequestVoteNow(term=2, last_index=0, last_term=0)))

    assert raft.vote is None


def test_a_late_call_does_no_harm_in_a_newer_term(led: Build) -> None:
    stage = led()
    raft = stage.cores["n2"]
    raft.step(Received(sender=N3, message=RequestVoteNow(term=5, last_index=9, last_term=9)))
    effects = raft.step(Received(sender=N1, message=TimeoutNow(term=1)))

    assert [] == effects
    assert RoleName.FOLLOWER == raft.role.name


def test_a_silent_target_does_not_block_for_longer_than_an_election_timeout(led: Build) -> None:
    """hashicorp/raft 1.6.0 could refuse proposals for ever."""
    stage = led()
    raft = stage.cores["n1"]
    stage.step("n1", ASK)
    refused = stage.step("n1", Propose(ticket=8, payload=b""))
    settled: list[Outcome] = []
    for _ in range(raft.config.election_timeout_ticks):
        assert [] == settled
        assert "n2" == raft.statistics().transferring_to
        settled += outcomes(stage.step("n1", Tick()))
        stage.drop("n2")
        stage.settle()
    accepted = stage.step("n1", Propose(ticket=9, payload=b""))

    assert [Transferring(to=N2)] == outcomes(refused)
    assert [TransferFailed(reason="n2 did not take over in time")] == settled
    assert [] == outcomes(accepted)
    assert raft.statistics().transferring_to is None


def test_leadership_that_went_elsewhere_is_a_failure(led: Build) -> None:
    stage = led()
    stage.step("n1", ASK)
    stage.step("n1", Received(sender=N3, message=RequestVote(term=2, last_index=9, last_term=9)))
    stage.step("n1", Received(sender=N3, message=RequestVoteNow(term=2, last_index=9, last_term=9)))
    stage.play("inject n1 n3 Append term=2 prev_index=1 prev_term=1 round=1")

    assert stage.cores["n1"].statistics().transferring_to is None
    assert "n1@2 settle 7 TransferFailed(reason='n3 was elected instead of n2')" in stage.lines


def test_a_former_leader_waits_for_news_no_longer_than_an_election_timeout(led: Build) -> None:
    stage = led()
    raft = stage.cores["n1"]
    raft.step(ASK)
    raft.step(Received(sender=N2, message=RequestVoteNow(term=2, last_index=9, last_term=9)))
    settled: list[Outcome] = []
    for _ in range(raft.config.election_timeout_ticks):
        settled += outcomes(raft.step(Tick()))

    assert [TransferFailed(reason="n2 did not take over in time")] == settled


def test_only_a_leader_hands_over_and_to_itself_at_once(led: Build) -> None:
    stage = led()

    assert [NotLeader(leader=N1)] == outcomes(stage.cores["n3"].step(ASK))
    assert [Transferred(leader=N1)] == outcomes(
        stage.cores["n1"].step(TransferLeadership(ticket=1, to=N1))
    )
