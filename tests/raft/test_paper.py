"""Claims of the paper (sections in the names' docstrings) and of the traps others fell into."""

from collections.abc import Callable
from typing import Any

import pytest

from dledger_py.raft.config import RaftConfig
from dledger_py.raft.log_view import LogView
from dledger_py.raft.raft import Raft
from dledger_py.raft.roles import PreCandidate
from dledger_py.raft.rules import Impossible
from dledger_py.raft.vocabulary import (
    MESSAGES,
    REQUESTS,
    Append,
    AppendAccepted,
    AppendRefused,
    Busy,
    Commit,
    Effect,
    EntriesRead,
    Entry,
    HardState,
    Lost,
    Message,
    NodeId,
    NotLeader,
    PeerUnreachable,
    Persist,
    Persisted,
    PreVote,
    Propose,
    Proposed,
    ReadBarrier,
    ReadEntries,
    Received,
    RequestVote,
    RoleName,
    Send,
    Settle,
    Tick,
    TimeoutNow,
    VoteGranted,
    VoteRefused,
)

N1, N2, N3 = (NodeId(name) for name in ("n1", "n2", "n3"))
Build = Callable[..., Any]


def core(*terms: int, term: int = 0, vote: NodeId | None = None, **settings: Any) -> Raft:
    """n1 of three, with a durable log of entries of these terms."""
    entries = tuple(entry(index, term) for index, term in enumerate(terms, 1))
    runs = [(e.index, e.term) for e in entries if e.index == 1 or terms[e.index - 2] != e.term]
    return Raft(
        config=RaftConfig(
            node=N1,
            members=(N1, N2, N3),
            election_timeout_ticks=10,
            heartbeat_ticks=2,
            **settings,
        ),
        log=LogView(last_index=len(entries), terms=runs, tail=entries),
        hard=HardState(term=max(term, *terms, 0), vote=vote),
        random=lambda n: 0,
    )


def entry(index: int, term: int) -> Entry:
    return Entry(index=index, term=term, kind=1, payload=b"")


def append(term: int, prev: tuple[int, int], *entries: Entry, commit: int = 0) -> Append:
    return Append(
        term=term, prev_index=prev[0], prev_term=prev[1], entries=entries, commit=commit, round=1
    )


def receive(raft: Raft, sender: NodeId, message: Message) -> list[Effect]:
    """Deliver a message and let every write become durable at once."""
    effects = raft.step(Received(sender=sender, message=message))
    writes = [effect.write for effect in effects if isinstance(effect, Persist)]
    return effects + (raft.step(Persisted(write=writes[-1])) if writes else [])


def said(effects: list[Effect]) -> list[Message]:
    return [effect.message for effect in effects if isinstance(effect, Send)]


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("role", ("follower", "pre-candidate", "candidate", "leader"))
def test_messages_of_an_older_term_change_nothing(kind: Any, role: str, led: Build) -> None:
    """§5.1: a stale request is rejected with the newer term; a stale answer is ignored."""
    stage = led()
    raft = stage.cores["n1"]
    if role != "leader":
        raft.step(Received(sender=N2, message=VoteRefused(term=5)))
    while role not in ("leader", raft.role.name):
        raft.step(Tick())
        if type(raft.role) is PreCandidate and role == "candidate":
            raft.campaign()
    raft.step(Persisted(write=raft._writes.issued))
    before = raft.statistics()
    values: dict[str, Any] = dict.fromkeys(
        ("last_index", "last_term", "prev_index", "prev_term", "commit", "match"), 9
    )
    values |= {"hint_index": 9, "hint_term": 9, "round": 99, "entries": (entry(10, 9),)}
    names = [attribute.name for attribute in kind.__attrs_attrs__]
    message = kind(**{name: values.get(name, raft.term - 1) for name in names})
    effects = raft.step(Received(sender=N2, message=message))

    assert before == raft.statistics()
    answers = said(effects)
    assert len(effects) == len(answers) == (kind in REQUESTS and kind is not TimeoutNow)
    assert all(answer.term == raft.term for answer in answers)


def test_a_newer_term_makes_anyone_a_follower_and_is_durable_before_it_is_spoken_of() -> None:
    """§5.1."""
    raft = core(1)
    effects = raft.step(Received(sender=N2, message=append(7, (9, 7))))

    assert (7, RoleName.FOLLOWER) == (raft.term, raft.role.name)
    assert [] == said(effects)
    assert [7] == [effect.term for effect in effects if isinstance(effect, Persist)]


