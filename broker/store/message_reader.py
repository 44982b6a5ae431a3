"""From consume-queue units to the records a consumer gets.

Laws: records leave whole and with the body that was stored, or not at all; at least one if one was
asked for; with their queue offset and physical offset filled in: in the log these two fields are
blank. Records near each other come by one read, and what lies between them is left out. Nothing is
remembered between calls, so a call that would block in the loop can be made again, unchanged, in a
worker thread.

Elsewhere: choosing units (`tag_filter`), finding them (`consume_queues`), parsing records
(`dledger_py.remoting.wire.message`).
"""

import struct
from collections.abc import Sequence
from typing import Final, Protocol

from attrs import define, frozen

from broker.formats import UNIT, UNIT_PLACE
from dledger_py.ledger.reopening import Reopen
from dledger_py.remoting.wire.message import body_is_intact, patch_offsets, store_timestamp_ms

MESSAGES_MAX: Final = 32  # per pull, as RocketMQ from memory
BYTES_MAX: Final = (
    256 * 1024
)  # per pull, as RocketMQ from memory; a larger first message goes alone

GAP_BYTES_MAX: Final = 8 * 1024  # reading so much in vain costs less than one more system call
READ_BYTES_MAX: Final = 2 * BYTES_MAX  # one read with its gaps; bounds what is copied in vain

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
        wanted, more_at = _within_limits(units, chosen, messages_max, bytes_max)
        parts: list[memoryview] = []
        for run in _runs(wanted):
            start = run[0][1]
            end = run[-1][1] + run[-1][2]
            buffer = self.log.read_bytes(start, end - start, nowait=nowait)
            view = memoryview(buffer)
            for number, position, size in run:
                at = position - start
                if _SIZE.unpack_from(buffer, at)[0] != size:
                    raise _mismatch(position, size, buffer, at)
                record = view[at : at + size]
                if not body_is_intact(record):
                    raise rotten(position)
                patch_offsets(buffer, at, first_offset + number, position)
                parts.append(record)
        return Fetched(
            body=b"".join(parts),
            messages=len(parts),
            next_offset=first_offset + more_at,
        )

    def stored_ms(self, position: int, *, nowait: bool = False) -> int:
        """When the record at this position was stored. **Blocks**, **Raises**: as `read`."""
        return store_timestamp_ms(self.log.read_bytes(position, _TIME_HEAD_BYTES, nowait=nowait))


Wanted = tuple[int, int, int]
"""(number of the unit, log position, size)."""


def _within_limits(
    units: bytes, chosen: Sequence[int], messages_max: int, bytes_max: int
) -> tuple[list[Wanted], int]:
    """What may be returned, and the number of the unit to go on with."""
    wanted: list[Wanted] = []
    total = 0
    for number in chosen:
        position, size = UNIT_PLACE.unpack_from(units, number * UNIT.size)
        total += size
        if wanted and (total > bytes_max or len(wanted) >= messages_max):
            return wanted, number
        wanted.append((number, position, size))
    return wanted, len(units) // UNIT.size


def _runs(wanted: list[Wanted]) -> list[list[Wanted]]:
    """Cut where two neighbours lie too far apart for one read."""
    runs: list[list[Wanted]] = []
    run_start = run_end = -READ_BYTES_MAX
    for one in wanted:
        _number, position, size = one
        near = 0 <= position - run_end <= GAP_BYTES_MAX
        if near and position + size - run_start <= READ_BYTES_MAX:
            runs[-1].append(one)
        else:
            runs.append([one])
            run_start = position
        run_end = position + size
    return runs


def rotten(position: int) -> Reopen:
    """The log is damaged, and nobody gets this message from here; opening it fetches what was."""
    return Reopen(f"log position {position}: the body of this message is not what was stored")


def _mismatch(position: int, size: int, buffer: bytearray, at: int) -> Reopen:
    """Either the log or its index is damaged; opening them mends the one and rebuilds the other."""
    (found,) = _SIZE.unpack_from(buffer, at)
    return Reopen(f"log position {position}: a record of {size} bytes expected, {found} found")
