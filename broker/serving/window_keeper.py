"""Who leads knows the newest messages of the log; who does not lead need not.

Only the leader is asked whether a message came before. So the window is kept there alone, and a
member that becomes the leader reads the end of its log before it serves anybody: some tenths of a
second once in a change of leaders, against some microseconds for each message on every member.

Laws
- All that was applied when the term began is looked back at, as far as it counts; all that is
  applied since is put in as it comes. Both begin in one step of the event loop.
- Until both are in one window the member is not ready, and requests wait for it.
- What was read for a term that is over is thrown away.
- How old a message is, the time tells that passed here since it was stored, or since the term began
  if that was later: clocks may differ between leaders, and be set. Where the log ended is noted
  down a few times, and what stood there at the first of these times is too old at the last.

Elsewhere: what is in the window (`broker.store.put_window`), who asks it (`duplicates`).
"""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Never

import structlog
import trio
from attrs import define, field

from broker.store.put_window import PutWindow
from dledger_py.actors import Inbox
from dledger_py.ledger.ledger import Ledger
from dledger_py.ledger.log_commands import payloads_between
from dledger_py.ledger.machine import RoleView
from dledger_py.ledger.reopening import stop_for
from dledger_py.runtime.host import Host
from dledger_py.storage import Corrupt

log = structlog.get_logger()

NOTES = 8
"""Of where the log ended, in the time that a message counts."""

LOOK_S = 0.005
"""How often is looked whether what was applied is in the files: it nearly always is."""


@define(eq=False, kw_only=True)
class WindowKeeper:
    """Actor: begins and ends the window with this member's leadership, and fills it."""

    window: PutWindow
    age_max_ms: int
    """So long after it was stored a message is found for certain, and an eighth longer at most, as
    long as the same member leads."""
    ledger: Ledger
    host: Host
    filled: Callable[[], None]
    """The window has become complete: tell everybody that waits for a leader."""
    full: bool = field(default=False, init=False)
    """Whether the window is complete; only on a leader."""
    _term: int | None = field(default=None, init=False)
    """The one in which this member leads."""
    _last_index: int = field(default=0, init=False)
    """Up to this entry has to be looked back; and the log position behind it."""
    _end_position: int = field(default=0, init=False)
    _wanted: trio.Event = field(factory=trio.Event, init=False)
    _ends: deque[int] = field(factory=lambda: deque(maxlen=NOTES + 1), init=False)
    """Where the log ended, in this term."""

    def role_changed(self, view: RoleView) -> None:
        """Called before anybody else hears of it."""
        term = view.term if view.role == "leader" else None
        if term == self._term:
            return
        self._term, self.full = term, False
        self._ends.clear()
        if term is None:
            self.window.end()
            return
        self._last_index = self.ledger.applied_index
        self._end_position = self.ledger.committed_position
        self.window.begin()
        self._wanted.set()

    async def run(self, inbox: Inbox[Never]) -> None:
        """**Raises** FailStop, where reading finds damage."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._fill_when_wanted)
            nursery.start_soon(self._forget)
            inbox.ready()
            await inbox.wait_closed()
            nursery.cancel_scope.cancel()

    async def _fill_when_wanted(self) -> None:
        while True:
            while self._term is not None and not self.full:
                await self._fill(self._term)
            self._wanted = trio.Event()
            await self._wanted.wait()

    async def _forget(self) -> None:
        while True:
            await trio.sleep(self.age_max_ms / 1000 / NOTES)
            self._ends.append(self.ledger.committed_position)
            if self.window.kept and len(self._ends) > NOTES:
                self.window.oldest_position = self._ends[0]

    async def _fill(self, term: int) -> None:
        of, last_index, end_position = self.ledger.log, self._last_index, self._end_position
        while of.readable_position < end_position:  # noqa: ASYNC110 - as `durable_index` elsewhere
            await trio.sleep(LOOK_S)
        older = PutWindow(self.window.count)
        look_back = partial(
            older.look_back,
            of.first_index,
            last_index,
            partial(payloads_between, of),
            self.age_max_ms,
        )
        began_s = trio.current_time()
        try:
            await self.host.run_in_thread(look_back, abandon_on_cancel=True)
        except (Corrupt, OSError) as error:
            raise stop_for(error, f"the log cannot be read: {error}") from error
        if term != self._term:
            return
        log.info(
            "broker.put_window_filled",
            term=term,
            index=last_index,
            messages=len(older),
            took_s=round(trio.current_time() - began_s, 3),
        )
        self.window.put_behind(older)
        self.full = True
        self.filled()
