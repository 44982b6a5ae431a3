"""Commands of a log, read again from the disk."""

from __future__ import annotations

from collections.abc import Iterator

from dledger_py.ledger.machine import Committed
from dledger_py.storage import Log
from dledger_py.storage.formats import KIND_COMMAND

READ_BYTES = 1 << 20


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
