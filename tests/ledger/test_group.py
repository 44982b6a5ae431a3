"""Three ledgers in one process, with the real core, storage, sockets and actors."""

from __future__ import annotations


async def test_a_group_elects_a_leader_and_applies_the_same_everywhere(open_group):
    async with open_group(3) as group:
        await group.start()
        leader = await group.wait_leader()
        replies = [await leader.ledger.commit(b"command %d" % number) for number in range(20)]
        await group.wait_applied(20)

        assert list(range(1, 21)) == replies
        first = group.members["n0"].machine
        for member in group.members.values():
            assert [b"command %d" % number for number in range(20)] == member.machine.commands
            assert first.positions == member.machine.positions
            assert first.performed == member.machine.performed
