"""Members that do not belong together: what each of the two sides says of it."""

from __future__ import annotations

import pytest
import trio
from structlog.testing import capture_logs

from tests.ledger.test_group import commands, commit_all


def said(logs, event, **facts):
    """The events of this name that a human is to see."""
    return [
        each
        for each in logs
        if each["event"] == event
        and each["log_level"] == "warning"
        and all(each.get(name) == value for name, value in facts.items())
    ]


async def dialled(member, times):
    """Until the only link of this member has dialled that often."""
    while True:
        (link,) = member.ledger.parts.links.all()
        if link.statistics().dials >= times:
            return
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"cluster": "berlin"}, "'n1' is of cluster 'berlin', not of 'dledger'"),
        ({"group": "broker-b"}, "'n1' is of group 'broker-b', not of 'broker-a'"),
    ],
)
async def test_a_peer_that_belongs_elsewhere_is_refused_and_both_sides_say_why_once(
    open_group, other, reason
):
    async with open_group(2, redial_max_ms=50) as group:
        with capture_logs() as logs:
            await group.start("n0")
            await group.start("n1", **other)
            await dialled(group.members["n1"], times=4)

        (refused,) = said(logs, "peer.refused", reason=reason)
        assert refused["remote"].startswith("('127.0.0.1', ")
        (told,) = said(logs, "peer.dial_refused", peer="n0")
        assert {"reason": reason, "address": group.peers["n0"]}.items() <= told.items()
        assert not [each for each in logs if each["event"] == "peer.accepted"]
        assert "leader" not in {m.ledger.view.role for m in group.members.values()}


async def test_a_stranger_at_the_door_disturbs_nobody(open_group):
    async with open_group(3, redial_max_ms=50) as group:
        await group.start("n0", "n1")
        leader = await group.wait_leader()
        with capture_logs() as logs:
            await group.start("n2", cluster="berlin")
            while len(said(logs, "peer.dial_refused")) < 4:  # two ways, seen from either end
                await trio.lowlevel.checkpoint()
        await commit_all(leader, commands(5))

        assert leader is await group.wait_leader()
        assert [] == group.members["n2"].machine.commands
