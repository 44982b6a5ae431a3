"""Commands of a log, read again from the disk."""

from __future__ import annotations

from collections.abc import Iterator

from dledger_py.ledger.machine import Committed
from dledger_py.storage import Log
from dledger_py.storage.formats import ENTRY_HEADER_BYTES, KIND_COMMAND

READ_BYTES = 1 << 20

Payload = tuple[bytearray, int, int, int]
"""A buffer, where in it a command's payload begins and ends, and the log position of its byte 0."""


def commands_between(of: Log, first_index: int, last_index: int) -> Iterator[Committed]:
    """Those from one entry up to another; both are committed, and in the files. Any thread.
    **Blocks.**

    **Raises** LookupError for what the log has not, or not any more; Corrupt, OSError.
    """
    index = first_index
    while index <= last_index:
        entries = of.read(index, READ_BYTES)
        if not entries:
            raise LookupError(f"entry {index} is not written yet")
        for entry in entries:
            index = entry.index + 1
            if index <= last_index + 1 and entry.kind == KIND_COMMAND:
                yield Committed(
                    index=entry.index,
                    term=entry.term,
                    position=entry.payload_position,
                    payload=entry.payload,
                )


def payloads_between(of: Log, first_index: int, last_index: int) -> Iterator[Payload]:
    """The same, for who goes through many small ones and has no time."""
    index = first_index
    while index <= last_index:
        run = of.read_run(index, READ_BYTES)
        if not run.entries:
            raise LookupError(f"entry {index} is not written yet")
        data = run.data
        behind = run.position + ENTRY_HEADER_BYTES
        for index, _term, kind, start, stop in run.entries:
            if index > last_index:
                return
            if kind == KIND_COMMAND:
                yield data, start + ENTRY_HEADER_BYTES, stop, behind + start
        index += 1