def test_at_most_one_vote_per_term_first_come_first_served() -> None:
    """§5.2."""
    raft = core()
    first = receive(raft, N2, RequestVote(term=1, last_index=0, last_term=0))
    second = receive(raft, N3, RequestVote(term=1, last_index=9, last_term=0))
    again = receive(raft, N2, RequestVote(term=1, last_index=0, last_term=0))

    assert [VoteGranted(term=1)] == said(first) == said(again)
    assert [VoteRefused(term=1)] == said(second)


def test_a_vote_survives_a_restart() -> None:
    """§5.2, figure 2: votedFor is persistent."""
    raft = core(term=4, vote=N2)
    effects = receive(raft, N3, RequestVote(term=4, last_index=9, last_term=4))

    assert [VoteRefused(term=4)] == said(effects)


@pytest.mark.parametrize(
    "last_index,last_term,granted",
    ((3, 2, True), (4, 2, True), (1, 3, True), (2, 2, False), (9, 1, False)),
)
def test_votes_go_to_logs_at_least_as_up_to_date(
    last_index: int, last_term: int, granted: bool
) -> None:
    """§5.4.1."""
    raft = core(1, 1, 2)
    message = RequestVote(term=5, last_index=last_index, last_term=last_term)
    answer = said(receive(raft, N2, message))

    assert [VoteGranted(term=5) if granted else VoteRefused(term=5)] == answer


def test_a_vote_waits_for_the_disk_and_dies_with_its_term() -> None:
    raft = core()
    raft.step(Received(sender=N2, message=RequestVote(term=1, last_index=0, last_term=0)))
    raft.step(Received(sender=N3, message=RequestVote(term=2, last_index=0, last_term=0)))

    assert [VoteGranted(term=2)] == said(raft.step(Persisted(write=4)))


def test_who_hears_a_leader_is_not_disturbed() -> None:
    """§6, thesis §4.2.3 and §9.6."""
    raft = core(1)
    receive(raft, N2, append(1, (1, 1)))
    vote = receive(raft, N3, RequestVote(term=8, last_index=9, last_term=7))
    ask = receive(raft, N3, PreVote(term=1, last_index=9, last_term=1))

    assert [] == vote
    assert 1 == raft.term
    assert ["PreVoteRefused"] == [type(message).__name__ for message in said(ask)]


def test_a_leader_that_can_speak_but_not_hear_falls_silent(led: Build) -> None:
    """Its heartbeats would keep the others from electing one whose writes can be acknowledged."""
    stage = led()
    for _ in range(12):
        for name in ("n1", "n2", "n3"):
            stage.tick(name)
        stage.deliver("n2", "n3")
        stage.sync()
        stage.drop("n1")

    assert "leader" != stage.cores["n1"].role.name
    stage.lines.clear()
    for _ in range(30):
        for name in ("n1", "n2", "n3"):
            stage.tick(name)
        for _ in range(3):
            stage.drop("n1")
            stage.deliver()
            stage.sync()

    assert [] == [line for line in stage.lines if line.startswith("n1@") and " Append " in line]
    assert "leader" in (stage.cores["n2"].role.name, stage.cores["n3"].role.name)


def test_a_leader_that_asks_for_votes_is_no_reason_to_refuse_them() -> None:
    raft = core(1)
    receive(raft, N2, append(1, (1, 1)))
    answer = receive(raft, N2, PreVote(term=1, last_index=1, last_term=1))

    assert ["PreVoteGranted"] == [type(message).__name__ for message in said(answer)]


def test_a_refused_question_does_not_restart_the_election_timer() -> None:
    """Else a member that only raises terms could keep all others passive."""
    raft = core(1, 1)
    receive(raft, N2, append(1, (2, 1)))
    for number in range(10):
        raft.step(Tick())
        receive(raft, N3, RequestVote(term=2 + number, last_index=1, last_term=1))
    raft.step(Tick())

    assert RoleName.PRE_CANDIDATE == raft.role.name


def test_a_leader_of_the_same_term_ends_a_candidacy() -> None:
    """§5.2."""
    raft = core()
    for _ in range(10):
        raft.step(Tick())
    raft.campaign()
    raft.step(Received(sender=N2, message=append(1, (0, 0))))

    assert RoleName.FOLLOWER == raft.role.name
    assert N2 == raft.leader


