"""Which messages are old enough to go: decided by the leader, carried out by all alike.

From time to time the leader looks how far back its log reaches. What is older than
`retention_hours`, or makes the log longer than `retention_bytes`, may go, in whole files of its
log. The decision is an entry of the log like any other (`TrimLog`): it says where each queue begins
then, and each member lets go of the entries as soon as a snapshot can do without them
(`Ledger.trim`).

Laws:
- Never past what a member still needs, without saying so: a voter or learner that is behind holds
  the log back, by at most `HELD_BYTES_MAX`; beyond that it is passed over, which is logged. It gets
  a copy of the log and the state instead, once it is back.
- Never past a message that waits for its time: it is moved on at least twice a day, so it does not
  hold the log back for longer than that. Nor past a half message whose transaction has not ended:
  it ends at the latest at an age that is a setting. Nor past a message that was popped and is in
  flight: its copy is made when its time is over.
- Times are those that the entries were stamped with, so a clock that jumps forward now takes
  nothing away that was stored with the right time.

Elsewhere: what is read back from there (pulling), dropping files (the ledger).
"""

from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final, Never, Protocol

import structlog
import trio
from attrs import define, field, frozen

from broker.machine.codec import decode_command, encode_command, first_record_at
from broker.machine.commands import QueueStart, TrimLog
from dledger_py.actors import Inbox
from dledger_py.ledger.errors import LedgerError
from dledger_py.ledger.reopening import stop_for
from dledger_py.storage import Corrupt
from dledger_py.storage.formats import KIND_COMMAND, End

log = structlog.get_logger()

LOOK_S: Final = 10.0
"""Between two looks (RocketMQ: 10 s)."""

HELD_BYTES_MAX: Final = 1 << 30
"""How much longer than wanted the log may get for a member that is behind."""

QUEUES_MAX: Final = 1000
"""Named by one command; looking them up and applying them holds the loop for some ms."""

FIRST_MESSAGE_WITHIN_BYTES: Final = 64 * 1024
"""How far behind the log's beginning its oldest message is looked for: topics come first."""

STAMP_WITHIN_BYTES: Final = 256 * 1024
"""How far behind a boundary a stamped entry is looked for: entries without are rare."""


class Entries(Protocol):
    """The entries of a log."""

    def read(self, first_index: int, max_bytes: int) -> tuple[Any, ...]: ...


class Boundaries(Entries, Protocol):
    """What is wanted of the log: where it could begin instead, and its entries there."""

    @property
    def boundaries(self) -> tuple[End, ...]: ...
    @property
    def start(self) -> End: ...
    @property
    def end_position(self) -> int: ...


@frozen(kw_only=True)
class Wish:
    """What shall stay. 0 of either: no limit."""

    age_ms: int
    bytes: int


def choose(
    boundaries: tuple[End, ...], end_position: int, stamps: dict[int, int], wish: Wish, now_ms: int
) -> End | None:
    """The furthest boundary that all before may go up to; None if nothing may.

    `stamps` says by index when the first entry behind a boundary was stamped, as far as that was
    looked up: all before it are older.
    """
    chosen = None
    for boundary in boundaries:
        too_long = wish.bytes > 0 and end_position - boundary.position >= wish.bytes
        stamp_ms = stamps.get(boundary.index)
        too_old = wish.age_ms > 0 and stamp_ms is not None and now_ms - stamp_ms >= wish.age_ms
        if too_long or too_old:
            chosen = boundary
    return chosen


def held_back(boundaries: tuple[End, ...], chosen: End, needed_index: int) -> End | None:
    """The furthest boundary up to `chosen` before which nobody needs anything; None if there is
    none. `needed_index` is the last entry that the member which is furthest behind has."""
    fitting = [b for b in boundaries if b.index <= min(chosen.index, needed_index)]
    return fitting[-1] if fitting else None


