"""Storing messages: single, one-way and batch sends.

A send is admitted against the state applied so far, laid out as the record that will be stored, and
joins the turn's batch; its answer waits until the entry is durable at a quorum and applied, because
only applying assigns the offset. One that was sent before is answered as it was then
(`duplicates`). What has to exist first (a topic created on use, a retry group, a dead-letter topic)
is created by an entry in front, once the message itself is found to be in order.

Source: protocol pages 02 (a), 03, 05 §4; AbstractSendMessageProcessor.java.
"""

import random
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final
from zlib import crc32

from attrs import define, field

from broker.errors import (
    IllegalMessage,
    InvalidParameter,
    NotPermitted,
    QueueNotFound,
    TopicNotFound,
)
from broker.machine import names
from broker.machine.codec import encode_command
from broker.machine.commands import EnsureGroups, EnsureTopics
from broker.machine.groups import GroupConfig
from broker.machine.machine import Machine
from broker.machine.put_messages import Message
from broker.machine.replies import MessageReply, Reason
from broker.machine.topics import (
    TopicConfig,
    dead_letter_topic,
    retry_topic,
    topic_from_template,
)
from broker.rooms._admission import client_host
from broker.rooms._message_types import check_type, takes_all
from broker.rooms.delaying import Delay, RecallHandle, delay_for, delay_of, level_of
from broker.rooms.usual_batches import usual_batch
from broker.serving import half_records
from broker.serving.disk_watch import DiskWatch
from broker.serving.duplicates import Duplicates, Original
from broker.serving.half_messages import HalfMessages
from broker.serving.leadership import Leadership
from broker.serving.put_batch import Failed, Proposer, PutBatch, Settled
from broker.serving.rates import Rates
from dledger_py.remoting.commands.sending import (
    SendMessage,
    SendReply,
    render_send_reply,
    send_reply_template,
)
from dledger_py.remoting.rooms import Answer, Caller, Later, Refused, handles
from dledger_py.remoting.wire import message as records
from dledger_py.remoting.wire import properties as props
from dledger_py.remoting.wire.codes import VERSION_MAX_RECONSUME_TIMES

REGION: Final = "DefaultRegion"  # drives client-side tracing; Java: absent TRACE_ON means on

# A batch of tiny messages grows many times over when each becomes a record of its own. RocketMQ
# bounds the grown size by maxMessageSize; here it must fit one log entry, and not stall the loop.
BATCH_MESSAGES_MAX: Final = 16_384
BATCH_RECORDS_BYTES_MAX: Final = 7 * 1024 * 1024

NO_HALVES: Final = "a batch cannot hold transactional messages"

# What a message that came back from a consumer still carries of its earlier life here. The first
# is a receipt of that copy, the others are put in anew.
STALE: Final = frozenset({props.POP_CK, props.MSG_REGION, props.TRACE_ON, props.CLUSTER})

DELAY_BYTES_MAX: Final = 64
"""What the commit of a half message adds to its properties, if it is for later."""

# What a message for later says of where it belongs; what it came with is of an earlier life.
WHERE_TO: Final = frozenset({props.REAL_TOPIC, props.REAL_QUEUE_ID, props.TIMER_OUT_MS})

_REPLY: Final = send_reply_template(REGION, trace_on=True)

Command = EnsureTopics | EnsureGroups
Missing = tuple[Command, ...]


