"""Reading messages: pull, and pulls that wait.

Every member answers from what it has applied, so only committed messages are ever seen. A pull is
one function, `_run`, run at most twice: when it comes, and, if it had to wait, once more when a
message arrived or its time was up. Records in the page cache are read at once; the others by a
worker thread.

All four header fields are filled in every answer: Java unboxes them without looking.

Source: protocol pages 04 (§4-6) and 07 (§6); PullMessageProcessor.java.
"""

from collections.abc import Callable
from typing import Any, Final

from attrs import define, frozen

from broker.errors import (
    NotPermitted,
    NotSupported,
    QueueNotFound,
    SubscriptionMissing,
    SubscriptionOutdated,
    TopicNotFound,
)
from broker.formats import UNIT
from broker.machine.machine import Machine
from broker.serving.client_table import ClientTable
from broker.serving.cold_reads import ColdReads
from broker.serving.long_polls import HeldPull, LongPolls
from broker.serving.offset_commits import OffsetCommits
from broker.serving.rates import Rates
from broker.store.consume_queues import ConsumeQueues
from broker.store.message_reader import BYTES_MAX, MESSAGES_MAX, Fetched, MessageReader
from broker.store.tag_filter import matching
from dledger_py.remoting.commands.heartbeats import TAG_EXPRESSION, tag_subscription
from dledger_py.remoting.commands.pulling import (
    CARRIES_SUBSCRIPTION,
    COMMITS_OFFSET,
    MAY_SUSPEND,
    PullMessage,
)
from dledger_py.remoting.rooms import Answer, Caller, Later, handles
from dledger_py.remoting.wire.codes import ResponseCode

SCANNED_MAX: Final = 800  # index entries per pull: bounds what a filter that matches nothing costs

NOT_FOUND, RETRY, MOVED = (
    ResponseCode.PULL_NOT_FOUND,
    ResponseCode.PULL_RETRY_IMMEDIATELY,
    ResponseCode.PULL_OFFSET_MOVED,
)

_FIELDS: Final = (
    b'{"maxOffset":"%d","minOffset":"%d","nextBeginOffset":"%d","suggestWhichBrokerId":"0"}'
)


@frozen
class _Wanted:
    """A pull that was admitted: what to read, and which tags (None: all)."""

    request: PullMessage
    codes: frozenset[int] | None