@define(eq=False, kw_only=True)
class Retention:
    """Actor: looks, while this member leads, and proposes."""

    wish: Wish
    log: Callable[[], Boundaries]
    leads: Callable[[], bool]
    behind: Callable[[], tuple[str, int]]
    """The other member that is furthest behind, and the last entry it has; itself if alone."""
    queues: Callable[[], tuple[tuple[str, int], ...]]
    min_offset: Callable[[str, int], int]
    held: Callable[[], int | None]
    """The log position of the first message that is still to be moved, or that is half, or in
    flight; None if there is none."""
    first_at: Callable[[str, int, int], int]
    commit: Callable[[bytes], Awaitable[Any]]
    run_in_thread: Callable[..., Awaitable[Any]]
    now_ms: Callable[[], int]
    _stamps: dict[int, int] = field(factory=dict, init=False)

    async def run(self, inbox: Inbox[Never]) -> None:
        """**Raises** FailStop if the log cannot be read."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look_from_time_to_time)
            inbox.ready()
            await inbox.wait_closed()
            nursery.cancel_scope.cancel()

    async def _look_from_time_to_time(self) -> None:
        while True:
            await trio.sleep(LOOK_S)
            if self.leads():
                await self.look()

    async def look(self) -> None:
        """Let go of what may go, if there is any."""
        of = self.log()
        boundaries = of.boundaries
        await self._look_up_stamps(of, boundaries)
        chosen = choose(boundaries, of.end_position, self._stamps, self.wish, self.now_ms())
        if chosen is not None:
            chosen = self._keep_what_waits(boundaries, chosen)
        if chosen is not None:
            chosen = self._spare(of, boundaries, chosen)
        if chosen is None:
            return
        try:
            for command in self._commands(chosen):
                await trio.lowlevel.checkpoint()
                await self.commit(encode_command(command))
        except LedgerError as error:
            log.info("retention.put_off", reason=str(error))  # the next look tries again
        else:
            log.info("retention.trimmed", index=chosen.index, position=chosen.position)

    async def _look_up_stamps(self, of: Boundaries, boundaries: tuple[End, ...]) -> None:
        if not self.wish.age_ms:
            return
        known = self._stamps
        self._stamps = {b.index: known[b.index] for b in boundaries if b.index in known}
        for boundary in boundaries:
            if boundary.index in known:
                continue
            stamp_ms = await self.run_in_thread(stamp_behind, of, boundary.index)
            if stamp_ms is None:
                return  # the log ends there; the rest is younger still
            self._stamps[boundary.index] = stamp_ms
            if self.now_ms() - stamp_ms < self.wish.age_ms:
                return

    def _keep_what_waits(self, boundaries: tuple[End, ...], chosen: End) -> End | None:
        held = self.held()
        if held is None or held >= chosen.position:
            return chosen
        log.info("retention.waits_for_messages", needs_from=held)
        fitting = [boundary for boundary in boundaries if boundary.position <= held]
        return fitting[-1] if fitting else None

    def _spare(self, of: Boundaries, boundaries: tuple[End, ...], chosen: End) -> End | None:
        name, needed_index = self.behind()
        if needed_index >= chosen.index:
            return chosen
        if chosen.position - of.start.position > HELD_BYTES_MAX:
            log.warning("retention.passed_a_member", member=name, needs_from=needed_index + 1)
            return chosen
        log.info("retention.waits_for_a_member", member=name, needs_from=needed_index + 1)
        return held_back(boundaries, chosen, needed_index)

    def _commands(self, chosen: End) -> Iterator[TrimLog]:
        """The last of them lets go of the entries."""
        starts: list[QueueStart] = []
        for topic, queue_id in self.queues():
            first = self.first_at(topic, queue_id, chosen.position)
            if first > self.min_offset(topic, queue_id):
                starts.append((topic, queue_id, first))
            if len(starts) == QUEUES_MAX:
                yield self._command(0, chosen, starts)
                starts = []
        yield self._command(chosen.index, chosen, starts)

    def _command(self, index: int, chosen: End, starts: list[QueueStart]) -> TrimLog:
        return TrimLog(
            stamped_ms=self.now_ms(),
            index=index,
            position=chosen.position,
            queues=tuple(starts),
        )


def stamp_behind(of: Entries, index: int) -> int | None:
    """When the first stamped entry behind this one was; None if there is none nearby. Blocks.
    **Raises** FailStop."""
    for entry in _read(of, index + 1, STAMP_WITHIN_BYTES):
        if entry.kind == KIND_COMMAND:
            return decode_command(entry.payload).stamped_ms
    return None


def first_message(of: Entries, first_index: int) -> int | None:
    """The log position of the oldest message, looked for near the log's beginning. Blocks.
    **Raises** FailStop."""
    for entry in _read(of, first_index, FIRST_MESSAGE_WITHIN_BYTES):
        if entry.kind == KIND_COMMAND and (at := first_record_at(entry.payload)) is not None:
            return int(entry.payload_position + at)
    return None


def _read(of: Entries, first_index: int, max_bytes: int) -> tuple[Any, ...]:
    """Nothing if this entry is not there."""
    try:
        return of.read(first_index, max_bytes)
    except LookupError:
        return ()
    except (Corrupt, OSError) as error:
        raise stop_for(error, f"the log cannot be read: {error}") from error
