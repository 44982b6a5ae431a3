"""Which member of a broker group to talk to.

The leader, as the route says.  After a failure the next member: followers forward writes and
serve reads, and one of them is the next leader.  The choice is forgotten when the route of the
group changes, or after `STAY_S`, so that a forwarded hop does not last for ever.
"""

from collections.abc import Mapping

import anyio
from attrs import frozen

from dledger_py.client.route_tables import BrokerGroup

STAY_S = 10.0
"""How long another member is preferred: longer than an election, shorter than a refresh."""


@frozen
class _Detour:
    address: str
    members: Mapping[int, str]
    until: float


class Members:
    """The preferred address of each broker group."""

    def __init__(self) -> None:
        self._detours: dict[str, _Detour] = {}

    def address(self, group: BrokerGroup) -> str:
        """Where to send the next request for *group*."""
        if self._detours:
            detour = self._detours.get(group.name)
            if detour is not None:
                if detour.members == group.members and anyio.current_time() < detour.until:
                    return detour.address
                del self._detours[group.name]
        return group.leader or group.addresses[0]

    def failed(self, group: BrokerGroup, address: str) -> None:
        """*address* did not serve; prefer the member after it."""
        if self.address(group) != address:
            return  # somebody else has moved on already
        ring = group.addresses
        at = ring.index(address) if address in ring else -1
        self._detours[group.name] = _Detour(
            ring[(at + 1) % len(ring)], group.members, anyio.current_time() + STAY_S
        )
