"""Gives leadership to the member that should have it, once that is safe, and without flapping.

Where a process has members of several groups, each group has its preferred leader, so that the
work is spread again after a node was away. This member, if it leads and is not the preferred one,
hands over when the preferred one

    is a voter, is heard of, and its log is close behind the commit index;
    and that has been so, and this member has led, for a pause without a break.

The pause is short in a group that has just begun, and `SETTLE_S` after the preferred member has
lost leadership. It is four times as long after each hand-over that failed or did not last: a
member with a bad disk, which still looks well from here, is given up on for longer and longer.
Only when it has led for `STEADY_S` is that forgotten. (DLedger lacks the pause: there a member
that cannot lead and is preferred takes leadership again and again, issue 287.)

That a member may not lead (its disk is nearly full) is not visible from here: it does not take
over, the hand-over fails, and writes have waited for an election timeout. Hence a long pause.

`Patience` decides, without a clock of its own; `PreferredLeader` looks and acts.
"""

from collections.abc import Awaitable, Callable
from typing import Final, Never

import structlog
import trio
from attrs import define, field, frozen

from dledger_py.actors import Inbox
from dledger_py.ledger.errors import LedgerError
from dledger_py.ledger.ledger import LedgerStatistics
from dledger_py.ledger.machine import RoleView

log = structlog.get_logger()

LOOK_S: Final = 0.5
"""Between two looks."""

BEGINNING_S: Final = 1.0
"""Pause where the preferred member has never led: nothing speaks against it."""

SETTLE_S: Final = 5.0
"""Pause after the preferred member has lost leadership once: longer than a few elections."""

PAUSE_FACTOR: Final = 4
"""For each further disappointment: after five of them the pause is the longest."""

FACTORS_MAX: Final = 5
"""Enough for the longest pause; more would only make large numbers."""

PAUSE_MAX_S: Final = 600.0
"""A hand-over that fails stops writes for an election timeout; not more often than this."""

STEADY_S: Final = 600.0
"""Of leading, after which the preferred member's past is forgotten."""

LAG_ENTRIES_MAX: Final = 256
"""Behind the commit index; a hand-over begins with sending these."""


@frozen(kw_only=True)
class Sight:
    """The group at one moment, as this member sees it."""

    leader: str | None
    leads: bool
    """This member leads, and is ready."""
    in_step: bool
    """The preferred member could take over at once, as far as one can tell from here."""


@define(eq=False)
class Patience:
    """When to hand over. Told what is seen, and when; decides nothing else."""

    preferred: str
    disappointments: int = 0
    _leader: str | None = None
    _leader_since: float = 0.0
    _well_since: float | None = None

    @property
    def pause_s(self) -> float:
        """How long all must be well before a hand-over."""
        if not self.disappointments:
            return BEGINNING_S
        factor: int = PAUSE_FACTOR ** min(self.disappointments - 1, FACTORS_MAX)
        return min(SETTLE_S * factor, PAUSE_MAX_S)

    def look(self, sight: Sight, now_s: float) -> bool:
        """Whether to hand over now. To be called at each change of role, and in between."""
        self._follow(sight.leader, now_s)
        if not (sight.leads and sight.in_step):
            self._well_since = None
            return False
        if self._well_since is None:
            self._well_since = now_s
        return now_s - self._well_since >= self.pause_s

    def failed(self) -> None:
        """The preferred member did not take over."""
        self.disappointments += 1
        self._well_since = None

    def _follow(self, leader: str | None, now_s: float) -> None:
        if leader is None or leader == self._leader:
            return  # while nobody leads, nobody has taken leadership from anybody
        if self._leader == self.preferred:
            if now_s - self._leader_since >= STEADY_S:
                self.disappointments = 0
            self.disappointments += 1
        self._leader = leader
        self._leader_since = now_s


def in_step(statistics: LedgerStatistics, preferred: str, *, silence_ticks_max: int) -> bool:
    """Whether this member, which leads, hears the preferred one and has it close behind."""
    raft = statistics.raft
    if preferred not in raft.voters or raft.transferring_to is not None:
        return False
    connected = any(link.peer == preferred and link.connected for link in statistics.links)
    return connected and any(
        peer.peer == preferred
        and peer.ticks_since_contact <= silence_ticks_max
        and peer.match >= raft.commit_index - LAG_ENTRIES_MAX
        for peer in raft.peers
    )


@define(eq=False, kw_only=True)
class PreferredLeader:
    """Actor: watches over a group whose preferred leader is another member."""

    group: str
    preferred: str
    view: Callable[[], RoleView]
    statistics: Callable[[], LedgerStatistics | None]
    transfer: Callable[[str], Awaitable[None]]
    silence_ticks_max: int
    patience: Patience = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.patience = Patience(self.preferred)

    def role_changed(self) -> None:
        """Leaders may change more often than this actor looks."""
        self.patience.look(self._sight(), trio.current_time())

    async def run(self, inbox: Inbox[Never]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            inbox.ready()
            await inbox.wait_closed()
            nursery.cancel_scope.cancel()

    async def _watch(self) -> None:
        while True:
            await trio.sleep(LOOK_S)
            if self.patience.look(self._sight(), trio.current_time()):
                await self._hand_over()

    async def _hand_over(self) -> None:
        try:
            await self.transfer(self.preferred)
        except LedgerError as error:
            self.patience.failed()
            log.warning(
                "leadership.not_handed_over",
                group=self.group,
                preferred=self.preferred,
                reason=str(error),
                next_try_s=self.patience.pause_s,
            )
        else:
            log.info("leadership.handed_over", group=self.group, to=self.preferred)

    def _sight(self) -> Sight:
        view = self.view()
        leads = view.role == "leader" and view.ready
        statistics = self.statistics() if leads else None
        return Sight(
            leader=view.leader,
            leads=leads,
            in_step=statistics is not None
            and in_step(statistics, self.preferred, silence_ticks_max=self.silence_ticks_max),
        )
