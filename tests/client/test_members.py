"""Which member of a group is asked."""

import anyio
import pytest
from trio.testing import MockClock

from dledger_py.client.members import AVOID_S, STALE_S, Members
from dledger_py.client.route_tables import BrokerGroup

GROUP = BrokerGroup("broker-a", {0: "h:0", 2: "h:2", 3: "h:3"})


async def test_the_leader_is_asked_first() -> None:
    assert Members().address(GROUP) == "h:0"


async def test_without_a_leader_any_member_is_asked() -> None:
    assert Members().address(BrokerGroup("broker-a", {2: "h:2", 3: "h:3"})) == "h:2"


async def test_after_each_failure_the_next_member_is_asked() -> None:
    members = Members()
    asked = []
    for _ in range(4):
        asked.append(members.address(GROUP))
        members.failed(GROUP, asked[-1])

    assert asked == ["h:0", "h:2", "h:3", "h:0"]


async def test_those_who_failed_together_move_on_together() -> None:
    members = Members()
    for _ in range(5):
        members.failed(GROUP, "h:0")

    assert members.address(GROUP) == "h:2"


async def test_a_new_leader_is_asked_whoever_failed_before() -> None:
    members = Members()
    members.failed(GROUP, "h:0")
    members.failed(GROUP, "h:2")

    assert members.address(BrokerGroup("broker-a", {0: "h:3", 1: "h:0", 2: "h:2"})) == "h:3"


async def test_a_deposed_leader_is_passed_over_while_nobody_leads() -> None:
    """Its broker id is the lowest now, so it is the first of the members."""
    members = Members()
    leaderless = BrokerGroup("broker-a", {1: "h:0", 2: "h:2", 3: "h:3"})
    members.failed(GROUP, "h:0")

    assert members.address(leaderless) == "h:2"
    members.failed(leaderless, "h:2")
    assert members.address(leaderless) == "h:3"


async def test_a_route_that_may_be_older_than_the_failure_is_no_news(
    autojump_clock: MockClock,
) -> None:
    """The client knew of no leader; the one it is told of is the one that just failed."""
    members = Members()
    leaderless = BrokerGroup("broker-a", {1: "h:0", 2: "h:2", 3: "h:3"})
    members.failed(leaderless, "h:0")
    assert members.address(GROUP) == "h:2"

    await anyio.sleep(STALE_S)

    assert members.address(GROUP) == "h:0"


async def test_the_leader_is_tried_again_after_a_while(autojump_clock: MockClock) -> None:
    members = Members()
    members.failed(GROUP, "h:0")
    await anyio.sleep(AVOID_S - 0.1)
    assert members.address(GROUP) == "h:2"

    await anyio.sleep(0.2)

    assert members.address(GROUP) == "h:0"


@pytest.mark.parametrize("address", ["h:2", "elsewhere:1"])
async def test_the_failure_of_one_who_was_not_asked_changes_nothing(address: str) -> None:
    members = Members()
    members.failed(GROUP, address)

    assert members.address(GROUP) == "h:0"
