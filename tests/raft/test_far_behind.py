"""Logs that begin later than 1, followers that lack what was dropped, and copies of logs."""

from collections.abc import Callable
from typing import Any

import pytest

from dledger_py.raft.config import RaftConfig
from dledger_py.raft.far_behind import hard_state_with, may_replace
from dledger_py.raft.log_view import LogView
from dledger_py.raft.membership import Configuration
from dledger_py.raft.progress import Manner
from dledger_py.raft.raft import Raft
from dledger_py.raft.roles import Leader
from dledger_py.raft.rules import Impossible
from dledger_py.raft.vocabulary import (
    AppendAccepted,
    Commit,
    Dropped,
    EntriesRead,
    FellBehind,
    HardState,
    NodeId,
    PeerUnreachable,
    ReadEntries,
    Received,
    Send,
    Tick,
    TooFarBehind,
)

N1, N2, N3 = NodeId("n1"), NodeId("n2"), NodeId("n3")
THREE = Configuration(voters=(N1, N2, N3))


def trimmed(first: int, last: int, term: int = 1, previous_term: int = 1) -> LogView:
    runs = [(first, term)] if last >= first else []
    return LogView(
        first_index=first,
        last_index=last,
        terms=runs,
        previous_term=previous_term,
        configurations=[(0, THREE)],
    )


def core_on(log: LogView, **hard: Any) -> Raft:
    config = RaftConfig(node=N1, members=(N1, N2, N3), election_timeout_ticks=10, heartbeat_ticks=2)
    return Raft(config=config, log=log, hard=HardState(**hard), random=lambda n: 0)


def test_what_lies_before_the_log_is_committed_and_not_announced() -> None:
    raft = core_on(trimmed(5, 7), term=1, commit=0)

    assert [] == [each for each in raft.step(Tick()) if isinstance(each, Commit)]
    assert 4 == raft.commit


def test_what_the_hard_state_knows_beyond_the_log_start_is_announced() -> None:
    raft = core_on(trimmed(5, 7), term=1, commit=6)

    assert [6] == [each.up_to for each in raft.step(Tick()) if isinstance(each, Commit)]


def test_only_what_was_announced_may_be_dropped() -> None:
    raft = core_on(trimmed(5, 7), term=1, commit=6)
    raft.step(Dropped(first_index=7))

    assert 7 == raft.log.first_index
    with pytest.raises(Impossible, match="applied up to 6"):
        raft.step(Dropped(first_index=8))


def test_dropping_what_is_gone_changes_nothing() -> None:
    raft = core_on(trimmed(5, 7), term=1, commit=6)
    raft.step(Dropped(first_index=2))

    assert 5 == raft.log.first_index


def test_a_log_may_be_dropped_whole() -> None:
    """And goes on behind its last entry."""
    raft = core_on(trimmed(5, 7), term=1, commit=7)
    raft.step(Tick())
    raft.step(Dropped(first_index=8))

    assert (8, 7, 1) == (raft.log.first_index, raft.log.last_index, raft.log.last_term)
    assert raft.log.matches(7, 1)


def test_a_broken_connection_does_not_make_a_follower_too_far_behind(
    led: Callable[..., Any],
) -> None:
    """Probing starts no lower than the log does: whoever has all of it is not sent for a copy."""
    stage = led()
    for _ in range(3):
        stage.propose("n1")
    stage.settle()
    stage.tick("n1", "2")
    stage.settle()
    stage.drop_before("n1", "3")
    raft = stage.cores["n1"]
    role = raft.role
    assert type(role) is Leader
    role.match[N2] = 0  # as if it had not answered in this term yet
    raft.step(PeerUnreachable(peer=N2))

    assert (Manner.PROBING, 3) == (role.followers[N2].manner, role.followers[N2].next)


