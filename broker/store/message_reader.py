"""From consume-queue units to the records a consumer gets.

Laws: records leave whole and with the body that was stored, or not at all; at least one if one was
asked for; with their queue offset and physical offset filled in: in the log these two fields are
blank. Records near each other come by one read, and what lies between them is left out. Nothing is
remembered between calls, so a call that would block in the loop can be made again, unchanged, in a
worker thread.

Elsewhere: choosing units (`tag_filter`), finding them (`consume_queues`), parsing records
(`dledger_py.remoting.wire.message`), what makes properties match (`broker.filters`).
"""

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, Protocol

from attrs import define, frozen

from broker.formats import UNIT, UNIT_PLACE
from dledger_py.ledger.reopening import Reopen
from dledger_py.remoting.wire import properties
from dledger_py.remoting.wire.message import (
    is_intact,
    patch_offsets,
    properties_of,
    store_timestamp_ms,
)

MESSAGES_MAX: Final = 256  # per pull, if the client asks for so many; RocketMQ stops at 32
BYTES_MAX: Final = (
    256 * 1024
)  # per pull, as RocketMQ from memory; a larger first message goes alone

GAP_BYTES_MAX: Final = 8 * 1024  # reading so much in vain costs less than one more system call
READ_BYTES_MAX: Final = 2 * BYTES_MAX  # one read with its gaps; bounds what is copied in vain
SELECT_UNITS: Final = 64  # looked at before more is read: what one answer usually needs
SELECT_BYTES_MAX: Final = 4 * BYTES_MAX  # of records looked at for one pull; 1 ms of checking them

_SIZE = struct.Struct(">i")
_TIME_HEAD_BYTES: Final = 76  # up to the end of the store timestamp behind an IPv6 born host


class LogReader(Protocol):
    """What is wanted of the log."""

    def read_bytes(self, position: int, length: int, *, nowait: bool = False) -> bytearray:
        """Raw bytes, the caller's own. With `nowait`: `BlockingIOError` rather than wait."""
        ...


@frozen(kw_only=True)
class Fetched:
    """Records in the order of their offsets, one after the other."""

    body: bytes
    messages: int
    next_offset: int
    """Where to go on: behind the last unit that was looked at."""


@define(eq=False)
class MessageReader:
    """Reads records of one log."""

    log: LogReader

    def read(
        self,
        units: bytes,
        first_offset: int,
        chosen: Sequence[int],
        *,
        messages_max: int = MESSAGES_MAX,
        bytes_max: int = BYTES_MAX,
        nowait: bool = False,
    ) -> Fetched:
        """The records of the chosen units (numbers within `units`), as far as the limits allow.

        **Blocks** unless `nowait`, which raises `BlockingIOError` where it would have to: then call
        again without it in a worker thread. **Raises** `Reopen` if the index does not fit the
        log, or a body is not what was stored.
        """
        runs, more_at = _runs(units, chosen, messages_max, bytes_max)
        parts: list[bytearray | memoryview] = []
        messages = 0
        for run in runs:
            start = run[0][1]
            end = run[-1][1] + run[-1][2]
            buffer = self.log.read_bytes(start, end - start, nowait=nowait)
            view = memoryview(buffer)
            of_records = 0
            for number, position, size in run:
                at = position - start
                if not is_intact(view, at, size):
                    raise _damaged(position, size, buffer, at)
                patch_offsets(buffer, at, first_offset + number, position)
                of_records += size
            messages += len(run)
            if of_records == end - start:
                parts.append(buffer)
            else:
                parts += [view[p - start : p - start + size] for _, p, size in run]
        return Fetched(
            body=bytes(parts[0]) if len(parts) == 1 else b"".join(parts),
            messages=messages,
            next_offset=first_offset + more_at,
        )

    def select(
        self,
        units: bytes,
        first_offset: int,
        matches: Callable[[Mapping[str, str]], bool],
        *,
        messages_max: int = MESSAGES_MAX,
        bytes_max: int = BYTES_MAX,
        is_enough: Callable[[], bool] = lambda: False,
        nowait: bool = False,
    ) -> Fetched:
        """The records whose properties match, out of all these units, as far as the limits allow.

        Looks at `SELECT_BYTES_MAX` of records, and no further once `is_enough`; at one record
        always. A record that is damaged is never passed over: what it says does not count.
        **Blocks**, **Raises**: as `read`.
        """
        parts: list[memoryview] = []
        total = 0
        following = 0
        for run in _all_runs(units):
            start = run[0][1]
            buffer = self.log.read_bytes(start, run[-1][1] + run[-1][2] - start, nowait=nowait)
            view = memoryview(buffer)
            for number, position, size in run:
                at = position - start
                if not is_intact(view, at, size):
                    raise _damaged(position, size, buffer, at)
                if matches(properties.decode(properties_of(view, at, size))):
                    total += size
                    if parts and total > bytes_max:
                        return _fetched(parts, first_offset + number)
                    patch_offsets(buffer, at, first_offset + number, position)
                    parts.append(view[at : at + size])
                following = number + 1
                if len(parts) >= messages_max or is_enough():
                    return _fetched(parts, first_offset + following)
        return _fetched(parts, first_offset + following)

    def stored_ms(self, position: int, *, nowait: bool = False) -> int:
        """When the record at this position was stored. **Blocks**, **Raises**: as `read`."""
        return store_timestamp_ms(self.log.read_bytes(position, _TIME_HEAD_BYTES, nowait=nowait))


