"""Which member of a broker group to talk to.

The leader, as the route says.  After a failure the next member: followers forward writes and
serve reads, and one of them is the next leader.  A member that failed is passed over until the
route names another leader, or for `AVOID_S`, so that a forwarded hop does not last for ever.  A
route without a leader makes nobody forget: the member that was just deposed is often its first.
Nor does one that names the very member that failed a moment ago: it may be older than the failure.
"""

import anyio
from attrs import define, field

from dledger_py.client.route_tables import BrokerGroup

AVOID_S = 10.0
"""How long a member that failed is passed over: longer than an election, shorter than a refresh."""

STALE_S = 1.0
"""For how long a route may show what was before: members register when they see a change."""


@define
class _Avoided:
    """Who failed in one group, the oldest failure first, and who led then."""

    leader: str | None
    until: dict[str, float] = field(factory=dict)


class Members:
    """The preferred address of each broker group."""

    def __init__(self) -> None:
        self._avoided: dict[str, _Avoided] = {}

    def address(self, group: BrokerGroup) -> str:
        """Where to send the next request for *group*."""
        if self._avoided:
            avoided = self._avoided_now(group)
            if avoided is not None:
                return self._best(group, avoided)
        return group.leader or group.addresses[0]

    def failed(self, group: BrokerGroup, address: str) -> None:
        """*address* did not serve; prefer the member after it."""
        if self.address(group) != address:
            return  # somebody else has moved on already
        avoided = self._avoided.setdefault(group.name, _Avoided(group.leader))
        avoided.until.pop(address, None)
        avoided.until[address] = anyio.current_time() + AVOID_S

    def _avoided_now(self, group: BrokerGroup) -> _Avoided | None:
        """Who is passed over; forgets what time or a new leader has settled."""
        avoided = self._avoided.get(group.name)
        if avoided is None:
            return None
        now = anyio.current_time()
        for address in [each for each, until in avoided.until.items() if until <= now]:
            del avoided.until[address]
        if group.leader is None or group.leader == avoided.leader:
            avoided.leader = group.leader
        elif avoided.until.get(group.leader, now) - AVOID_S + STALE_S <= now:
            avoided.until.clear()  # it was elected, and has not failed since
        if not avoided.until:
            del self._avoided[group.name]
            return None
        return avoided

    def _best(self, group: BrokerGroup, avoided: _Avoided) -> str:
        ring = group.addresses
        for address in ring:
            if address not in avoided.until:
                return address
        return next((each for each in avoided.until if each in ring), ring[0])
