"""While this member leads: writes down what members say of themselves, and makes learners voters.

One change at a time, like every change; what is refused now is tried again in a moment. A learner
becomes a voter once its folder is written down (see members) and it has caught up, unless it is to
stay one. The first time, all founders are written down together; who is not there within
`FOUNDERS_S` follows later.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Never

import structlog
import trio
from attrs import define, field

from dledger_py.actors import Inbox
from dledger_py.ledger.details import decode, encode
from dledger_py.ledger.errors import LedgerError
from dledger_py.ledger.machine import RoleView
from dledger_py.ledger.members import Members
from dledger_py.raft.vocabulary import Change, Describe, NodeId, Promote

log = structlog.get_logger()

LOOK_S: Final = 0.1
"""How often learners are looked at, and what was refused is tried again."""

_NEVER: Final = float("inf")

FOUNDERS_S: Final = 5.0
"""How long a first leader waits for the founders to say hello."""


@define(eq=False)
class MemberKeeper:
    """Actor: see above."""

    members: Members
    view: Callable[[], RoleView]
    change: Callable[[Change], Awaitable[None]]
    """**Raises** LedgerError."""
    has_caught_up: Callable[[str], bool]
    _news: trio.Event = field(factory=trio.Event, init=False)
    _leads_since: float = field(default=_NEVER, init=False)

    def look(self) -> None:
        """Something changed: a role, the configuration, what a member says."""
        self._news.set()

    async def run(self, inbox: Inbox[Never]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep)
            inbox.ready()
            await inbox.wait_closed()
            nursery.cancel_scope.cancel()

    async def _keep(self) -> None:
        while True:
            self._news = trio.Event()
            leads = self.view().ready
            self._leads_since = min(self._leads_since, trio.current_time()) if leads else _NEVER
            change = self._next_change() if leads else None
            if change is None:
                with trio.move_on_after(LOOK_S if leads and self._waits() else _NEVER):
                    await self._news.wait()
                continue
            try:
                await self.change(change)
            except LedgerError as error:
                log.debug("members.not_changed", reason=str(error), **_told(change))
                await trio.sleep(LOOK_S)
            else:
                log.info("members.changed", **_told(change))

    def _waits(self) -> bool:
        """Whether something may be due without any news."""
        members = self.members
        return bool(members.learners) or bool(members.undescribed())

    def _may_describe(self) -> bool:
        members = self.members
        patience_ends = self._leads_since + FOUNDERS_S
        return members.settled or members.all_heard or trio.current_time() >= patience_ends

    def _next_change(self) -> Describe | Promote | None:
        if self.members.changing:
            return None
        told = self.members.undescribed()
        if told and self._may_describe():
            return Describe(details=tuple((node, encode(details)) for node, details in told))
        for name in self.members.learners:
            known = self.members.birth_of(name) and not self.members.stays_learner(name)
            if known and self.has_caught_up(name):
                return Promote(node=NodeId(name))
        return None


def _told(change: Describe | Promote) -> dict[str, object]:
    """A change for a log line."""
    if isinstance(change, Promote):
        return {"promoted": change.node}
    return {"described": {node: decode(raw).address for node, raw in change.details}}
