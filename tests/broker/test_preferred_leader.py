"""When leadership is given to the preferred member, and when it is not."""

from itertools import pairwise
from typing import Any

import pytest
import trio
import trio.testing
from attrs import define, evolve, field

from broker.serving.preferred_leader import (
    BEGINNING_S,
    LAG_ENTRIES_MAX,
    PAUSE_MAX_S,
    SETTLE_S,
    STEADY_S,
    Patience,
    PreferredLeader,
    Sight,
    in_step,
)
from dledger_py.actors import Child, Supervisor
from dledger_py.ledger.errors import TransferFailed
from dledger_py.ledger.ledger import LedgerStatistics
from dledger_py.ledger.machine import RoleView
from tests.broker.broker_kit import brokers, dial, send

LEADS = Sight(leader="n1", leads=True, in_step=True)
FOLLOWS = Sight(leader="n0", leads=False, in_step=False)
NOBODY = Sight(leader=None, leads=False, in_step=False)


def waits(patience: Patience, sight: Sight, from_s: float) -> float:
    """How long the same has to be seen before leadership is handed over."""
    for tenths in range(100_000):
        if patience.look(sight, from_s + tenths / 10):
            return tenths / 10
    raise AssertionError("never")


# --- the decision --------------------------------------------------------------------------------


def test_in_a_group_that_has_just_begun_the_pause_is_short() -> None:
    assert BEGINNING_S == waits(Patience("n0"), LEADS, 100)


def test_after_the_preferred_member_fell_leadership_must_have_settled() -> None:
    patience = Patience("n0")
    patience.look(FOLLOWS, 0)
    patience.look(NOBODY, 10)

    assert SETTLE_S == waits(patience, LEADS, 11)


@pytest.mark.parametrize(
    "interruption",
    [
        pytest.param(evolve(LEADS, in_step=False), id="the preferred one is not in step"),
        pytest.param(evolve(LEADS, leads=False), id="this one is not ready"),
        pytest.param(NOBODY, id="nobody leads"),
        pytest.param(Sight(leader="n2", leads=False, in_step=False), id="a third one leads"),
    ],
)
def test_the_pause_begins_again_when_not_all_is_well(interruption) -> None:
    patience = Patience("n0")
    assert not patience.look(LEADS, 0)
    assert not patience.look(interruption, BEGINNING_S - 0.1)

    assert BEGINNING_S == waits(patience, LEADS, BEGINNING_S)


def test_each_hand_over_that_fails_makes_the_pause_longer_up_to_a_bound() -> None:
    patience = Patience("n0")
    patience.look(FOLLOWS, 0)
    pauses = []
    now_s = 10.0
    for _ in range(6):
        pause_s = waits(patience, LEADS, now_s)
        now_s += pause_s
        pauses.append(pause_s)
        patience.failed()

    assert [SETTLE_S, 20, 80, 320, PAUSE_MAX_S, PAUSE_MAX_S] == pauses


def test_a_preferred_member_that_gives_leadership_back_again_and_again_gets_it_less_and_less() -> (
    None
):
    """As one does whose disk is nearly full, and which looks well from elsewhere."""
    patience = Patience("n0")
    pauses = []
    now_s = 0.0
    for _ in range(5):
        patience.look(FOLLOWS, now_s)
        now_s += 1
        pause_s = waits(patience, LEADS, now_s)
        now_s += pause_s
        pauses.append(pause_s)

    assert [SETTLE_S, 20, 80, 320, PAUSE_MAX_S] == pauses


def test_every_member_counts_how_often_the_preferred_one_fell_not_only_who_took_over() -> None:
    patience = Patience("n0")
    for start_s in (0, 10):
        patience.look(FOLLOWS, start_s)
        patience.look(Sight(leader="n2", leads=False, in_step=False), start_s + 5)

    assert 20 == waits(patience, LEADS, 30)


def test_an_election_that_the_preferred_member_wins_is_no_fall() -> None:
    patience = Patience("n0")
    for now_s in range(10):
        patience.look(FOLLOWS, now_s)
        patience.look(NOBODY, now_s + 0.5)
    patience.look(FOLLOWS, 10)

    assert SETTLE_S == waits(patience, LEADS, 11)


@pytest.mark.parametrize("led_s, pause_s", [(STEADY_S - 1, 80), (STEADY_S, SETTLE_S)])
def test_steady_leading_makes_the_past_forgotten(led_s, pause_s) -> None:
    patience = Patience("n0", disappointments=2)
    patience.look(FOLLOWS, 1000)

    assert pause_s == waits(patience, LEADS, 1000 + led_s)


# --- what one can see of the preferred member ----------------------------------------------------


@define
class Peer:
    peer: str = "n0"
    match: int = 1000
    ticks_since_contact: int = 5


@define
class Link:
    peer: str = "n0"
    connected: bool = True


@define
class RaftFigures:
    voters: tuple[str, ...] = ("n0", "n1", "n2")
    transferring_to: str | None = None
    commit_index: int = 1000
    peers: tuple[Peer, ...] = (Peer(peer="n2", match=0), Peer())


@define
class Figures:
    """The part of a ledger's statistics that is looked at."""

    raft: RaftFigures = field(factory=RaftFigures)
    links: tuple[Link, ...] = (Link(peer="n2", connected=False), Link())


def figures(*, links: Any = None, **raft: Any) -> LedgerStatistics:
    made: Any = Figures(raft=RaftFigures(**raft))
    if links is not None:
        made.links = links
    return made