@define(eq=False, kw_only=True)
class Sending:
    """Codes 10, 310 and 320. One instance answers all connections."""

    cluster_name: str
    broker_name: str
    store_host: bytes
    new_unique_id: Callable[[], str]
    auto_create: bool
    default_queues_max: int
    max_message_bytes: int
    checks_types: bool = False
    """Whether a topic takes only the kind of message that its attributes name."""
    machine: Machine
    ledger: Proposer
    batch: PutBatch
    halves: HalfMessages
    leadership: Leadership
    disk: DiskWatch
    rates: Rates
    now_ms: Callable[[], int]
    duplicates: Duplicates | None = None
    """Who recognises what is sent again; None if nobody does."""
    added_properties: str = field(init=False)
    _creating: dict[str, TopicConfig] = field(factory=dict, init=False)
    """Topics proposed and not yet applied: a burst of first messages makes one proposal."""

    def __attrs_post_init__(self) -> None:
        self.added_properties = "".join(
            f"{key}\x01{value}\x02"
            for key, value in (
                (props.MSG_REGION, REGION),
                (props.TRACE_ON, "true"),
                (props.CLUSTER, self.cluster_name),  # request-reply depends on it
            )
        )

    @handles(SendMessage)
    def send(self, request: SendMessage, caller: Caller) -> Answer[Any] | Later[Any]:
        """Store one message, or a batch of them, and answer where."""
        if not self.leadership.leads:
            return self.leadership.relay(caller)
        self.disk.admit()
        topic, queue_id, missing = self._admit(request, caller)
        body = caller.frame.body
        if len(body) > self.max_message_bytes:
            raise IllegalMessage(
                f"the message body is {len(body)} bytes,"
                f" at most {self.max_message_bytes} are allowed"
            )
        born_host = client_host(caller)
        messages: Sequence[Message]
        handle = None
        if request.batch:
            unique_id, messages = self._batch(request, topic, body, queue_id, born_host)
        else:
            unique_id, message, handle = self._single(request, topic, body, queue_id, born_host)
            messages = (message,)
        later = caller.later()
        rates = self.rates

        def fresh(identity: int) -> None:
            for command in missing:
                self.create(command)
            settled: Settled = on_settled
            failed: Failed = on_failed
            if messages[0][0] == names.HALF_TOPIC:
                settled, failed = self.halves.counted(settled, failed)
            others: Sequence[int] = ()
            if identity and request.batch and self.duplicates is not None:
                others = self.duplicates.identities_behind(messages)
            self.batch.add(messages, settled, failed, identity=identity, others=others)

        def on_settled(replies: Sequence[MessageReply]) -> None:
            if isinstance(replies[0], Reason):
                on_failed(declined(replies[0], topic, queue_id))
                return
            rates.put.total += len(replies)
            rates.put_bytes.total += len(body)
            rates.topic(messages[0][0]).total += len(replies)
            later.answer(_stored(replies, self.store_host, queue_id, unique_id, handle))

        def again(replies: Sequence[MessageReply], first: Original) -> None:
            if isinstance(replies[0], Reason):
                on_failed(declined(replies[0], topic, queue_id))
                return
            its_handle = None
            if first.deliver_ms is not None:
                its_handle = self._handle(topic, first.deliver_ms, unique_id)
            later.answer(_stored(replies, first.store_host, first.queue_id, unique_id, its_handle))

        def on_failed(error: Exception) -> None:
            rates.put_refused.total += len(messages)
            later.refuse(error)

        identity = self._identity(request, messages)
        if identity and self.duplicates is not None:
            self.duplicates.offer(identity, messages, fresh, again, on_failed)
        else:
            fresh(0)
        return later

    def _identity(self, request: SendMessage, messages: Sequence[Message]) -> int:
        """By which the messages are recognised when they are sent again; 0 if they are not."""
        if self.duplicates is None:
            return 0
        sent_properties = request.properties
        if request.batch:  # what the first message came with is what is stored of it
            record = messages[0][3]
            sent_properties = records.properties_of(record, 0, len(record))
        return self.duplicates.identity_of(messages[0], sent_properties)

    # --- admission -----------------------------------------------------------------------------

    def _admit(self, request: SendMessage, caller: Caller) -> tuple[TopicConfig, int, Missing]:
        """The topic and queue the send goes to, and what has to be created for it, if anything.

        Raises: the refusal, if the send is not allowed.
        """
        name = request.topic
        if not names.producers_may_send(name):
            raise NotPermitted(f"Sending message to topic[{name}] is forbidden.")
        if names.is_retry_topic(name):
            return self._admit_retry(request, caller)
        missing: Missing = ()
        topic = self.machine.topics.get(name) or self._creating.get(name)
        if topic is None:
            topic = self._topic_on_use(request)
            missing = (EnsureTopics(stamped_ms=self.now_ms(), topics=(topic,)),)
        return topic, self._queue_of(topic, request.queue_id), missing

    def _queue_of(self, topic: TopicConfig, queue_id: int) -> int:
        """The queue asked for, or any if it is left to the broker."""
        if not topic.writable:
            raise NotPermitted(f"the broker[{self.broker_name}] topic[{topic.name}] is read only")
        if queue_id >= topic.queues:
            raise QueueNotFound(topic.name, queue_id, topic.queues)
        if queue_id >= 0:
            return queue_id
        if not topic.write_queues:
            raise NotPermitted(f"the topic[{topic.name}] has no queue that may be written")
        return random.randrange(topic.write_queues)

    def _topic_on_use(self, request: SendMessage) -> TopicConfig:
        """What the topic named in the request (TBW102) makes of it; it must allow inheriting."""
        name = request.topic
        fault = names.topic_fault(name)
        if fault is not None:
            raise InvalidParameter(fault)
        template = self.machine.topics.get(request.default_topic)
        if not self.auto_create or template is None or not template.inheritable:
            raise TopicNotFound(name)
        queues = min(request.default_topic_queue_nums, self.default_queues_max)
        return topic_from_template(name, template, queues)

    def _admit_retry(
        self, request: SendMessage, caller: Caller
    ) -> tuple[TopicConfig, int, Missing]:
        """A consumer sends back what it could not consume, itself: once too often, and the message
        goes to the group's dead letters instead. At once if the group consumes in order: its
        consumers try again by themselves, and send back only what they give up."""
        group_name = request.topic.removeprefix(names.RETRY_PREFIX)
        group = self.machine.groups.get(group_name)
        topic = self.machine.topics.get(request.topic)
        missing: Missing = ()
        if group is None or topic is None:
            fault = names.group_fault(group_name)
            if fault is not None:
                raise InvalidParameter(fault)
            group = group or GroupConfig(name=group_name)
            topic = topic or retry_topic(group_name, group.retry_queues)
            missing = (EnsureGroups(stamped_ms=self.now_ms(), groups=(group,)),)
        times_max = group.retry_max_times
        # Clients before 3.5.9 left the field at its default.
        if request.max_reconsume_times is not None and (
            caller.version >= VERSION_MAX_RECONSUME_TIMES
        ):
            times_max = request.max_reconsume_times
        in_order = self.machine.locks.consumes_in_order(group_name, self.now_ms())
        if request.reconsume_times <= times_max and not in_order:
            return topic, self._queue_of(topic, request.queue_id), missing
        dead = self.machine.topics.get(names.dead_letter_topic_name(group_name))
        if dead is None:
            dead = dead_letter_topic(group_name)
            missing = (*missing, EnsureTopics(stamped_ms=self.now_ms(), topics=(dead,)))
        return dead, 0, missing

    def create(self, command: Command) -> None:
        """Propose what the message needs in front of it."""
        topics = command.topics if isinstance(command, EnsureTopics) else ()
        self._creating.update((topic.name, topic) for topic in topics)

        def settled(_outcome: object) -> None:
            # The messages behind it in the log tell what became of it.
            for topic in topics:
                self._creating.pop(topic.name, None)

        self.ledger.propose(encode_command(command), settled)

    # --- records -------------------------------------------------------------------------------

    def _single(
        self,
        request: SendMessage,
        topic: TopicConfig,
        body: bytes,
        queue_id: int,
        born_host: bytes,
    ) -> tuple[str, Message, str | None]:
        """The unique id and the record of one message, offsets blank; for a timed one, the handle
        by which it may be recalled."""
        text = request.properties
        parsed = props.decode(text)
        if self.checks_types:
            check_type(topic, parsed)
        half = self._is_half(request, parsed)
        delay = self._delay(topic, parsed)
        spare_bytes = 0
        if half:
            if delay is not None:  # it was well-formed, and counts from the commit
                delay, spare_bytes = None, DELAY_BYTES_MAX
            text = _without(text, half_records.OWN)
        if delay is not None:
            text = _without(text, WHERE_TO | delay.added.keys())
        unique_id = parsed.get(props.UNIQ_KEY)
        if props.MSG_REGION in parsed or props.POP_CK in parsed:
            text = _without(text, STALE)
        if text and not text.endswith("\x02"):
            text += "\x02"
        text += self.added_properties
        if unique_id is None:
            unique_id = self.new_unique_id()
            text += f"{props.UNIQ_KEY}\x01{unique_id}\x02"
        if half:
            text += half_records.added_properties(topic.name, queue_id, unique_id)
            topic, queue_id = half_records.HALF_TOPIC, 0
        if delay is not None:
            text += props.encode(
                {props.REAL_TOPIC: topic.name, props.REAL_QUEUE_ID: str(queue_id), **delay.added}
            )
        stored = text.encode()
        if len(stored) + spare_bytes > props.PROPERTIES_SIZE_MAX:
            raise IllegalMessage(
                f"the properties are {len(stored)} bytes,"
                f" at most {props.PROPERTIES_SIZE_MAX - spare_bytes} are allowed"
            )
        if delay is not None:
            waiting = delay.waiting
            at = (waiting.topic, waiting.queue_id)
            record = self._record(request, topic, at, request.flag, born_host, body, stored)
            handle = None
            if delay.deliver_ms is not None:
                handle = self._handle(topic, delay.deliver_ms, unique_id)
            return unique_id, (*at, waiting.due_ms, record), handle
        tag = parsed.get(props.TAGS)
        message = self._message(
            request, topic, queue_id, request.flag, born_host, body, stored, tag
        )
        return unique_id, message, None

    def _is_half(self, request: SendMessage, properties: dict[str, str]) -> bool:
        """Whether it is to be stored as half. Raises: IllegalMessage, TooManyHalves."""
        comes_back = names.is_retry_topic(request.topic) or (
            request.reconsume_times > 0 and level_of(properties) > 0
        )
        half = half_records.is_half(properties, comes_back=comes_back)
        if half:
            self.halves.admit()
        elif request.sys_flag & records.TRANSACTION_MASK and not comes_back:
            raise IllegalMessage(
                "sysFlag makes this a transactional message,"
                f" property {props.TRANSACTION_PREPARED} does not"
            )
        return half

    def _delay(self, topic: TopicConfig, properties: dict[str, str]) -> Delay | None:
        """What is to become of a message that is not to be delivered at once."""
        return delay_for(topic.name, properties, self.now_ms())

    def _handle(self, topic: TopicConfig, deliver_ms: int, unique_id: str) -> str:
        return RecallHandle(
            topic=topic.name,
            broker_name=self.broker_name,
            deliver_ms=deliver_ms,
            unique_id=unique_id,
        ).encode()

    def _batch(
        self,
        request: SendMessage,
        topic: TopicConfig,
        body: bytes,
        queue_id: int,
        born_host: bytes,
    ) -> tuple[str, list[Message]]:
        """The unique id of the whole and the records of a batch body, their own properties as
        they came."""
        if names.is_retry_topic(request.topic):
            raise IllegalMessage("batch request does not support retry group")
        if request.sys_flag & records.TRANSACTION_MASK:
            raise IllegalMessage(NO_HALVES)
        unique_id = props.find(request.properties, props.UNIQ_KEY) or self.new_unique_id()
        usual = self._usual_batch(request, topic, body, queue_id, born_host)
        if usual is not None:
            return unique_id, usual
        messages: list[Message] = []
        size = 0
        for item in _items(body):
            try:
                parsed = props.decode(item.properties.decode())
            except UnicodeDecodeError as error:
                raise IllegalMessage(f"the batch cannot be read: properties, {error}") from error
            if delay_of(parsed, self.now_ms()) is not None:
                raise IllegalMessage("a message of a batch cannot be for later: send it alone")
            if half_records.claims_half(parsed):
                raise IllegalMessage(NO_HALVES)
            if self.checks_types:
                check_type(topic, parsed)
            message = self._message(
                request,
                topic,
                queue_id,
                item.flag,
                born_host,
                item.body,
                item.properties,
                parsed.get(props.TAGS),
            )
            messages.append(message)
            size += len(message[3])
            if size > BATCH_RECORDS_BYTES_MAX:
                raise IllegalMessage(
                    f"the batch takes more than {BATCH_RECORDS_BYTES_MAX} bytes to store"
                )
        return unique_id, messages

    def _usual_batch(
        self,
        request: SendMessage,
        topic: TopicConfig,
        body: bytes,
        queue_id: int,
        born_host: bytes,
    ) -> list[Message] | None:
        """The records of a batch in which nothing is unusual; None if anything is."""
        name = topic.name.encode()
        if (
            topic.filter_type != "SINGLE_TAG"
            or (self.checks_types and not takes_all(topic))
            or len(born_host) != 8
            or len(self.store_host) != 8
            or len(name) > records.TOPIC_SIZE_V1_MAX
        ):
            return None
        stored_name = bytes((len(name),)) + name
        never = records.MULTI_TAGS | records.BORN_HOST_IPV6 | records.STORE_HOST_IPV6
        sys_flag, now_ms = request.sys_flag & ~never, self.now_ms()

        def record_of(flag: int, item: bytes, properties: bytes) -> bytes:
            return records.encode_plain_record(
                queue_id,
                flag,
                sys_flag,
                request.born_timestamp,
                born_host,
                now_ms,
                self.store_host,
                request.reconsume_times,
                item,
                crc32(item) & records.BODY_CRC_MASK,
                stored_name,
                properties,
            )

        return usual_batch(
            body, topic.name, queue_id, record_of, BATCH_MESSAGES_MAX, BATCH_RECORDS_BYTES_MAX
        )

    def _message(
        self,
        request: SendMessage,
        topic: TopicConfig,
        queue_id: int,
        flag: int,
        born_host: bytes,
        body: bytes,
        properties: bytes,
        tag: str | None,
    ) -> Message:
        at = (topic.name, queue_id)
        record = self._record(request, topic, at, flag, born_host, body, properties)
        return *at, records.tags_code(tag) if tag else 0, record

    def _record(
        self,
        request: SendMessage,
        topic: TopicConfig,
        at: tuple[str, int],
        flag: int,
        born_host: bytes,
        body: bytes,
        properties: bytes,
    ) -> bytes:
        """The record of a message of `topic` that stands in the queue `at`, at first."""
        sys_flag = request.sys_flag & ~(records.MULTI_TAGS | records.TRANSACTION_MASK)
        if topic.filter_type == "MULTI_TAG":
            sys_flag |= records.MULTI_TAGS
        return records.encode_record(
            queue_id=at[1],
            flag=flag,
            sys_flag=sys_flag,
            born_timestamp_ms=request.born_timestamp,
            born_host=born_host,
            store_timestamp_ms=self.now_ms(),
            store_host=self.store_host,
            reconsume_times=request.reconsume_times,
            body=body,
            topic=at[0],
            properties=properties,
        )


