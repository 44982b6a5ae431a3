"""What goes wrong in a run, how often: the knobs, and the profiles that draw them.

*swarm* draws every knob anew for every seed, many of them off: a fault that is always on hides
what happens without it. *hell* aims: tiny windows, a leader killed within a few round trips of
its election, messages late by several election timeouts, slow disks. Random faults alone miss
much of what the aimed ones find within minutes.
*cut* flaps links and leaves leaders alive: the cut-off one does not know of its successor yet, and
candidates are stranded in terms nobody else has heard of.
*change* is one of the others, while leadership is handed over and members come and go.
*retain* is one of the others, *change* included, while logs lose their beginning, members are away
for long, and get copies of the others' logs.
*lease* has readers trust clocks that go at different rates, while leaders are cut off, handed over,
and stand still.
"""

from collections.abc import Callable
from random import Random

from attrs import evolve, frozen

from dledger_py.raft.config import SLACK_TICKS

ELECTION_TIMEOUT_US = 500_000
HEARTBEATS = 5
"""In an election timeout."""

PROFILES = ("swarm", "hell", "cut", "change", "retain", "lease")


@frozen(kw_only=True)
class Knobs:
    """One run's settings. Times are simulated microseconds, rates are per simulated second."""

    faulty_us: int
    """How long faults go on; afterwards the world is healed and must come to rest."""

    loss: float
    repeat: float
    delay_us: int
    """Typical one-way delay; each message takes half to one and a half of it, so messages
    overtake each other.
    """

    late: float
    late_us: int
    """With probability `late` a message takes up to `late_us`."""

    crash_rate: float
    down_us: int
    assassin: float
    """Probability that a new leader is killed within a few round trips."""

    partition_rate: float
    partition_us: int
    one_way: float
    """Which part of the partitions blocks one direction only."""

    unreachable: float
    """Probability that a crash or partition is reported as `PeerUnreachable`, and a tenth of it
    for false reports.
    """

    skew: float
    """Clocks tick up to this factor faster or slower."""

    sync_us: int
    sync_stall: float
    """Probability that one flush takes up to two election timeouts."""

    unelectable_rate: float
    propose_rate: float
    burst_max: int
    payload_bytes_max: int
    read_rate: float
    append_entries_max: int
    append_bytes_max: int
    window_messages: int
    window_bytes: int
    tail_bytes_max: int
    uncommitted_bytes_max: int
    transfer_rate: float = 0.0
    change_rate: float = 0.0
    spares: int = 0
    """Nodes that are no members at first."""

    retention_rate: float = 0.0
    """How often somebody decides that logs may begin later."""

    election_timeout_ticks: int = 10
    """Few ticks make fast runs. Leases need more of them: they are rounded down."""

    lease_ticks: int = 0
    stall_rate: float = 0.0
    """How often somebody stands still for a while: nothing is heard, and no tick comes."""

    ambush_rate: float = 0.0
    """How often a leader is cut off in the very moment in which others find a reason to elect."""

    @property
    def tick_us(self) -> int:
        """How long a tick is by a clock that goes right."""
        return ELECTION_TIMEOUT_US // self.election_timeout_ticks

    @property
    def heartbeat_ticks(self) -> int:
        return self.election_timeout_ticks // HEARTBEATS


def draw(profile: str, random: Random, seconds: float) -> Knobs:
    """Draw the knobs of a run of `profile`."""
    return _DRAWN[profile](random, round(seconds * 1_000_000))


def _swarm(random: Random, faulty_us: int) -> Knobs:
    def sometimes(value: float) -> float:
        return value if random.random() < 0.6 else 0.0

    return Knobs(
        faulty_us=faulty_us,
        loss=sometimes(random.choice((0.01, 0.05, 0.2, 0.3))),
        repeat=sometimes(random.choice((0.02, 0.1, 0.3))),
        delay_us=random.choice((300, 2_000, 10_000, 40_000)),
        late=sometimes(random.choice((0.01, 0.05))),
        late_us=random.choice((100_000, 1_000_000, 3_000_000)),
        crash_rate=sometimes(random.choice((0.05, 0.2, 0.6))),
        down_us=random.choice((100_000, 1_000_000, 5_000_000)),
        assassin=sometimes(0.3),
        partition_rate=sometimes(random.choice((0.1, 0.3, 0.8))),
        partition_us=random.choice((300_000, 1_500_000, 5_000_000)),
        one_way=random.choice((0.0, 0.3, 1.0)),
        unreachable=random.choice((0.0, 0.5, 1.0)),
        skew=random.choice((1.0, 1.1, 2.0)),
        sync_us=random.choice((150, 2_000, 20_000)),
        sync_stall=sometimes(0.02),
        unelectable_rate=sometimes(0.1),
        propose_rate=random.choice((2.0, 10.0, 40.0)),
        burst_max=random.choice((1, 5, 20)),
        payload_bytes_max=random.choice((8, 100, 400)),
        read_rate=random.choice((0.0, 2.0, 10.0)),
        append_entries_max=random.choice((2, 16, 512)),
        append_bytes_max=random.choice((100, 1_000, 1 << 20)),
        window_messages=random.choice((1, 4, 64)),
        window_bytes=random.choice((200, 4_000, 8 << 20)),
        tail_bytes_max=random.choice((0, 1_000, 1 << 20)),
        uncommitted_bytes_max=random.choice((2_000, 64 << 20)),
    )


