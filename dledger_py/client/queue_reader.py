"""Reading one queue that was assigned to this consumer: from where, how fast, how far.

The laws.

* The start is the group's committed offset; without one, what `from_` says.  It is asked for once
  per assignment, and reading does not begin before it is known.
* At most `IN_HAND_MAX` messages or `IN_HAND_BYTES_MAX` bytes wait to be settled, and never more
  than `SPAN_MAX` offsets lie behind the oldest of them: that much is repeated after a crash.
* Tags are compared as strings again: a broker compares hashes, which may collide.
* Broadcasting, nothing is committed: the start is what `from_` says, or where the reader before
  this one stopped in the same member.
* A reader that was stopped never delivers, settles or commits again.
* In order (with `locks`), nothing is read, handed out, settled or committed while the queue is not
  owned.  When it is again, reading begins at what is committed, after what is in a user's hands has
  been settled.  A reader that retires hands out nothing new, and still settles.
"""

import logging
import random
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

import anyio

from dledger_py.client import retry
from dledger_py.client.asking import Asker
from dledger_py.client.connection import Reply
from dledger_py.client.errors import (
    ClientClosed,
    ClientError,
    ConsumerFailed,
    ResponseError,
    subscription_refused,
)
from dledger_py.client.messages import Message, Settlement, as_message
from dledger_py.client.progress import Progress
from dledger_py.client.pull import (
    HELD_SLACK_S,
    PULL_CODES,
    as_timestamp_ms,
    pull_request,
    records,
)
from dledger_py.client.queue_locks import QueueLocks
from dledger_py.client.queues import Queue
from dledger_py.client.subscriptions import RETRY_PREFIX, From, Manner, Subscription
from dledger_py.remoting.commands.offsets import (
    GetMaxOffset,
    GetMinOffset,
    OffsetReply,
    QueryConsumerOffset,
    SearchOffset,
    UpdateConsumerOffset,
)
from dledger_py.remoting.commands.pulling import PullReply
from dledger_py.remoting.wire.codes import ResponseCode
from dledger_py.remoting.wire.schema import Request

logger = logging.getLogger(__name__)

IN_HAND_MAX = 1000
"""Unsettled messages of one queue; Java's limit."""

IN_HAND_BYTES_MAX = 32 * 1024 * 1024
"""Unsettled bytes of one queue; Java allows 100 MiB."""

SPAN_MAX = 2000
"""Offsets between the oldest unsettled message and the reading position; Java's limit."""

PULL_MESSAGES = 256
"""Messages asked for at once.  Apache's brokers give 32; ours, as many as fit 256 KiB."""

PULL_WAIT_S = 15.0
"""How long the broker may hold a pull that finds nothing; Java's value."""

OFFSET_TIMEOUT_S = 5.0
"""How long one try at finding the start, or at committing, may take."""

UNHELD_PAUSE_S = 0.05
"""The pause after "nothing new" that came at once: a broker that does not hold pulls would
otherwise be asked thousands of times a second."""

LAGGING_PAUSE_S = 0.2
"""How long a member that lags behind is given to catch up before it is asked again."""

LOCKED_PAUSE_S = 1.0
"""The pause before a queue that another member owns is asked for again; Java's rebalancing does
it this often until all is settled."""

# Not registered yet: the heartbeat is on its way, or the broker has restarted.
_UNREGISTERED = frozenset(
    {
        ResponseCode.SUBSCRIPTION_NOT_EXIST,
        ResponseCode.SUBSCRIPTION_NOT_LATEST,
        ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST,
    }
)


class Deliver(Settlement, Protocol):
    """The consumer a reader works for."""

    def deliver(self, reader: "QueueReader", messages: Sequence[Message]) -> None: ...
    def forget(self, reader: "QueueReader") -> None: ...
    async def wait_settled(self, reader: "QueueReader") -> None: ...
    def fail(self, error: ConsumerFailed) -> None: ...