@define(eq=False, kw_only=True)
class Pulling:
    """Code 11."""

    machine: Machine
    queues: ConsumeQueues
    reader: MessageReader
    cold_reads: ColdReads
    polls: LongPolls
    clients: ClientTable
    commits: OffsetCommits
    ensure_group: Callable[[str], None]
    leads: Callable[[], bool]
    rates: Rates
    now_ms: Callable[[], int]

    @handles(PullMessage)
    def pull(self, request: PullMessage, caller: Caller) -> Answer[Any] | Later[Any]:
        """Answer with messages of one queue, or hold the request until there is one."""
        wanted = self._admit(request)
        if request.sys_flag & COMMITS_OFFSET and request.commit_offset >= 0 and self.leads():
            self.commits.add(
                request.consumer_group, request.topic, request.queue_id, request.commit_offset
            )
        later = caller.later()
        self._run(wanted, later, may_wait=bool(request.sys_flag & MAY_SUSPEND))
        return later

    def _run(self, wanted: _Wanted, later: Later[Any], *, may_wait: bool) -> None:
        """Read once; answer, hold, or leave it to a worker thread."""
        request = wanted.request
        topic, queue_id, offset = request.topic, request.queue_id, request.queue_offset
        if topic not in self.machine.topics:  # deleted while the request was held
            later.refuse(TopicNotFound(topic))
            return
        first = self.queues.min_offset(topic, queue_id)
        end = self.queues.next_offset(topic, queue_id)
        if offset == end and may_wait and self.polls.has_room():
            self._hold(wanted, later)
            return
        if not first <= offset < end:
            later.answer(self._outside(offset, first, end))
            return
        units = self.queues.range(topic, queue_id, offset, max(SCANNED_MAX, request.max_msg_nums))
        chosen = matching(units, wanted.codes)
        if not chosen:
            scanned_to = offset + len(units) // UNIT.size
            if scanned_to == end and may_wait and self.polls.has_room():
                self._hold(wanted, later)
                return
            self.rates.pulls_missed.total += 1
            later.answer(_answer(RETRY, "NO_MATCHED_MESSAGE", scanned_to, first, end))
            return
        limit = max(1, min(request.max_msg_nums, MESSAGES_MAX))

        def read(*, nowait: bool) -> Fetched:
            return self.reader.read(
                units, offset, chosen, messages_max=limit, bytes_max=BYTES_MAX, nowait=nowait
            )

        def found(fetched: Fetched) -> None:
            self._found(wanted, later, fetched)

        try:
            found(read(nowait=True))
        except BlockingIOError:
            self.cold_reads.submit(lambda: read(nowait=False), found, later.refuse)

    def _found(self, wanted: _Wanted, later: Later[Any], fetched: Fetched) -> None:
        request, rates = wanted.request, self.rates
        rates.pulls_found.total += 1
        rates.got.total += fetched.messages
        rates.got_bytes.total += len(fetched.body)
        rates.group(request.topic, request.consumer_group).total += fetched.messages
        self.clients.pulled(
            request.consumer_group, request.topic, request.queue_id, fetched.next_offset
        )
        first = self.queues.min_offset(request.topic, request.queue_id)
        end = self.queues.next_offset(request.topic, request.queue_id)
        later.answer(
            Answer(
                body=fetched.body,
                remark="FOUND",
                rendered=_FIELDS % (end, first, fetched.next_offset),
            )
        )

    def _outside(self, offset: int, first: int, end: int) -> Answer[Any]:
        """The answer to an offset that no message has (page 04 §5)."""
        self.rates.pulls_missed.total += 1
        if end == 0:
            code = NOT_FOUND if offset == 0 else MOVED
            return _answer(code, "NO_MESSAGE_IN_QUEUE", 0, first, end)
        if offset < first:
            return _answer(MOVED, "OFFSET_TOO_SMALL", first, first, end)
        if offset == end:
            return _answer(NOT_FOUND, "OFFSET_OVERFLOW_ONE", offset, first, end)
        if not self.leads():
            # A follower may be behind what the leader has told the client: ask again, do not move.
            return _answer(RETRY, "OFFSET_OVERFLOW_BADLY", offset, first, end)
        return _answer(MOVED, "OFFSET_OVERFLOW_BADLY", end, first, end)

    def _hold(self, wanted: _Wanted, later: Later[Any]) -> None:
        request = wanted.request
        self.polls.hold(
            HeldPull(
                topic=request.topic,
                queue_id=request.queue_id,
                deadline_ms=self.now_ms() + request.suspend_timeout_millis,
                wants=wanted.codes,
                again=lambda: self._run(wanted, later, may_wait=False),
                gone=lambda: later.abandoned,
            )
        )

    # --- admission -----------------------------------------------------------------------------

    def _admit(self, request: PullMessage) -> _Wanted:
        """Check the request in RocketMQ's order; what is left is to read."""
        group = self.machine.groups.get(request.consumer_group)
        if group is None:
            self.ensure_group(request.consumer_group)
        elif not group.consume_enable:
            raise NotPermitted(f"the group {request.consumer_group} is not allowed to consume")
        topic = self.machine.topics.get(request.topic)
        if topic is None:
            raise TopicNotFound(request.topic)
        if not topic.readable:
            raise NotPermitted(f"the topic[{request.topic}] pulling message is forbidden")
        if not 0 <= request.queue_id < topic.read_queues:
            raise QueueNotFound(request.topic, request.queue_id, topic.read_queues)
        if request.sys_flag & CARRIES_SUBSCRIPTION:
            return _Wanted(request, _codes(request.expression_type, request.subscription))
        return _Wanted(request, self._registered_codes(request))

    def _registered_codes(self, request: PullMessage) -> frozenset[int] | None:
        """The filter the group's heartbeats brought."""
        subscription = self.clients.subscription(request.consumer_group, request.topic)
        if subscription is None:
            raise SubscriptionMissing(request.consumer_group, request.topic)
        if subscription.sub_version < request.sub_version:
            raise SubscriptionOutdated(request.consumer_group, request.topic)
        return _codes(subscription.expression_type, subscription.sub_string)


def _codes(expression_type: str | None, expression: str | None) -> frozenset[int] | None:
    """The tag hashes a subscription asks for; None for all.

    Hashed here from the text: Go's own hashes differ from Java's for tags outside ASCII.
    """
    if expression_type not in (None, "", TAG_EXPRESSION):
        raise NotSupported(f"filtering by {expression_type}")
    return frozenset(tag_subscription("", expression).code_set) or None


def _answer(code: ResponseCode, status: str, following: int, first: int, end: int) -> Answer[Any]:
    return Answer(code=code, remark=status, rendered=_FIELDS % (end, first, following))
