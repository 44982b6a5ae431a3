"""Handing the log to a member that lost some of it, or fell behind all that is kept.

Laws:
- Only what is committed leaves, and only what is applied here counts as that: an entry that may
  still be overwritten must not become anybody's past. Whether this member leads does not matter.
- Bytes leave as they lie on the disk, unchecked: whoever asked must prove them by the chain of the
  entries, and would have to anyway.
- Serving comes first. All who fetch share one rate, reads happen in worker threads, one at a time
  for each connection, and not on the connection that carries Raft.

Elsewhere: the bytes of questions and answers (fetch_frames), admission by name (peer_link).
"""

from __future__ import annotations

from collections.abc import Callable

import structlog
import trio
from attrs import define, field, frozen
from crc32c import crc32c

from dledger_py.ledger.conversation import Conversation
from dledger_py.ledger.errors import FrameError
from dledger_py.ledger.fetch_frames import (
    PIECE_MAX_BYTES,
    Answer,
    DescribeLog,
    LogDescribed,
    LogRead,
    ReadLog,
    ReadSnapshot,
    Request,
    SnapshotRead,
    Unavailable,
    decode_request,
    encode_answer,
)
from dledger_py.ledger.peer_frames import Hello
from dledger_py.runtime.host import Host
from dledger_py.storage import Corrupt, Log, Snapshots
from dledger_py.storage.snapshots import NO_SNAPSHOT

log = structlog.get_logger()

FETCHERS_MAX = 2
"""Members that fetch at the same time. More would share the same rate, and hold memory for it."""

IDLE_S = 30.0
"""A fetcher that asks nothing for so long, or takes nothing, has gone."""


@frozen(kw_only=True)
class Reached:
    """The last entry applied, and the position behind it."""

    index: int
    term: int
    position: int


@frozen(kw_only=True)
class Holdings:
    """What a member could hand out. Read on the event loop, at each request."""

    log: Log
    snapshots: Snapshots | None
    applied: Callable[[], Reached]
    configuration_before: Callable[[int], tuple[int, bytes]]
    """(index, bytes) of the configuration in force behind an entry that is the log's start."""


@define(eq=False)
class Pace:
    """A rate that many share: each takes its turn on one line of time."""

    bytes_per_s: int
    _free_at: float = field(default=0.0, init=False)

    async def wait(self, size_bytes: int) -> None:
        """Wait until so many more bytes may leave."""
        begin = max(self._free_at, trio.current_time())
        self._free_at = begin + size_bytes / self.bytes_per_s
        await trio.sleep_until(begin)


@define(eq=False)
class FetchServer:
    """Answers all who fetch from this member."""

    _holdings: Holdings
    _pace: Pace
    _host: Host
    _fetchers: int = field(default=0, init=False)

    async def serve(self, hello: Hello, conversation: Conversation) -> None:
        """Answer until the other side closes. **Raises** FrameError to have it closed, OSError."""
        if self._fetchers >= FETCHERS_MAX:
            raise FrameError(f"{self._fetchers} members are fetching already")
        self._fetchers += 1
        log.info("fetch.began", peer=hello.sender)
        sent_bytes = 0
        try:
            while True:
                request = None
                with trio.move_on_after(IDLE_S):
                    request = await conversation.receive()
                if request is None:
                    break
                head, body = encode_answer(await self._answer(decode_request(*request)))
                await self._pace.wait(len(body))
                with trio.move_on_after(IDLE_S) as patience:
                    await conversation.send(head, body)
                if patience.cancelled_caught:
                    raise FrameError(f"{hello.sender!r} takes nothing")
                sent_bytes += len(body)
        finally:
            self._fetchers -= 1
            log.info("fetch.ended", peer=hello.sender, sent_bytes=sent_bytes)

    async def _answer(self, request: Request) -> Answer:
        applied = self._holdings.applied()
        try:
            return await self._host.run_in_thread(self._look_up, request, applied)
        except LookupError as error:
            return Unavailable(reason=str(error))
        except (Corrupt, OSError) as error:
            # Here is not where this is judged: whoever else reads it stops the member, or repairs
            # it. The other side asks somebody else.
            log.warning("fetch.read_failed", reason=str(error))
            return Unavailable(reason=f"unreadable: {error}")

    def _look_up(self, request: Request, applied: Reached) -> Answer:
        """Worker thread. **Raises** LookupError, Corrupt, OSError."""
        match request:
            case DescribeLog():
                return self._describe(applied)
            case ReadLog(position=position, max_bytes=max_bytes):
                size = min(max_bytes, PIECE_MAX_BYTES, applied.position - position)
                if size <= 0:
                    reason = f"position {position}: committed up to {applied.position} here"
                    return Unavailable(reason=reason)
                raw = self._holdings.log.read_bytes(position, size)
                return LogRead(position=position, raw=bytes(raw))
            case ReadSnapshot(index=index, offset=offset, max_bytes=max_bytes):
                return self._piece(index, offset, min(max_bytes, PIECE_MAX_BYTES))

    def _describe(self, applied: Reached) -> LogDescribed:
        snapshots = self._holdings.snapshots
        newest = snapshots.newest() if snapshots is not None else NO_SNAPSHOT
        start = self._holdings.log.start
        configuration_index, configuration = self._holdings.configuration_before(start.index)
        return LogDescribed(
            start_index=start.index,
            start_term=start.term,
            start_position=start.position,
            start_crc=start.crc,
            commit_index=max(applied.index, start.index),
            commit_term=applied.term if applied.index > start.index else start.term,
            commit_position=max(applied.position, start.position),
            snapshot_index=newest.place.index,
            snapshot_term=newest.place.term,
            snapshot_position=newest.place.position,
            snapshot_entry_crc=newest.place.crc,
            snapshot_bytes=newest.body_bytes,
            snapshot_crc=newest.body_crc,
            configuration_index=configuration_index,
            configuration=configuration,
        )

    def _piece(self, index: int, offset: int, max_bytes: int) -> Answer:
        snapshots = self._holdings.snapshots
        if snapshots is None:
            return Unavailable(reason="this member's machine has no snapshots")
        piece = snapshots.read_piece(index, offset, max_bytes)
        return SnapshotRead(index=index, offset=offset, crc=crc32c(piece), piece=piece)
