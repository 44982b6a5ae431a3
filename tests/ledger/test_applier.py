"""What is applied is what is committed, whatever was read with it."""

from __future__ import annotations

from types import SimpleNamespace

import trio

from dledger_py.ledger.applier import Applier
from dledger_py.ledger.log_tail import LogTail
from dledger_py.ledger.machine import Applied
from dledger_py.storage.formats import KIND_COMMAND


class Disk:
    """A log whose entries can be others by the time a read of them comes back."""

    def __init__(self, *payloads: bytes) -> None:
        self.first_index = 1
        self.payloads = list(payloads)

    def read(self, first_index: int, max_bytes: int) -> list[SimpleNamespace]:
        return [
            SimpleNamespace(index=i, term=1, kind=KIND_COMMAND, position=100 * i, payload=payload)
            for i, payload in enumerate(self.payloads, 1)
            if i >= first_index
        ]


async def test_an_uncommitted_end_that_is_replaced_while_it_is_read_is_not_applied() -> None:
    """A member that led restarts with entries nobody else has. It reads what is committed, and what
    follows with it; meanwhile the next leader puts others there, and has them committed."""
    disk = Disk(b"one", b"two", b"never committed", b"nor this")
    applied: list[bytes] = []
    reads = 0

    async def run_in_thread(read, *args: object, abandon_on_cancel: bool) -> object:
        nonlocal reads
        entries = read(*args)
        await trio.lowlevel.checkpoint()
        reads += 1
        if reads == 1:
            disk.payloads[2:] = [b"three", b"four"]
            applier.advance(4)
        return entries

    def apply(committed) -> Applied:
        applied.append(bytes(committed.payload))
        return Applied(reply=None, effects=())

    applier = Applier(
        SimpleNamespace(apply=apply),
        disk,
        LogTail(1, SimpleNamespace(durable_position=0)),
        perform=None,
        on_applied=lambda *_: None,
        on_slice=lambda: None,
        target=2,
        host=SimpleNamespace(monotonic_s=lambda: 0.0, run_in_thread=run_in_thread),
    )
    inbox = SimpleNamespace(ready=lambda: None, wait_closed=trio.sleep_forever)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(applier.run, inbox)
        with trio.fail_after(5):
            await applier.replayed.wait()
        nursery.cancel_scope.cancel()

    assert [b"one", b"two", b"three", b"four"] == applied