def test_a_read_that_comes_back_for_dropped_entries_is_not_sent(led: Callable[..., Any]) -> None:
    stage = led(tail_bytes_max="0", append_entries_max="2")
    stage.cut("n3")
    for _ in range(4):
        stage.propose("n1")
        stage.settle()
    stage.join()
    stage.tick("n1", "2")
    stage.deliver("n3")
    stage.deliver("n1")  # refused; probed lower
    stage.deliver("n3")
    stage.deliver("n1")  # accepted; n1 asks its disk
    (wanted,) = stage.reads["n1"]
    assert isinstance(wanted, ReadEntries)
    entries = stage.disks["n1"].entries[wanted.first - 1 : wanted.first + 1]
    stage.drop_before("n1", str(wanted.first + 1))
    read = EntriesRead(peer=wanted.peer, first=wanted.first, entries=entries)
    effects = stage.cores["n1"].step(read)

    assert [] == effects
    (peer,) = [p for p in stage.cores["n1"].statistics().peers if p.peer == N3]
    assert "too-far-behind" == peer.state


def test_a_leader_that_serves_nobody_but_a_follower_far_behind_still_has_contact(
    led: Callable[..., Any],
) -> None:
    """Its refusals are answers: with them the leader has a majority, and readers are confirmed."""
    stage = led()
    stage.cut("n3")
    for _ in range(3):
        stage.propose("n1")
    stage.settle()
    stage.tick("n1", "2")
    stage.settle()
    stage.drop_before("n1", "4")
    stage.join()
    stage.cut("n2")
    for _ in range(30):
        stage.tick("n1")
        stage.settle()
    stage.lines.clear()
    stage.read("n1")
    stage.settle()

    assert "leader" == stage.cores["n1"].role.name
    assert any("ReadReady" in line for line in stage.lines)


def test_far_behind_is_said_once_per_term() -> None:
    raft = core_on(LogView(), term=1)

    def told(term: int, round: int) -> list[FellBehind]:
        message = TooFarBehind(term=term, first_index=9, previous_term=1, round=round)
        effects = raft.step(Received(sender=N2 if term == 1 else N3, message=message))
        return [effect for effect in effects if isinstance(effect, FellBehind)]

    assert [FellBehind(leader=N2, first_index=9)] == told(1, 1)
    assert [] == told(1, 2)
    assert [FellBehind(leader=N3, first_index=9)] == told(2, 1)


def test_being_far_behind_is_no_reason_to_campaign() -> None:
    raft = core_on(LogView(), term=1)
    for round in range(40):
        raft.step(Tick())
        raft.step(
            Received(
                sender=N2,
                message=TooFarBehind(term=1, first_index=9, previous_term=1, round=round),
            )
        )

    assert ("follower", N2) == (raft.role.name, raft.leader)


@pytest.mark.parametrize("commit,first_index,match", ((6, 6, 6), (6, 2, 6), (0, 8, 7)))
def test_who_has_the_leaders_first_entries_says_how_far_it_is(
    commit: int, first_index: int, match: int
) -> None:
    """As far as they are committed: what a leader drops is."""
    raft = core_on(trimmed(5, 7), term=1, commit=commit)
    message = TooFarBehind(term=1, first_index=first_index, previous_term=1, round=3)
    effects = raft.step(Received(sender=N2, message=message))

    assert match == raft.commit
    assert [AppendAccepted(term=1, match=match, round=3)] == [
        effect.message for effect in effects if isinstance(effect, Send)
    ]


@pytest.mark.parametrize(
    "first_index,previous_term,last_index,may",
    (
        (8, 1, 20, False),  # ours ends right before it: it is only to be continued
        (9, 1, 20, True),  # ours ends before that
        (7, 1, 20, False),
        (7, 2, 20, True),  # another entry there: ours is not committed from there on
        (7, 2, 6, True),
        (7, 2, 5, False),  # no log at all
        (3, 1, 20, False),  # before our start, where all is committed
        (3, 9, 20, False),
    ),
)
def test_a_copy_may_replace_a_log_that_does_not_reach_or_contradicts_it(
    first_index: int, previous_term: int, last_index: int, may: bool
) -> None:
    assert may == may_replace(trimmed(5, 7), first_index, previous_term, last_index)


def test_a_copy_takes_no_vote_back() -> None:
    hard = HardState(term=4, vote=N2, commit=3)

    assert HardState(term=4, vote=N2, commit=9) == hard_state_with(hard, 9, 4)
    assert HardState(term=6, vote=None, commit=9) == hard_state_with(hard, 9, 6)
