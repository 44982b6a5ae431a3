"""Reading messages: pull, and pulls that wait.

Every member answers from what it has applied, so only committed messages are ever seen. A pull is
admitted and run when it comes and, if it had to wait, once more when a message arrived, something
else changed, or its time was up. Records in the page cache are read at once; the others by a worker
thread.

Tags are chosen by the index alone. For an SQL92 expression the records are read and looked at, a
bounded stretch for each pull; what does not match is behind `nextBeginOffset`. A held pull with an
expression looks at what arrives, and goes on waiting if none of it matches.

Laws
- All four header fields are filled in every answer: Java unboxes them without looking.
- Code 0 never comes with an empty body: ali-ons and Java crash on it.
- Only a member that has just been confirmed as the leader says that an offset beyond the end is
  wrong: elsewhere the end may be behind what consumers have seen, and they would start over. Nor
  does any other tell of resets (`machine.resets`), which may be over.

Source: protocol pages 04 (§4-7) and 07 (§6); PullMessageProcessor.java.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from attrs import define, frozen

from broker.errors import (
    ExpressionUnreadable,
    FilterMissing,
    GroupNotFound,
    NotPermitted,
    QueueNotFound,
    SubscriptionMissing,
    SubscriptionOutdated,
    TopicNotFound,
)
from broker.filters.sql import SqlFilter
from broker.formats import UNIT
from broker.machine import names
from broker.machine.groups import GroupConfig
from broker.machine.machine import Machine
from broker.machine.resets import Reset
from broker.rooms._filters import Wants, is_by_tag, wanted
from broker.serving.client_table import ClientTable
from broker.serving.cold_reads import ColdReads
from broker.serving.long_polls import HOLD_MS_MAX, HeldPull, LongPolls
from broker.serving.offset_commits import OffsetCommits
from broker.serving.rates import Rates
from broker.store.consume_queues import ConsumeQueues
from broker.store.message_reader import BYTES_MAX, MESSAGES_MAX, Fetched, MessageReader
from broker.store.tag_filter import matching
from dledger_py.remoting.commands.heartbeats import MessageModel
from dledger_py.remoting.commands.pulling import (
    CARRIES_SUBSCRIPTION,
    COMMITS_OFFSET,
    MAY_SUSPEND,
    PullMessage,
)
from dledger_py.remoting.rooms import Answer, Caller, Connection, Later, Refused, handles
from dledger_py.remoting.wire.codes import ResponseCode

SCANNED_MAX: Final = 800  # index entries per pull: bounds what a filter that matches nothing costs
FILTERING_MS_MAX: Final = 5  # per pull on the loop, whatever the expression and the properties

NOT_FOUND, RETRY, MOVED = (
    ResponseCode.PULL_NOT_FOUND,
    ResponseCode.PULL_RETRY_IMMEDIATELY,
    ResponseCode.PULL_OFFSET_MOVED,
)

_FIELDS: Final = (
    b'{"maxOffset":"%d","minOffset":"%d","nextBeginOffset":"%d","suggestWhichBrokerId":"0"}'
)

NO_MATCH: Final = "NO_MATCHED_MESSAGE"

_WATCHED: Final = "long polls watch"
_TOLD: Final = "resets told"

ReadBarrier = Callable[[Callable[[object], None]], None]


@frozen
class _Pull:
    """A pull that was admitted: what to read, from where on, what of it, whom to answer.

    `held_for` is the connection it may be held for; None if it may not be. `at` is the offset that
    was asked for, or a later one if what lies between was looked at while the pull was held.
    """

    request: PullMessage
    wants: Wants
    later: Later[Any]
    held_for: Connection | None
    at: int


@define(eq=False, kw_only=True)
class Pulling:
    """Codes 11 and 361."""

    machine: Machine
    queues: ConsumeQueues
    reader: MessageReader
    cold_reads: ColdReads
    polls: LongPolls
    clients: ClientTable
    commits: OffsetCommits
    ensure_group: Callable[[str], None]
    leads: Callable[[], bool]
    read_barrier: ReadBarrier
    rates: Rates
    monotonic_ms: Callable[[], int]

    @handles(PullMessage)
    def pull(self, request: PullMessage, caller: Caller) -> Answer[Any] | Later[Any]:
        """Answer with messages of one queue, or hold the request until there is one."""
        wants = self._admit(request)
        if self.machine.resets.count and self._reset(request) is not None and self.leads():
            return self._pull_after_reset(request, wants, caller)
        if request.sys_flag & COMMITS_OFFSET and request.commit_offset >= 0 and self.leads():
            self.commits.add(
                request.consumer_group, request.topic, request.queue_id, request.commit_offset
            )
        later = caller.later()
        held_for = caller.connection if request.sys_flag & MAY_SUSPEND else None
        self._run(_Pull(request, wants, later, held_for, request.queue_offset))
        return later

    def _again(self, held: _Pull, at: int, connection: Connection) -> None:
        """The wait of a held pull is over: the whole request once more, and no more waiting.

        What was looked at in the meantime is passed over, unless another filter was told since.
        """
        request, later = held.request, held.later
        try:
            wants = self._admit(request)
        except Refused as error:  # the topic is gone, or smaller now
            later.refuse(error)
            return
        at = at if wants == held.wants else request.queue_offset
        pull = _Pull(request, wants, later, None, at)
        if self.machine.resets.count and self._reset(request) is not None and self.leads():
            self.read_barrier(lambda outcome: self._run_reset(pull, connection, outcome))
        else:
            self._run_later(pull)

    def _run_later(self, pull: _Pull) -> None:
        """As `_run`, where nobody else would answer with a refusal."""
        try:
            self._run(pull)
        except Refused as error:
            pull.later.refuse(error)

    # --- resets ----------------------------------------------------------------------------------

    def _reset(self, request: PullMessage) -> Reset | None:
        """Where an operator wants the group to go on, if its consumers do not know that yet."""
        return self.machine.resets.get(request.consumer_group, request.topic, request.queue_id)

    def _pull_after_reset(self, request: PullMessage, wants: Wants, caller: Caller) -> Later[Any]:
        """The offset that the pull commits is void. A leader that has been deposed may know of
        resets that are over, so it makes sure first."""
        later = caller.later()
        held_for = caller.connection if request.sys_flag & MAY_SUSPEND else None
        pull = _Pull(request, wants, later, held_for, request.queue_offset)
        self.read_barrier(lambda outcome: self._run_reset(pull, caller.connection, outcome))
        return later

    def _run_reset(self, pull: _Pull, connection: Connection, outcome: object) -> None:
        """Tell the consumer where to go on; if it does, or has been told and does not care, the
        reset is over. (RocketMQ tells once, and does not see whether that was heard.)"""
        request = pull.request
        reset = self._reset(request)
        if outcome is not None:
            self._miss(pull, NOT_FOUND, "NO_NEW_MSG", request.queue_offset)
        elif reset is None:
            self._run_later(pull)
        else:
            queue = (request.consumer_group, request.topic, request.queue_id)
            told: dict[tuple[str, str, int], Reset] = connection.attributes.setdefault(_TOLD, {})
            offset, _stamped_ms = reset
            heard = told.get(queue) == reset
            told[queue] = reset  # its next pull may come before the end of the reset is applied
            if request.queue_offset != offset and not heard:
                self._miss(pull, MOVED, "OFFSET_RESET", offset)
                return
            self.commits.end_reset(*queue, offset)
            self._run_later(pull)

    # --- reading ---------------------------------------------------------------------------------

    def _run(self, pull: _Pull) -> None:
        """Read once; answer, hold, or leave it to a worker thread."""
        request = pull.request
        topic, queue_id, offset, wants = request.topic, request.queue_id, pull.at, pull.wants
        first = self.queues.min_offset(topic, queue_id)
        end = self.queues.next_offset(topic, queue_id)
        if not first <= offset < end:
            self._run_outside(pull, first, end)
            return
        limit = max(1, min(request.max_msg_nums, MESSAGES_MAX))
        units = self.queues.range(topic, queue_id, offset, limit if wants is None else SCANNED_MAX)
        read: Callable[..., Fetched]
        if isinstance(wants, SqlFilter):
            read = partial(self._select, units, offset, wants, limit)
        else:
            chosen = matching(units, wants)
            if not chosen:
                self._miss(pull, RETRY, NO_MATCH, offset + len(units) // UNIT.size)
                return
            read = partial(
                self.reader.read, units, offset, chosen, messages_max=limit, bytes_max=BYTES_MAX
            )

        try:
            fetched = read(nowait=True)
        except BlockingIOError:
            self.cold_reads.submit(
                lambda: read(nowait=False),
                lambda fetched: self._found(pull, fetched),
                pull.later.refuse,
            )
            return
        self._found(pull, fetched)

    def _select(
        self, units: bytes, offset: int, wants: SqlFilter, messages_max: int, *, nowait: bool
    ) -> Fetched:
        """The messages an expression is true for; on the loop, for a limited time."""
        until_ms = self.monotonic_ms() + FILTERING_MS_MAX
        return self.reader.select(
            units,
            offset,
            wants.matches,
            messages_max=messages_max,
            is_enough=lambda: nowait and self.monotonic_ms() >= until_ms,
            nowait=nowait,
        )

    def _found(self, pull: _Pull, fetched: Fetched) -> None:
        request, rates = pull.request, self.rates
        if not fetched.body:  # read in order to choose, and nothing was chosen
            self._miss(pull, RETRY, NO_MATCH, fetched.next_offset)
            return
        rates.pulls_found.total += 1
        rates.got.total += fetched.messages
        rates.got_bytes.total += len(fetched.body)
        rates.group(request.topic, request.consumer_group).total += fetched.messages
        self.clients.pulled(
            request.consumer_group, request.topic, request.queue_id, fetched.next_offset
        )
        pull.later.answer(
            Answer(
                body=fetched.body,
                remark="FOUND",
                rendered=self._fields(request, fetched.next_offset),
            )
        )

    def _run_outside(self, pull: _Pull, first: int, end: int) -> None:
        """No message has the offset that was asked for (page 04 §5)."""
        offset = pull.at
        if offset < first:
            status = "OFFSET_TOO_SMALL" if end else "NO_MESSAGE_IN_QUEUE"
            self._miss(pull, MOVED, status, first)
        elif offset == end or not self.leads():
            self._hold_or_miss(pull)
        else:
            self.read_barrier(lambda outcome: self._run_beyond(pull, outcome))

    def _run_beyond(self, pull: _Pull, outcome: object) -> None:
        """What the offset exceeded is known to be the end, or it is not known."""
        request = pull.request
        end = self.queues.next_offset(request.topic, request.queue_id)
        if outcome is not None:
            self._hold_or_miss(pull)
        elif pull.at > end:
            status = "OFFSET_OVERFLOW_BADLY" if end else "NO_MESSAGE_IN_QUEUE"
            self._miss(pull, MOVED, status, end)
        else:
            self._run(pull)

    def _hold_or_miss(self, pull: _Pull) -> None:
        request, connection = pull.request, pull.held_for
        if connection is None or not self.polls.has_room():
            if pull.at > request.queue_offset:
                self._miss(pull, RETRY, NO_MATCH, pull.at)
                return
            status = "OFFSET_OVERFLOW_ONE" if request.queue_offset else "NO_MESSAGE_IN_QUEUE"
            self._miss(pull, NOT_FOUND, status, request.queue_offset)
            return
        if connection.closed:  # no close will be told of any more
            return
        if _WATCHED not in connection.attributes:
            connection.attributes[_WATCHED] = True
            connection.on_close(lambda: self.polls.drop(connection.id))
        wait_ms = max(0, min(request.suspend_timeout_millis, HOLD_MS_MAX))
        held = HeldPull(
            topic=request.topic,
            queue_id=request.queue_id,
            deadline_ms=self.monotonic_ms() + wait_ms,
            wants=None,
            owner=connection.id,
            again=lambda: self._again(pull, pull.at, connection),
        )
        if isinstance(pull.wants, SqlFilter):
            looking = _Looking(self, request, pull.wants, pull.at)
            held.looks = looking.look
            held.again = lambda: self._again(pull, looking.at, connection)
        else:
            held.wants = pull.wants
        self.polls.hold(held)

    def look(self, request: PullMessage, wants: SqlFilter, at: int) -> tuple[bool, int]:
        """Whether a held pull is to be run again for what has come from `at` on, and where to look
        next time. Rather once too often: whatever is in doubt is decided by running it."""
        units = self.queues.range(request.topic, request.queue_id, at, SCANNED_MAX)
        try:
            fetched = self._select(units, at, wants, 1, nowait=True)
        except (BlockingIOError, Refused):
            return True, at
        if fetched.messages or not units:
            return True, at
        end = self.queues.next_offset(request.topic, request.queue_id)
        return fetched.next_offset < end, fetched.next_offset

    def _miss(self, pull: _Pull, code: ResponseCode, status: str, following: int) -> None:
        self.rates.pulls_missed.total += 1
        pull.later.answer(
            Answer(code=code, remark=status, rendered=self._fields(pull.request, following))
        )

    def _fields(self, request: PullMessage, following: int) -> bytes:
        first = self.queues.min_offset(request.topic, request.queue_id)
        end = self.queues.next_offset(request.topic, request.queue_id)
        return _FIELDS % (end, first, following)

    # --- admission -----------------------------------------------------------------------------

    def _admit(self, request: PullMessage) -> Wants:
        """Check the request in RocketMQ's order; what it wants.

        Raises: the refusal.
        """
        group = self.machine.groups.get(request.consumer_group)
        if group is None:
            fault = names.group_fault(request.consumer_group)
            if fault is not None:
                raise GroupNotFound(request.consumer_group, fault)
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
            return wanted(request.expression_type, request.subscription)
        return self._registered(request, group)

    def _registered(self, request: PullMessage, settings: GroupConfig | None) -> Wants:
        """The filter the group's heartbeats brought."""
        group = self.clients.consumer_group(request.consumer_group)
        if group is None:
            raise SubscriptionMissing(request.consumer_group, request.topic)
        if (
            group.message_model is MessageModel.BROADCASTING
            and settings is not None
            and not settings.consume_broadcast_enable
        ):
            raise NotPermitted(f"the group {request.consumer_group} may not consume by broadcast")
        subscription = group.subscriptions.get(request.topic)
        if subscription is None:
            raise SubscriptionMissing(request.consumer_group, request.topic)
        if subscription.sub_version < request.sub_version:
            # Java's consumers raise the version at each rebalance and sometimes tell us of it only
            # with the next heartbeat, 20 s later. RocketMQ refuses them until then. Clients look
            # at the tags of what they get themselves, so all of it is right, if more than needed.
            # They leave expressions to us, so those have to be the right ones.
            if not is_by_tag(subscription.expression_type):
                raise SubscriptionOutdated(request.consumer_group, request.topic)
            return None
        if subscription.class_filter_mode:  # died with RocketMQ's filter servers: matches all
            return None
        try:
            return wanted(subscription.expression_type, subscription.sub_string)
        except ExpressionUnreadable as error:
            raise FilterMissing(request.consumer_group, request.topic, error.remark) from error


@define(eq=False)
class _Looking:
    """How far a held pull has looked, by its expression, at what arrived."""

    pulling: Pulling
    request: PullMessage
    wants: SqlFilter
    at: int

    def look(self) -> bool:
        found, self.at = self.pulling.look(self.request, self.wants, self.at)
        return found