class QueueReader:
    """One queue, while it is assigned to this consumer."""

    def __init__(
        self,
        queue: Queue,
        group: str,
        subscription: Subscription,
        manner: Manner,
        asker: Asker,
        consumer: Deliver,
        on_unregistered: Callable[[], None],
        locks: QueueLocks | None = None,
        resume_at: int | None = None,
    ) -> None:
        self.queue = queue
        self.stopped = False
        self.retiring = False
        self._locks = locks
        self._group = group
        self._subscription = subscription
        self._from = manner.from_
        self._broadcast = manner.broadcast
        self._resume_at = resume_at
        self._asker = asker
        self._consumer = consumer
        self._on_unregistered = on_unregistered
        self._progress: Progress | None = None
        self._held: dict[int, Message] = {}
        self._held_bytes = 0
        self._committed: int | None = None
        self._room = anyio.Event()
        self._scope = anyio.CancelScope()
        self._pulling = anyio.CancelScope()
        self._seek_to: int | None = None

    # --- settling --------------------------------------------------------------------------------

    def settle(self, message: Message) -> bool:
        """*message* is done with; False, and nothing happens, if it is not in hand any more."""
        if not self._forget(message):
            return False
        assert self._progress is not None
        self._progress.settle(message.queue_offset)
        self._room.set()
        return True

    def replace(self, message: Message, again: Message) -> bool:
        """*message* becomes *again*, its next delivery; False if it is not in hand any more."""
        if self.retiring or not self.holds(message):
            return False
        self._held[message.queue_offset] = again
        return True

    def holds(self, message: Message) -> bool:
        """Whether *message* is in hand, and still this member's business."""
        return (
            not self.stopped
            and self._held.get(message.queue_offset) is message
            and (self._locks is None or self._locks.owns(self.queue))
        )

    def delivers(self, message: Message) -> bool:
        """Whether *message* is to be handed out."""
        return (
            not self.retiring
            and not self.stopped
            and self._held.get(message.queue_offset) is message
            and (self._locks is None or self._locks.owns(self.queue))
        )

    def _forget(self, message: Message) -> bool:
        if not self.holds(message):
            return False
        del self._held[message.queue_offset]
        self._held_bytes -= len(message.stored_body)
        return True

    def seek(self, offset: int) -> None:
        """Go on at *offset*.  What was read and is not settled is forgotten."""
        self._held.clear()
        self._held_bytes = 0
        self._progress = None
        self._seek_to = offset
        self._pulling.cancel()

    # --- reading ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Read until `stop`."""
        with self._scope:
            failures = 0
            while not self.stopped:
                try:
                    if self._locks is not None and not self._locks.owns(self.queue):
                        await self._own(self._locks)
                    if self._progress is None and self._seek_to is None:
                        start = await self._start_offset()
                        logger.info("%s reads %s from %d", self._group, self.queue, start)
                        self._progress = Progress(start)
                    if self._seek_to is not None:
                        await self._start_over()
                        self._progress, self._seek_to = Progress(self._seek_to), None
                    with anyio.CancelScope() as self._pulling:
                        await self._read()
                    failures = 0
                except ClientClosed:
                    return
                except ConsumerFailed as error:
                    self._consumer.fail(error)
                    return
                except ClientError as error:
                    failures += 1
                    await self._after_failure(error, failures)

    async def _own(self, locks: QueueLocks) -> None:
        """Wait until the queue is this member's alone."""
        self._progress = None
        await self._start_over()
        while not await locks.acquire(self.queue):
            logger.debug("%s waits for %s: another member owns it", self._group, self.queue)
            await anyio.sleep(LOCKED_PAUSE_S)

    async def _start_over(self) -> None:
        """What was read and is not settled is not this reader's business any more."""
        self._held.clear()
        self._held_bytes = 0
        if self._locks is not None:  # two messages of a queue are never out together
            await self._consumer.wait_settled(self)
            self._consumer.forget(self)

    async def _after_failure(self, error: ClientError, failures: int) -> None:
        if isinstance(error, ResponseError) and error.code in _UNREGISTERED:
            self._on_unregistered()
        level = logging.WARNING if failures == 3 else logging.DEBUG
        logger.log(level, "%s cannot be read at the moment: %s", self.queue, error)
        await anyio.sleep(retry.CONSUME_BACK_OFF.pause_s(failures, random.random()))

    async def _read(self) -> None:
        progress = self._progress
        assert progress is not None
        await self._wait_room(progress)
        await self._pull(progress)

    async def _wait_room(self, progress: Progress) -> None:
        while (
            progress.in_hand >= IN_HAND_MAX
            or progress.span >= SPAN_MAX
            or self._held_bytes >= IN_HAND_BYTES_MAX
        ):
            self._room = anyio.Event()
            await self._room.wait()

    async def _pull(self, progress: Progress) -> None:
        request = pull_request(
            self.queue,
            progress.next_offset,
            group=self._group,
            max_messages=min(PULL_MESSAGES, IN_HAND_MAX - progress.in_hand),
            wanted=self._subscription.selection,
            wait_s=PULL_WAIT_S,
        )
        asked_at = anyio.current_time()
        try:
            timeout_s = PULL_WAIT_S + HELD_SLACK_S
            reply = await self._asker.once(self.queue, request, timeout_s, PULL_CODES)
        except ResponseError as error:
            if error.code == ResponseCode.SUBSCRIPTION_PARSE_FAILED:
                raise subscription_refused(self._subscription.expression, error) from error
            raise
        match reply.code:
            case ResponseCode.SUCCESS:
                self._take(progress, reply)
            case ResponseCode.PULL_OFFSET_MOVED:
                await self._move(progress, reply.header)
            case _:
                self._go_on(progress, reply.header.next_begin_offset)
                if anyio.current_time() - asked_at < UNHELD_PAUSE_S:
                    await anyio.sleep(UNHELD_PAUSE_S)

    def _take(self, progress: Progress, reply: Reply[PullReply]) -> None:
        found = [
            as_message(record, self.queue, self._consumer)
            for record in records(self.queue, reply.body)
            # What lies before our position was delivered already, or is not ours to deliver.
            if record.queue_offset >= progress.next_offset
        ]
        wanted = [message for message in found if self._subscription.wants(message.tag)]
        for message in wanted:
            self._held[message.queue_offset] = message
            self._held_bytes += len(message.stored_body)
        next_offset = max(reply.header.next_begin_offset, progress.next_offset)
        progress.took([message.queue_offset for message in wanted], next_offset)
        if wanted:
            self._consumer.deliver(self, wanted)

    def _go_on(self, progress: Progress, next_offset: int) -> None:
        # A member that lags behind may name an offset before ours; we have read further.
        if next_offset > progress.next_offset:
            progress.took([], next_offset)

    async def _move(self, progress: Progress, said: PullReply) -> None:
        """The broker says where to read: messages have expired, or an operator moved the group."""
        if said.max_offset < progress.next_offset:
            # Either messages were lost, or this member lags behind; the leader knows.
            latest = await self._ask_offset(
                GetMaxOffset(topic=self.queue.topic, queue_id=self.queue.queue_id)
            )
            if latest >= progress.next_offset:
                await anyio.sleep(LAGGING_PAUSE_S)
                return
        offset = said.next_begin_offset
        logger.warning("%s: %s was moved to offset %d", self._group, self.queue, offset)
        await self._start_over()
        self._progress = Progress(offset)

    # --- offsets ---------------------------------------------------------------------------------

    @property
    def position(self) -> int | None:
        """Where a successor would have to start; None before the start is known."""
        if self._progress is not None:
            return self._progress.commit_offset
        return self._resume_at if self._seek_to is None else self._seek_to

    async def _start_offset(self) -> int:
        if self._resume_at is not None:
            return self._resume_at
        if not self._broadcast:
            committed = await self._committed_offset()
            if committed is not None:
                return committed
        return await self._first_offset()

    async def _committed_offset(self) -> int | None:
        request = QueryConsumerOffset(
            consumer_group=self._group, topic=self.queue.topic, queue_id=self.queue.queue_id
        )
        try:
            self._committed = await self._ask_offset(request)
            return self._committed
        except ResponseError as error:
            if error.code != ResponseCode.QUERY_NOT_FOUND:
                raise
            return None

    async def _first_offset(self) -> int:
        """Where a group begins that was never here."""
        return await self.find("first" if self.queue.topic.startswith(RETRY_PREFIX) else self._from)

    async def find(self, where: From) -> int:
        """The offset of a place in this queue.  **Raises** ClientError."""
        topic, queue_id = self.queue.topic, self.queue.queue_id
        if isinstance(where, datetime):
            at = as_timestamp_ms(where)
            return await self._ask_offset(
                SearchOffset(topic=topic, queue_id=queue_id, timestamp=at)
            )
        if where == "first":
            return await self._ask_offset(GetMinOffset(topic=topic, queue_id=queue_id))
        return await self._ask_offset(GetMaxOffset(topic=topic, queue_id=queue_id))

    async def _ask_offset(self, request: Request[OffsetReply]) -> int:
        reply = await self._asker.ask(self.queue, request, OFFSET_TIMEOUT_S)
        return reply.header.offset

    async def commit(self) -> None:
        """Tell the broker how far this group is, if it moved since the last time.

        **Durability**: on return the offset is in the replicated log.  **Raises** ClientError.
        """
        if self._progress is None or self._broadcast:
            return
        if self._locks is not None and not self._locks.owns(self.queue):
            return
        offset = self._progress.commit_offset
        if offset == self._committed:
            return
        request = UpdateConsumerOffset(
            consumer_group=self._group,
            topic=self.queue.topic,
            queue_id=self.queue.queue_id,
            commit_offset=offset,
        )
        await self._asker.ask(self.queue, request, OFFSET_TIMEOUT_S)
        self._committed = offset

    def retire(self) -> None:
        """Read and hand out nothing more; what is in a user's hands can still be settled."""
        self.retiring = True
        self._scope.cancel()

    def stop(self) -> None:
        """Deliver and settle nothing more; what was settled can still be committed."""
        self.stopped = True
        self._scope.cancel()
