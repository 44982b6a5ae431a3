"""Reads old entries for followers that are far behind, one request at a time, off the loop."""

from __future__ import annotations

from collections.abc import Callable

from dledger_py.actors import Inbox
from dledger_py.ledger.reopening import stop_for
from dledger_py.raft.vocabulary import EntriesRead, Entry, Index, ReadEntries
from dledger_py.runtime.host import Host
from dledger_py.storage import Corrupt, Log


class EntryReader:
    """Actor: answers `ReadEntries` with `EntriesRead` and the entries' bytes.

    One thread for all followers: the disk has one head to be fair with, and catching up must not
    take the processor from the live stream.
    """

    def __init__(self, log: Log, answer: Callable[[EntriesRead, bytes], None], host: Host) -> None:
        self._log = log
        self._run_in_thread = host.run_in_thread
        self._answer = answer

    async def run(self, inbox: Inbox[ReadEntries]) -> None:
        """**Raises** FailStop when the log cannot be read."""
        async for request in inbox:
            try:
                entries, body = await self._run_in_thread(
                    self._read, request.first, request.max_bytes, abandon_on_cancel=True
                )
            except (Corrupt, OSError) as error:
                story = f"reading the log for {request.peer} failed: {error}"
                raise stop_for(error, story) from error
            self._answer(EntriesRead(peer=request.peer, first=request.first, entries=entries), body)

    def _read(self, first: Index, max_bytes: int) -> tuple[tuple[Entry, ...], bytes]:
        try:
            stored = self._log.read(first, max_bytes)
        except LookupError:
            return (), b""  # cut since it was asked for; the core will not want it any more
        entries = tuple(
            Entry(index=each.index, term=each.term, kind=each.kind, payload=each.payload)
            for each in stored
        )
        return entries, b"".join([each.raw for each in stored])
