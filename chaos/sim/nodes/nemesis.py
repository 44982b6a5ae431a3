"""Inflicts the faults of a plan, each at its time, and ends each when it is over."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable

import trio
from attrs import define, field

from chaos.sim.nodes.members import Member
from chaos.sim.nodes.plan import LEADER, Fault
from chaos.sim.nodes.scheduling import dice
from chaos.sim.nodes.world import World
from dledger_py.storage.formats import HEADER_BLOCK_BYTES, SEGMENT_SUFFIX, segment_start


@define(eq=False)
class Nemesis:
    """One run's. `counts` are the faults that did happen, by kind."""

    faults: tuple[Fault, ...]
    counts: dict[str, int] = field(factory=dict)

    async def inflict(self, world: World) -> None:
        """Start everything, and return when the last fault has begun."""
        for fault in self.faults:
            await trio.sleep_until(fault.at_s)
            member = world.leader() if fault.target == LEADER else world.members[fault.target]
            if member is None or not _possible(world, fault, member):
                continue
            other = world.members[fault.other]
            if other is member:
                other = next(each for each in world.members.values() if each is not member)
            world.story.add("!", f"{fault.kind} {member.name} {other.name} {fault.for_s:.2f}")
            self.counts[fault.kind] = self.counts.get(fault.kind, 0) + 1
            world.faults.start_soon(_HOW[fault.kind], world, fault, member, other)


def _possible(world: World, fault: Fault, member: Member) -> bool:
    """Whether there would be any use in it, and the group could still be expected to go on."""
    operator = world.operator
    match fault.kind:
        case "rot" | "rot while it runs":  # of a minority, also of those that have a vote just now
            whole = not operator.was_asked or operator.is_whole()
            one_to_spare = len(world.members) > 3 or whole
            return world.rotten in (None, member) and member.process is not None and one_to_spare
        case "empty":  # whoever was the only one to have something must not lose it
            return world.rotten is None and member.process is not None and operator.is_whole()
        case "send away":  # of three, one that may be mending itself leaves one
            return operator.is_whole() and (world.rotten is None or len(world.members) > 3)
        case "pause":
            process = member.process
            return process is not None and process.alive and not process.tasks.paused
        case "torn write":
            return member.alive
        case _:
            return True


async def _restart_later(world: World, fault: Fault, member: Member) -> None:
    await trio.sleep(fault.for_s)
    await world.restart(member)


async def _kill(world: World, fault: Fault, member: Member, other: Member) -> None:
    if member.process is not None:
        member.process.die()
    await _restart_later(world, fault, member)


async def _power_cut(world: World, fault: Fault, member: Member, other: Member) -> None:
    if member.process is not None:
        member.process.lose_power()
    await _restart_later(world, fault, member)


async def _torn_write(world: World, fault: Fault, member: Member, other: Member) -> None:
    """The power goes in the middle of one of the next writes."""
    process = member.process
    assert process is not None
    member.machine.disk.stop_after(int(fault.size))
    await trio.sleep(fault.for_s)
    if process.alive:
        process.lose_power()
    await _restart_later(world, fault, member)


async def _power_cut_of_all(world: World, fault: Fault, member: Member, other: Member) -> None:
    for each in world.members.values():
        if each.process is not None:
            each.process.lose_power()
    random = dice(world.seed, f"restart {fault.at_s}")
    for each in world.members.values():
        later = trio.current_time() + random.random() * fault.for_s
        world.faults.start_soon(_start_at, world, each, later)


async def _start_at(world: World, member: Member, at_s: float) -> None:
    await trio.sleep_until(at_s)
    await world.restart(member)


async def _stop(world: World, fault: Fault, member: Member, other: Member) -> None:
    """Politely, as SIGTERM does."""
    if member.process is not None:
        member.process.scope.cancel()
    await member.ended.wait()
    await _restart_later(world, fault, member)


async def _cut_off(world: World, fault: Fault, member: Member, other: Member) -> None:
    """From all other members, not from clients."""
    await _without(world, fault, _ways_of(world, member))


def _ways_of(world: World, member: Member) -> list[tuple[str, str]]:
    here = member.machine.address
    ways = []
    for each in world.members.values():
        if each is not member:
            ways += [(here, each.machine.address), (each.machine.address, here)]
    return ways