def _items(body: bytes) -> list[records.BatchItem]:
    try:
        items = records.split_batch_body(body)
    except records.MalformedRecord as error:
        raise IllegalMessage(f"the batch cannot be read: {error}") from error
    if not items:
        raise IllegalMessage("the batch holds no message")
    if len(items) > BATCH_MESSAGES_MAX:
        raise IllegalMessage(
            f"the batch holds {len(items)} messages, at most {BATCH_MESSAGES_MAX} are allowed"
        )
    return items


def _without(text: str, keys: Collection[str]) -> str:
    """The properties but these, the others as they are."""
    pieces = (piece for piece in text.split("\x02") if piece)
    return "".join(f"{piece}\x02" for piece in pieces if piece.partition("\x01")[0] not in keys)


def declined(reason: Reason, topic: TopicConfig, queue_id: int) -> Refused:
    """The topic was deleted, or lost this queue, while the message was under way."""
    if reason is Reason.UNKNOWN_QUEUE:
        return QueueNotFound(topic.name, queue_id, topic.queues)
    return TopicNotFound(topic.name)


def _stored(
    replies: Sequence[MessageReply],
    store_host: bytes,
    queue_id: int,
    unique_id: str,
    handle: str | None,
) -> Answer[Any]:
    """Where the messages stand, rendered from a template: there is one answer per send.

    `transactionId` is the unique id: that is how Java clients learn it.
    """
    places = [reply for reply in replies if not isinstance(reply, Reason)]
    if len(places) == 1:
        ids = records.offset_message_id(store_host, places[0][1])
    else:
        ids = ",".join([records.offset_message_id(store_host, at) for _offset, at in places])
    offset = places[0][0]
    if handle is not None:
        return Answer(
            SendReply(
                msg_id=ids,
                queue_id=queue_id,
                queue_offset=offset,
                transaction_id=unique_id,
                recall_handle=handle,
                msg_region=REGION,
                trace_on=True,
            )
        )
    return Answer(rendered=render_send_reply(_REPLY, ids.encode(), queue_id, offset, unique_id))