def test_a_split_vote_is_not_sat_out() -> None:
    """§5.2: the others wait as long as this candidate would."""
    raft = core()
    for _ in range(10):
        raft.step(Tick())
    raft.campaign()
    raft.step(Received(sender=N2, message=VoteRefused(term=1)))
    effects = raft.step(Tick())

    assert RoleName.PRE_CANDIDATE == raft.role.name
    assert 1 == raft.term
    assert [] == said(effects)  # Its own vote is not durable yet.


def test_two_leaders_in_one_term_stop_the_process(led: Build) -> None:
    """§5.2, election safety."""
    raft = led().cores["n1"]
    with pytest.raises(Impossible):
        raft.step(Received(sender=N2, message=append(1, (0, 0))))
    follower = core()
    receive(follower, N2, append(1, (0, 0)))
    with pytest.raises(Impossible, match="led by n2 and by n3"):
        receive(follower, N3, append(1, (0, 0)))


def test_candidates_seldom_split_votes_because_timeouts_differ() -> None:
    """§5.2: drawn from one to two election timeouts, where nothing gives members an order."""
    asked: list[int] = []

    def random(n: int) -> int:
        asked.append(n)
        return n - 1

    config = RaftConfig(node=N1, members=(N1, N2), election_timeout_ticks=10, heartbeat_ticks=2)
    raft = Raft(config=config, log=LogView(), hard=HardState(), random=random)
    asked.clear()
    receive(raft, N2, RequestVote(term=1, last_index=0, last_term=0))
    for _ in range(18):
        assert [] == raft.step(Tick())

    assert [10] == asked
    assert [] != raft.step(Tick())


def test_members_that_know_nobody_leads_ask_in_turns() -> None:
    """At a start, and when the leader's connection broke, silence need not be waited for; in turns,
    so that two of them do not split the vote."""
    first_asks = {}
    for lost in (None, N1):
        for node in (N2, N3):
            config = RaftConfig(node=node, members=(N1, N2, N3))
            raft = Raft(config=config, log=LogView(), hard=HardState(), random=lambda n: n - 1)
            if lost is not None:
                receive(raft, lost, append(1, (0, 0)))
                raft.step(Persisted(write=1))
                raft.step(PeerUnreachable(peer=lost))
            ticks = 1
            while not said(raft.step(Tick())):
                ticks += 1
            first_asks[lost, node] = ticks

    assert {(None, N2): 6, (None, N3): 10, (N1, N2): 2, (N1, N3): 6} == first_asks


def test_followers_of_a_silent_leader_take_turns_after_one_election_timeout() -> None:
    """They all began to count when they heard it last: with chance alone they would sit out more,
    and might still ask at one time."""
    first_asks = {}
    for node in (N2, N3):
        config = RaftConfig(node=node, members=(N1, N2, N3))
        raft = Raft(config=config, log=LogView(), hard=HardState(), random=lambda n: n - 1)
        receive(raft, N1, append(1, (0, 0)))
        for _ in range(7):
            raft.step(Tick())
        receive(raft, N1, append(1, (0, 0)))
        ticks = 1
        while not said(raft.step(Tick())):
            ticks += 1
        first_asks[node] = ticks - config.election_timeout_ticks

    assert {N2: 2, N3: 6} == first_asks


def test_a_member_is_alone_that_heard_nobody_for_an_election_timeout() -> None:
    raft = core(1)
    for _ in range(10):
        raft.step(Tick())
    alone = [raft.timer.is_alone(raft.now)]
    raft.step(Tick())
    alone.append(raft.timer.is_alone(raft.now))
    receive(raft, N3, PreVote(term=1, last_index=1, last_term=1))
    alone.append(raft.timer.is_alone(raft.now))

    assert [False, True, False] == alone


def test_asking_early_does_not_disturb_a_leader_that_is_heard() -> None:
    follower = core(1)
    receive(follower, N2, append(1, (1, 1)))

    answer = receive(follower, N3, PreVote(term=1, last_index=1, last_term=1))

    assert ["PreVoteRefused"] == [type(message).__name__ for message in said(answer)]


def test_one_member_leads_itself_once_its_vote_is_durable() -> None:
    config = RaftConfig(node=N1, members=(N1,), election_timeout_ticks=10, heartbeat_ticks=2)
    raft = Raft(config=config, log=LogView(), hard=HardState(), random=lambda n: 0)
    raft.step(Tick())
    roles = [raft.role.name]
    raft.step(Persisted(write=1))
    roles.append(raft.role.name)

    assert [RoleName.CANDIDATE, RoleName.LEADER] == roles
    assert Commit(up_to=1) in raft.step(Persisted(write=2))


