"""Run seeds and say what came of them."""

from attrs import frozen

from chaos.sim.invariants import Violation
from chaos.sim.nemesis import Nemesis
from chaos.sim.world import World


@frozen(kw_only=True)
class Result:
    """One run; `violation` is empty if everything held, and then so is `story`."""

    seed: int
    profile: str
    members: int
    trace: int
    simulated_s: float
    events: int
    elections: int
    terms: int
    committed: int
    acknowledged: int
    reads: int
    reads_at_once: int
    """Of these, those that took no round: by lease, or of a group of one."""

    transfers: int
    changes: int
    drops: int
    installs: int
    faults: tuple[tuple[str, int], ...]
    """How often each kind struck."""

    violation: str
    story: str


def run(seed: int, profile: str, members: int, seconds: float) -> Result:
    """Run one seed: `seconds` of faults, then healing and rest."""
    world = World(seed=seed, profile=profile, members=members, seconds=seconds)
    Nemesis(world)
    violation = story = ""
    try:
        world.run()
    except Violation as broken:
        violation = str(broken)
        story = world.tell()
    return Result(
        seed=seed,
        profile=profile,
        members=members,
        trace=world.trace,
        simulated_s=world.now / 1_000_000,
        events=world.events,
        elections=world.elections,
        terms=max(node.core.term for node in world.nodes.values()),
        committed=len(world.checker.committed),
        acknowledged=len(world.acked),
        reads=world.reads_passed,
        reads_at_once=world.reads_at_once,
        transfers=world.transfers_done,
        changes=world.changes_done,
        drops=world.retention.drops,
        installs=world.retention.installs,
        faults=tuple(world.faults.items()),
        violation=violation,
        story=story,
    )