def _fetched(parts: Sequence[memoryview], next_offset: int) -> Fetched:
    return Fetched(body=b"".join(parts), messages=len(parts), next_offset=next_offset)


Wanted = tuple[int, int, int]
"""(number of the unit, log position, size)."""


def _runs(
    units: bytes, chosen: Sequence[int], messages_max: int, bytes_max: int
) -> tuple[list[list[Wanted]], int]:
    """What may be returned, cut where two neighbours lie too far apart for one read; and the number
    of the unit to go on with."""
    runs: list[list[Wanted]] = []
    run: list[Wanted] = []
    run_start = run_end = -READ_BYTES_MAX
    total = 0
    place, unit_size = UNIT_PLACE.unpack_from, UNIT.size
    for number in chosen:
        position, size = place(units, number * unit_size)
        total += size
        if runs and (total > bytes_max or messages_max <= 0):
            return runs, number
        messages_max -= 1
        ends = position + size
        if 0 <= position - run_end <= GAP_BYTES_MAX and ends - run_start <= READ_BYTES_MAX:
            run.append((number, position, size))
        else:
            run = [(number, position, size)]
            runs.append(run)
            run_start = position
        run_end = ends
    return runs, len(units) // unit_size


def _all_runs(units: bytes) -> Iterator[list[Wanted]]:
    """The same for all units, a few at a time, up to `SELECT_BYTES_MAX` of records.

    Whoever chooses among them often has enough after the first few.
    """
    count = len(units) // UNIT.size
    left = SELECT_BYTES_MAX
    for first in range(0, count, SELECT_UNITS):
        upto = min(first + SELECT_UNITS, count)
        runs, more_at = _runs(units, range(first, upto), SELECT_UNITS, left)
        yield from runs
        left -= sum(size for run in runs for _, _, size in run)
        if more_at < upto or left <= 0:
            return


def rotten(position: int) -> Reopen:
    """The log is damaged, and nobody gets this message from here; opening it fetches what was."""
    return Reopen(f"log position {position}: the body of this message is not what was stored")


def _damaged(position: int, size: int, buffer: bytearray, at: int) -> Reopen:
    """Either the log or its index is; opening them mends the one and rebuilds the other."""
    (found,) = _SIZE.unpack_from(buffer, at)
    if found == size:
        return rotten(position)
    return Reopen(f"log position {position}: a record of {size} bytes expected, {found} found")