FIGURE_7 = (
    ("a", (1, 1, 1, 4, 4, 5, 5, 6, 6)),
    ("b", (1, 1, 1, 4)),
    ("c", (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6)),
    ("d", (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7)),
    ("e", (1, 1, 1, 4, 4, 4, 4)),
    ("f", (1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3)),
)


@pytest.mark.parametrize("name,terms", FIGURE_7, ids=[name for name, _ in FIGURE_7])
def test_every_follower_of_figure_7_is_brought_to_the_leaders_log(
    name: str, terms: tuple[int, ...], stage: Any
) -> None:
    """§5.3."""
    leader = " ".join(f"{i}@{t}" for i, t in enumerate((1, 1, 1, 4, 4, 5, 5, 6, 6, 6), 1))
    stage.play("cluster n1 n2 n3")
    stage.play(f"log n1 {leader} term=7")
    stage.play(f"log n2 {' '.join(f'{i}@{t}' for i, t in enumerate(terms, 1))} term=7")
    stage.play(f"log n3 {leader} term=7")
    stage.play("tick n1 10")
    stage.settle()
    stage.play("tick n1 2")
    stage.settle()
    logs = [
        [(each.index, each.term) for each in stage.disks[member].entries] for member in ("n1", "n2")
    ]

    assert logs[0] == logs[1]
    assert (11, 8) == logs[0][-1]
    assert 11 == stage.cores["n2"].commit


def test_a_late_or_repeated_append_cuts_nothing() -> None:
    """§5.3: only a conflict deletes."""
    raft = core()
    receive(raft, N2, append(1, (0, 0), entry(1, 1), entry(2, 1), entry(3, 1)))
    effects = receive(raft, N2, append(1, (0, 0), entry(1, 1)))

    assert 3 == raft.log.last_index
    assert [AppendAccepted(term=1, match=1, round=1)] == said(effects)


def test_a_conflict_with_what_is_committed_stops_the_process() -> None:
    """State machine safety, figure 3."""
    raft = core()
    receive(raft, N2, append(1, (0, 0), entry(1, 1), commit=1))
    with pytest.raises(Impossible, match="contradicts what is committed"):
        receive(raft, N3, append(2, (0, 0), entry(1, 2)))


def test_a_follower_commits_only_what_was_verified() -> None:
    """Figure 2, AppendEntries rule 5: the last *new* entry, not the last entry."""
    raft = core(1, 1, 1)
    effects = receive(raft, N2, append(4, (1, 1), commit=3))

    assert Commit(up_to=1) in effects
    assert 1 == raft.commit


def test_commit_never_runs_ahead_of_the_own_disk(led: Build) -> None:
    stage = led()
    raft = stage.cores["n1"]
    raft.step(Propose(ticket=1, payload=b"x"))
    for peer in (N2, N3):
        ack = AppendAccepted(term=1, match=2, round=raft.role.round)
        assert [] == raft.step(Received(sender=peer, message=ack))
    assert 2 == raft.commit

    assert [Commit(up_to=2)] == raft.step(Persisted(write=3))


def test_a_leader_counts_itself_only_when_durable(led: Build) -> None:
    """Thesis §10.2.1: the leader may write in parallel, if it counts itself afterwards."""
    raft = led(members=3).cores["n1"]
    raft.step(Propose(ticket=1, payload=b"x"))
    raft.step(Received(sender=N2, message=AppendAccepted(term=1, match=2, round=9)))
    assert 1 == raft.commit
    raft.step(Persisted(write=3))

    assert 2 == raft.commit


def test_an_acknowledgement_of_the_impossible_stops_the_process(led: Build) -> None:
    raft = led().cores["n1"]
    with pytest.raises(Impossible, match="our log ends at 1"):
        raft.step(Received(sender=N2, message=AppendAccepted(term=1, match=2, round=9)))


def test_proposals_are_refused_lost_or_left_to_the_applier(led: Build) -> None:
    stage = led(uncommitted_bytes_max=300)
    raft = stage.cores["n1"]
    follower = stage.cores["n2"]
    refused = follower.step(Propose(ticket=1, payload=b""))
    taken = raft.step(Propose(ticket=2, payload=bytes(200)))
    busy = raft.step(Propose(ticket=3, payload=bytes(200)))
    lost = raft.step(Received(sender=N2, message=VoteRefused(term=3)))

    assert [Settle(ticket=1, outcome=NotLeader(leader=N1))] == refused
    assert Proposed(ticket=2, index=2, term=1) == taken[0]
    assert [Settle(ticket=3, outcome=Busy())] == busy
    assert Settle(ticket=2, outcome=Lost(index=2, term=1)) in lost


