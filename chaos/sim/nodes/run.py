"""Run one seed and say what came of it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import trio
from attrs import frozen

from chaos.sim.nodes import scheduling
from chaos.sim.nodes.folder import Folders
from chaos.sim.nodes.nemesis import Nemesis
from chaos.sim.nodes.plan import Fault, draw
from chaos.sim.nodes.story import Story, Violation
from chaos.sim.nodes.world import World


@frozen(kw_only=True)
class Result:
    """One run; `violation` is empty if everything held."""

    seed: int
    members: int
    trace: int
    simulated_s: float
    events: int
    frames: int
    elections: int
    starts: int
    fail_stops: int
    states_compared: int
    acknowledged: int
    committed_bytes: int
    carried_bytes: int
    faults: tuple[tuple[str, int], ...]
    violation: str
    story: str


def plan_of(seed: int, members: int, seconds: float) -> tuple[Fault, ...]:
    """The faults this seed means."""
    names = tuple(f"n{number}" for number in range(members))
    return draw(scheduling.dice(f"{seed}", f"plan of {members}"), names, seconds)


def run(seed: int, members: int, seconds: float, faults: tuple[Fault, ...] | None = None) -> Result:
    """Run one seed: `seconds` of faults, its own or those given, then healing and rest."""
    names = tuple(f"n{number}" for number in range(members))
    nemesis = Nemesis(plan_of(seed, members, seconds) if faults is None else faults)
    story = Story()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        story.folder = folder
        folders = Folders(Path(folder))
        with story.listening(), folders.watched():
            return scheduling.run(
                _run, seed, names, seconds, nemesis, story, folders, seed=f"{seed}/{members}"
            )


async def _run(
    agenda: scheduling.Agenda,
    seed: int,
    names: tuple[str, ...],
    seconds: float,
    nemesis: Nemesis,
    story: Story,
    folders: Folders,
) -> Result:
    violation = ""
    world = None
    try:
        async with trio.open_nursery() as nursery:
            world = World(agenda, f"{seed}/{len(names)}", names, folders, nursery, story)
            await world.run(nemesis.inflict, seconds)
            await world.close()
    except* Violation as broken:
        violation = str(broken.exceptions[0])
    assert world is not None
    if world.failure is not None:
        violation = str(world.failure)
    ended_s = trio.current_time()
    return Result(
        seed=seed,
        members=len(names),
        trace=story.trace ^ world.network.trace,
        simulated_s=ended_s,
        events=story.events,
        frames=world.checks.frames,
        elections=world.checks.elections,
        starts=world.starts,
        fail_stops=sum(member.fail_stops for member in world.members.values()),
        states_compared=world.checks.states_compared,
        acknowledged=len(world.recorder.acknowledged),
        committed_bytes=len(world.checks.committed),
        carried_bytes=world.network.bytes,
        faults=tuple(sorted(nemesis.counts.items())),
        violation=violation,
        story=story.tell() if violation else "",
    )