@pytest.mark.parametrize(
    "seen, expected",
    [
        pytest.param(figures(), True, id="all is well"),
        pytest.param(figures(voters=("n1", "n2")), False, id="it has no vote"),
        pytest.param(figures(transferring_to="n2"), False, id="another transfer is under way"),
        pytest.param(figures(peers=()), False, id="this one has just ceased to lead"),
        pytest.param(figures(peers=(Peer(ticks_since_contact=25),)), True, id="heard of lately"),
        pytest.param(figures(peers=(Peer(ticks_since_contact=26),)), False, id="silent"),
        pytest.param(
            figures(commit_index=1000 + LAG_ENTRIES_MAX), True, id="as far behind as may be"
        ),
        pytest.param(figures(commit_index=1001 + LAG_ENTRIES_MAX), False, id="too far behind"),
        pytest.param(figures(links=(Link(connected=False),)), False, id="not connected"),
        pytest.param(figures(links=(Link(peer="n2"),)), False, id="only another is connected"),
    ],
)
def test_who_could_take_over_at_once(seen, expected) -> None:
    assert expected == in_step(seen, "n0", silence_ticks_max=25)


# --- the actor -----------------------------------------------------------------------------------


@define(eq=False)
class Member:
    """n1 under watch, which leads a group that prefers n0; transfers go as `outcomes` say."""

    outcomes: list[Exception | None]
    transfers: list[tuple[str, float]] = field(factory=list)
    view: RoleView = RoleView(role="leader", term=2, leader="n1", ready=True)
    actor: PreferredLeader = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.actor = PreferredLeader(
            group="broker-a",
            preferred="n0",
            view=lambda: self.view,
            statistics=figures,
            transfer=self._transfer,
            silence_ticks_max=25,
        )

    async def _transfer(self, to: str) -> None:
        self.transfers.append((to, trio.current_time()))
        outcome = self.outcomes.pop(0)
        if outcome is not None:
            raise outcome
        self.become("n0")

    def become(self, leader: str) -> None:
        role = "leader" if leader == "n1" else "follower"
        self.view = RoleView(
            role=role, term=self.view.term + 1, leader=leader, ready=leader == "n1"
        )
        self.actor.role_changed()

    async def lives(self, seconds: float) -> None:
        supervisor = Supervisor("test", (Child("preferred leader", lambda: self.actor),))
        with trio.move_on_after(seconds):
            await supervisor.serve()


async def test_leadership_is_handed_over_once_and_that_is_it(autojump_clock) -> None:
    member = Member([None])
    start_s = trio.current_time()
    await member.lives(3600)

    ((to, at_s),) = member.transfers
    assert "n0" == to
    assert BEGINNING_S <= at_s - start_s <= BEGINNING_S + 1


async def test_a_member_that_does_not_take_over_is_asked_less_and_less_often(
    autojump_clock,
) -> None:
    member = Member([TransferFailed("n0 did not take over in time")] * 100)
    await member.lives(3600)
    times = [at_s for _, at_s in member.transfers]
    pauses = [later - sooner for sooner, later in pairwise(times)]
    expected = [SETTLE_S, 20, 80, 320, *[PAUSE_MAX_S] * 5]

    assert len(expected) == len(pauses)
    assert all(wanted <= got <= wanted + 1 for wanted, got in zip(expected, pauses, strict=True))


async def test_leadership_that_is_lost_between_two_looks_counts(autojump_clock) -> None:
    member = Member([None, None, None])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(member.lives, 60)
        await trio.sleep(BEGINNING_S + 0.6)
        member.become("n1")  # n0 had it for a moment
        await trio.sleep(SETTLE_S + 1.1)
        member.become("n0")  # an operator, say: no look in between
        member.become("n1")

    first, second, third = (at_s for _, at_s in member.transfers)
    assert SETTLE_S <= second - first <= SETTLE_S + 2
    assert 20 <= third - second <= 28


# --- a real group --------------------------------------------------------------------------------


async def test_a_group_comes_to_be_led_by_the_member_it_prefers(tmp_path) -> None:
    async with brokers(tmp_path, 3, preferred_leader="n2") as group:
        await group.start()
        await group.wait_until(lambda: group.members["n2"].leads)
        watched = {name: member.broker.preferred for name, member in group.members.items()}

    assert watched["n2"] is None
    assert all(watched[name] is not None for name in ("n0", "n1"))


async def test_leadership_returns_to_the_preferred_member_after_it_was_away(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("broker.serving.preferred_leader.SETTLE_S", 0.5)
    async with brokers(tmp_path, 3, preferred_leader="n1") as group:
        await group.start()
        await group.wait_until(lambda: group.members["n1"].leads)
        await group.stop("n1")
        other = await group.wait_leader()
        await group.start("n1")
        await group.wait_until(lambda: group.members["n1"].leads)
        disappointments = other.broker.preferred.patience.disappointments

    assert "n1" != other.node
    assert 1 == disappointments


async def test_a_preferred_member_that_may_not_lead_does_not_stop_the_others(tmp_path) -> None:
    async with brokers(tmp_path, 3, preferred_leader="n1") as group:
        group.ledger_settings["election_timeout_ms"] = 400
        await group.start("n0", "n2")
        leader = await group.wait_leader()
        await group.start("n1")
        group.members["n1"].broker.ledger.set_electable(False)
        patience = leader.broker.preferred.patience
        while not patience.disappointments:
            await trio.lowlevel.checkpoint()
        async with dial(leader) as client:
            stored = await send(client, "orders")
        still = leader.leads

    assert 0 == stored.code
    assert still