def test_what_is_known_to_be_committed_is_not_lost(led: Build) -> None:
    """Committed, but not yet on this disk: it will be applied here, and settled by that."""
    raft = led().cores["n1"]
    raft.step(Propose(ticket=1, payload=b""))
    for peer in (N2, N3):
        raft.step(Received(sender=peer, message=AppendAccepted(term=1, match=2, round=9)))
    effects = raft.step(Received(sender=N2, message=VoteRefused(term=3)))

    assert [] == [effect for effect in effects if isinstance(effect, Settle)]
    assert [Commit(up_to=2)] == [e for e in raft.step(Persisted(write=3)) if type(e) is Commit]


def test_committing_makes_room_for_proposals(led: Build) -> None:
    stage = led(uncommitted_bytes_max=300)
    raft = stage.cores["n1"]
    for ticket in range(5):
        stage.step("n1", Propose(ticket=ticket, payload=bytes(200)))
        assert 200 < raft.statistics().uncommitted_bytes
        stage.settle()

        assert 0 == raft.statistics().uncommitted_bytes


def test_acknowledgements_of_an_older_term_confirm_no_reader_and_match_nothing(led: Build) -> None:
    """Rounds and matches are counted per term; a former term's answers must not enter."""
    stage = led()
    raft = stage.cores["n1"]
    stage.step("n1", Received(sender=N2, message=VoteRefused(term=4)))
    stage.play("tick n1 10")
    stage.settle()
    assert RoleName.LEADER == raft.role.name
    effects = raft.step(ReadBarrier(ticket=1))
    effects += raft.step(Received(sender=N2, message=AppendAccepted(term=1, match=1, round=999)))
    effects += raft.step(
        Received(
            sender=N3,
            message=AppendRefused(term=raft.term, prev_index=0, hint_index=0, hint_term=0, round=0),
        )
    )

    assert [] == [effect for effect in effects if isinstance(effect, Settle)]


def test_a_read_from_disk_that_was_overtaken_is_not_sent(stage: Any) -> None:
    """Asked for, deposed, overwritten, elected again: equal indices, other entries."""
    stage.play("cluster n1 n2 n3 tail_bytes_max=0")
    stage.play("log n1 1@1 2@1 3@1 term=1")
    stage.play("log n2 1@1 2@1 3@1 term=1")
    stage.quiet("cut", "n2")
    stage.play("join")
    stage.play("tick n1 10")
    stage.settle()
    (wanted,) = stage.reads["n1"]
    assert ReadEntries(peer=N3, first=1, max_bytes=1 << 20) == wanted
    old = tuple(entry(index, 0) for index in (1, 2, 3))
    effects = stage.step("n1", EntriesRead(peer=N3, first=1, entries=old))

    assert [wanted] == effects


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValueError, match="not among the members"):
        RaftConfig(node=N1, members=(N2, N3))
    with pytest.raises(ValueError, match="twice"):
        RaftConfig(node=N1, members=(N1, N1))
    with pytest.raises(ValueError, match="heartbeat_ticks 50"):
        RaftConfig(node=N1, members=(N1,), heartbeat_ticks=50)
    with pytest.raises(ValueError, match="window_messages is 0"):
        RaftConfig(node=N1, members=(N1,), window_messages=0)


def test_a_core_does_not_start_from_a_contradiction() -> None:
    config = RaftConfig(node=N1, members=(N1, N2, N3))
    log = LogView(last_index=2, terms=[(1, 3)])
    with pytest.raises(ValueError, match="the log ends at 2"):
        Raft(config=config, log=log, hard=HardState(term=3, commit=3), random=lambda n: 0)
    with pytest.raises(ValueError, match="ends in term 3"):
        Raft(config=config, log=log, hard=HardState(term=2), random=lambda n: 0)


def test_what_was_committed_before_a_restart_is_announced_first() -> None:
    config = RaftConfig(node=N1, members=(N1, N2, N3))
    log = LogView(last_index=2, terms=[(1, 3)])
    raft = Raft(config=config, log=log, hard=HardState(term=3, commit=2), random=lambda n: 1)

    assert [Commit(up_to=2)] == raft.step(Tick())


def test_strangers_are_ignored(led: Build) -> None:
    raft = led().cores["n1"]

    assert [] == raft.step(Received(sender=NodeId("n9"), message=VoteRefused(term=99)))
    assert 1 == raft.term