def _hell(random: Random, faulty_us: int) -> Knobs:
    delay_us = random.choice((1_000, 10_000, 50_000, 150_000))
    return Knobs(
        faulty_us=faulty_us,
        loss=random.choice((0.0, 0.02, 0.1)),
        repeat=random.choice((0.0, 0.05, 0.3)),
        delay_us=delay_us,
        late=random.choice((0.02, 0.1, 0.2)),
        late_us=random.choice((2, 4, 8)) * ELECTION_TIMEOUT_US,
        crash_rate=random.choice((0.2, 0.5, 1.0)),
        down_us=random.choice((50_000, 400_000, 1_500_000)),
        assassin=random.choice((0.0, 0.5, 0.9)),
        partition_rate=random.choice((0.2, 0.6, 1.2)),
        partition_us=random.choice((200_000, 800_000, 2_000_000)),
        one_way=random.choice((0.2, 0.5)),
        unreachable=random.choice((0.0, 1.0)),
        skew=random.choice((1.0, 1.5)),
        sync_us=random.choice((100, 5_000, 60_000, 200_000)),
        sync_stall=random.choice((0.0, 0.05)),
        unelectable_rate=random.choice((0.0, 0.1)),
        propose_rate=random.choice((10.0, 30.0)),
        burst_max=random.choice((1, 4)),
        payload_bytes_max=16,
        read_rate=random.choice((2.0, 20.0)),
        append_entries_max=random.choice((1, 2)),
        append_bytes_max=random.choice((32, 1_000)),
        window_messages=random.choice((1, 2, 3)),
        window_bytes=random.choice((64, 10_000)),
        tail_bytes_max=random.choice((0, 300, 1 << 20)),
        uncommitted_bytes_max=random.choice((1_500, 64 << 20)),
    )


def _cut(random: Random, faulty_us: int) -> Knobs:
    return Knobs(
        faulty_us=faulty_us,
        loss=0.0,
        repeat=0.0,
        delay_us=random.choice((1_000, 20_000, 60_000)),
        late=random.choice((0.0, 0.02)),
        late_us=2 * ELECTION_TIMEOUT_US,
        crash_rate=random.choice((0.0, 0.3)),
        down_us=300_000,
        assassin=0.0,
        partition_rate=random.choice((1.0, 3.0)),
        partition_us=random.choice((100_000, 500_000, 1_000_000)),
        one_way=random.choice((0.0, 0.5)),
        unreachable=random.choice((0.3, 1.0)),
        skew=random.choice((1.0, 1.3)),
        sync_us=random.choice((150, 2_000, 20_000)),
        sync_stall=0.0,
        unelectable_rate=0.0,
        propose_rate=30.0,
        burst_max=2,
        payload_bytes_max=16,
        read_rate=30.0,
        append_entries_max=random.choice((2, 512)),
        append_bytes_max=1_000,
        window_messages=random.choice((2, 64)),
        window_bytes=10_000,
        tail_bytes_max=random.choice((300, 1 << 20)),
        uncommitted_bytes_max=64 << 20,
    )


def _change(random: Random, faulty_us: int) -> Knobs:
    around = random.choice((_swarm, _hell, _cut))(random, faulty_us)
    return evolve(
        around,
        transfer_rate=random.choice((0.0, 0.3, 1.0)),
        change_rate=random.choice((0.5, 2.0, 5.0)),
        spares=2,
    )


def _retain(random: Random, faulty_us: int) -> Knobs:
    around = random.choice((_swarm, _hell, _cut, _change, _change))(random, faulty_us)
    return evolve(
        around,
        retention_rate=random.choice((0.3, 1.0, 3.0)),
        down_us=random.choice((300_000, 2_000_000, 6_000_000)),
        partition_us=random.choice((500_000, 2_000_000, 5_000_000)),
        crash_rate=max(around.crash_rate, random.choice((0.0, 0.2))),
        partition_rate=max(around.partition_rate, 0.2),
        late=max(around.late, random.choice((0.0, 0.1))),
        late_us=max(around.late_us, 4 * ELECTION_TIMEOUT_US),
    )


def _lease(random: Random, faulty_us: int) -> Knobs:
    around = random.choice((_swarm, _hell, _cut, _cut, _change))(random, faulty_us)
    return evolve(
        around,
        election_timeout_ticks=50,
        lease_ticks=50 // 2 - SLACK_TICKS,
        # Two clocks then differ by a factor of less than two.
        skew=random.choice((1.0, 1.2, 1.4)),
        stall_rate=random.choice((0.0, 0.3, 1.0)),
        ambush_rate=random.choice((0.0, 0.3, 1.0)),
        transfer_rate=random.choice((0.0, 0.3)),
        read_rate=random.choice((20.0, 50.0)),
        propose_rate=max(around.propose_rate, 10.0),
    )


_DRAWN: dict[str, Callable[[Random, int], Knobs]] = {
    "swarm": _swarm,
    "hell": _hell,
    "cut": _cut,
    "change": _change,
    "retain": _retain,
    "lease": _lease,
}


def healed(knobs: Knobs) -> Knobs:
    """The same world once nothing goes wrong any more."""
    return evolve(
        knobs,
        transfer_rate=0.0,
        change_rate=0.0,
        retention_rate=0.0,
        stall_rate=0.0,
        ambush_rate=0.0,
        loss=0.0,
        repeat=0.0,
        delay_us=500,
        late=0.0,
        crash_rate=0.0,
        assassin=0.0,
        partition_rate=0.0,
        unreachable=0.0,
        skew=1.0,
        sync_us=150,
        sync_stall=0.0,
        unelectable_rate=0.0,
    )