async def _restart_while_cut_off(world: World, fault: Fault, member: Member, other: Member) -> None:
    """So that it starts with what nobody else has, and nobody tells it so."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_without, world, fault, _ways_of(world, member))
        await trio.sleep(fault.for_s / 4)
        process = member.process
        if process is not None:
            if fault.size < 1:
                process.scope.cancel()
            else:
                process.lose_power()
        await member.ended.wait()
        await world.restart(member)


async def _cut(world: World, fault: Fault, member: Member, other: Member) -> None:
    here, there = member.machine.address, other.machine.address
    await _without(world, fault, [(here, there), (there, here)])


async def _cut_one_way(world: World, fault: Fault, member: Member, other: Member) -> None:
    await _without(world, fault, [(member.machine.address, other.machine.address)])


async def _without(world: World, fault: Fault, ways: list[tuple[str, str]]) -> None:
    for way in ways:
        world.network.cut(way)
    await trio.sleep(fault.for_s)
    for way in ways:
        world.network.mend(way)


async def _reset(world: World, fault: Fault, member: Member, other: Member) -> None:
    others = [other.machine, world.names_machine, *(each.machine for each in world.clients)]
    for each in others:
        world.network.break_connections(member.machine.address, each.address)


async def _slow_link(world: World, fault: Fault, member: Member, other: Member) -> None:
    here, there = member.machine.address, other.machine.address
    for way in ((here, there), (there, here)):
        world.network.slow_down(way, (fault.size / 4, fault.size))
    await trio.sleep(fault.for_s)
    for way in ((here, there), (there, here)):
        world.network.speed_up(way)


async def _pause(world: World, fault: Fault, member: Member, other: Member) -> None:
    process = member.process
    assert process is not None
    process.tasks.pause()
    await trio.sleep(fault.for_s)
    process.tasks.go_on()


async def _clock_jump(world: World, fault: Fault, member: Member, other: Member) -> None:
    member.machine.clock_off_s += fault.size


async def _full_disk(world: World, fault: Fault, member: Member, other: Member) -> None:
    disk = member.machine.disk
    disk.capacity_bytes = disk.used_bytes + int(fault.size)
    await trio.sleep(fault.for_s)
    disk.capacity_bytes = None
    await _restart_later(world, fault, member)


async def _write_error(world: World, fault: Fault, member: Member, other: Member) -> None:
    member.machine.disk.fail("pwrite", errno.EIO, after=int(fault.size))
    await trio.sleep(2.0)
    await _restart_later(world, fault, member)


async def _sync_error(world: World, fault: Fault, member: Member, other: Member) -> None:
    member.machine.disk.fail("fdatasync", errno.EIO, after=int(fault.size))
    await trio.sleep(2.0)
    await _restart_later(world, fault, member)


async def _slow_disk(world: World, fault: Fault, member: Member, other: Member) -> None:
    member.machine.disk_delay_s = fault.size
    await trio.sleep(fault.for_s)
    member.machine.disk_delay_s = 0.001


async def _rot(world: World, fault: Fault, member: Member, other: Member) -> None:
    """A bit of the log is another one, on one member of the group: only a minority may rot, and
    the rest of a run would be needed to tell when that one has mended it."""
    assert member.process is not None
    world.rotten = member
    member.process.die()
    _flip_a_bit(world, fault, member)
    await _restart_later(world, fault, member)


async def _rot_while_it_runs(world: World, fault: Fault, member: Member, other: Member) -> None:
    """The same, and it has to find out: by reading for others, or in the background. It ends then,
    and is started again."""
    world.rotten = member
    _flip_a_bit(world, fault, member)
    with trio.move_on_after(fault.for_s):
        await member.ended.wait()
    await world.restart(member)


def _flip_a_bit(world: World, fault: Fault, member: Member) -> None:
    disk, folder = member.machine.disk, str(member.config.data_dir)
    segments = [name for name in disk.list(folder) if name.endswith(SEGMENT_SUFFIX)]
    random = dice(world.seed, f"rot {fault.at_s}")
    if segments:
        path = f"{folder}/{random.choice(segments)}"
        content = disk.content(path)
        if len(content) > HEADER_BLOCK_BYTES:
            offset = random.randrange(HEADER_BLOCK_BYTES, len(content))
            bit = random.randrange(8)
            disk.flip_bit(path, offset, bit)
            start = segment_start(path.removeprefix(f"{folder}/"))
            assert start is not None
            good = content[offset]
            position = start + offset - HEADER_BLOCK_BYTES
            world.checks.rotted(member.name, position, good, good ^ 1 << bit)


async def _transfer(world: World, fault: Fault, member: Member, other: Member) -> None:
    await world.clients[0].transfer(member.name, other.name)


async def _send_away(world: World, fault: Fault, member: Member, other: Member) -> None:
    """The operator takes it out of the group, and back a while later."""
    away = world.operator.sent_away
    away[member.name] = None
    try:
        await trio.sleep(fault.for_s)
    finally:
        del away[member.name]


async def _empty(world: World, fault: Fault, member: Member, other: Member) -> None:
    """Its folder is lost. It comes back on an empty one, and is replaced."""
    assert member.process is not None
    world.rotten = member
    birth = world.operator.birth_of(member.name)
    while not member.ended.is_set():  # others may start it again meanwhile
        member.process.die()
        await member.ended.wait()
    world.empty(member)
    world.operator.lost[member.name] = birth
    await _restart_later(world, fault, member)


async def _name_server_kill(world: World, fault: Fault, member: Member, other: Member) -> None:
    world.kill_names()
    await trio.sleep(fault.for_s)
    world.start_names()


_HOW: dict[str, Callable[[World, Fault, Member, Member], Awaitable[None]]] = {
    "kill": _kill,
    "power cut": _power_cut,
    "torn write": _torn_write,
    "power cut of all": _power_cut_of_all,
    "stop": _stop,
    "cut off": _cut_off,
    "restart while cut off": _restart_while_cut_off,
    "cut": _cut,
    "cut one way": _cut_one_way,
    "reset": _reset,
    "slow link": _slow_link,
    "pause": _pause,
    "clock jump": _clock_jump,
    "full disk": _full_disk,
    "write error": _write_error,
    "sync error": _sync_error,
    "rot": _rot,
    "rot while it runs": _rot_while_it_runs,
    "slow disk": _slow_disk,
    "transfer": _transfer,
    "send away": _send_away,
    "empty": _empty,
    "name server kill": _name_server_kill,
}
