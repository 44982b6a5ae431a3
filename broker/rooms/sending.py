"""Storing messages: single, one-way and batch sends.

A send is admitted against the state applied so far, laid out as the record that will be stored, and
joins the turn's batch; its answer waits until the entry is durable at a quorum and applied, because
only applying assigns the offset. A topic that does not exist yet is created by an entry in front.

Source: protocol pages 02 (a), 03, 05 §4; AbstractSendMessageProcessor.java.
"""

import random
from collections.abc import Callable, Sequence
from typing import Any, Final

from attrs import define, field

from broker.errors import (
    IllegalMessage,
    InvalidParameter,
    NotPermitted,
    NotSupported,
    QueueNotFound,
    TopicNotFound,
)
from broker.machine import names
from broker.machine.codec import encode_command
from broker.machine.commands import EnsureTopics
from broker.machine.machine import Machine
from broker.machine.put_messages import Message
from broker.machine.replies import MessageReply, Reason
from broker.machine.topics import TopicConfig, retry_topic, topic_from_template
from broker.serving.leadership import BORN_HOST, Leadership
from broker.serving.put_batch import Proposer, PutBatch
from broker.serving.rates import Rates
from dledger_py.remoting.commands.sending import (
    SendMessage,
    render_send_reply,
    send_reply_template,
)
from dledger_py.remoting.rooms import Answer, Caller, Later, Refused, handles
from dledger_py.remoting.wire import message as records
from dledger_py.remoting.wire import properties as props

REGION: Final = "DefaultRegion"  # drives client-side tracing; Java: absent TRACE_ON means on

# What a message may ask for that this broker does not do yet. Storing it without doing it would be
# worse than refusing: the sender could not tell.
NOT_YET: Final = {
    "DELAY": "delayed delivery (property DELAY)",
    "TIMER_DELAY_SEC": "timed delivery (property TIMER_DELAY_SEC)",
    "TIMER_DELAY_MS": "timed delivery (property TIMER_DELAY_MS)",
    "TIMER_DELIVER_MS": "timed delivery (property TIMER_DELIVER_MS)",
    "TRAN_MSG": "a transactional message (property TRAN_MSG)",
}


_REPLY: Final = send_reply_template(REGION, trace_on=True)


@define(eq=False, kw_only=True)
class Sending:
    """Codes 10, 310 and 320. One instance answers all connections."""

    cluster_name: str
    broker_name: str
    store_host: bytes
    new_unique_id: Callable[[], str]
    auto_create: bool
    max_message_bytes: int
    machine: Machine
    ledger: Proposer
    batch: PutBatch
    leadership: Leadership
    rates: Rates
    now_ms: Callable[[], int]
    _added_properties: str = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._added_properties = "".join(
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
        topic = self._admit(request)
        queue_id = request.queue_id
        if queue_id < 0:
            queue_id = random.randrange(topic.write_queues)
        body = caller.frame.body
        if len(body) > self.max_message_bytes:
            raise IllegalMessage(
                f"the message body is {len(body)} bytes,"
                f" at most {self.max_message_bytes} are allowed"
            )
        born_host = _born_host(caller)
        messages: Sequence[Message]
        if request.batch:
            unique_ids, messages = self._batch(request, body, queue_id, born_host)
        else:
            unique_id, message = self._record(
                request, body, request.properties, request.flag, queue_id, born_host
            )
            unique_ids, messages = unique_id, (message,)
        later = caller.later()
        store_host, rates = self.store_host, self.rates

        def settled(replies: Sequence[MessageReply]) -> None:
            first = replies[0]
            if isinstance(first, Reason):
                later.refuse(_declined(first, request.topic, queue_id, topic.queues))
                return
            rates.put.total += len(replies)
            rates.put_bytes.total += len(body)
            rates.topic(request.topic).total += len(replies)
            later.answer(_stored(replies, store_host, queue_id, unique_ids))

        def failed(error: Exception) -> None:
            rates.put_refused.total += len(messages)
            later.refuse(error)

        self.batch.add(messages, settled, failed)
        return later

    # --- admission -----------------------------------------------------------------------------

    def _admit(self, request: SendMessage) -> TopicConfig:
        """The topic this send goes to, created on the way if need be.

        Raises: the refusal, if the send is not allowed.
        """
        name = request.topic
        topic = self.machine.topics.get(name)
        if topic is None:
            topic = self._create_on_use(request)
        if not topic.writable:
            raise NotPermitted(f"the broker[{self.broker_name}] topic[{name}] is not writable")
        if not names.producers_may_send(name):
            raise NotPermitted(f"Sending message to topic[{name}] is forbidden.")
        if request.queue_id >= topic.queues:
            raise QueueNotFound(name, request.queue_id, topic.queues)
        if request.sys_flag & records.TRANSACTION_MASK:
            raise NotSupported(NOT_YET["TRAN_MSG"])
        return topic

    def _create_on_use(self, request: SendMessage) -> TopicConfig:
        """Propose the topic just in front of its first message.

        The template is the topic named in the request (TBW102); it must allow inheriting.
        """
        name = request.topic
        fault = names.topic_fault(name)
        if fault is not None:
            raise InvalidParameter(fault)
        template = self.machine.topics.get(request.default_topic)
        if self.auto_create and template is not None and template.inheritable:
            topic = topic_from_template(name, template, request.default_topic_queue_nums)
        elif names.is_retry_topic(name):
            topic = retry_topic(name.removeprefix(names.RETRY_PREFIX))
        else:
            raise TopicNotFound(name)
        self.batch.propose()  # keep the order in which the turn's requests came
        command = EnsureTopics(stamped_ms=self.now_ms(), topics=(topic,))
        self.ledger.propose(encode_command(command), _ignore)
        return topic

    # --- records -------------------------------------------------------------------------------

    def _record(
        self,
        request: SendMessage,
        body: bytes,
        properties: str,
        flag: int,
        queue_id: int,
        born_host: bytes,
    ) -> tuple[str, Message]:
        """The unique id and the record of one message, offsets blank."""
        parsed = props.decode(properties)
        for key in NOT_YET.keys() & parsed.keys():
            if not (key == "DELAY" and parsed[key] == "0"):
                raise NotSupported(NOT_YET[key])
        unique_id = parsed.get(props.UNIQ_KEY)
        text = properties
        if props.POP_CK in parsed:  # a receipt of the copy the sender once got
            del parsed[props.POP_CK]
            text = props.encode(parsed)
        if text and not text.endswith("\x02"):
            text += "\x02"
        text += self._added_properties
        if unique_id is None:
            unique_id = self.new_unique_id()
            text += f"{props.UNIQ_KEY}\x01{unique_id}\x02"
        stored_properties = text.encode()
        if len(stored_properties) > props.PROPERTIES_SIZE_MAX:
            raise IllegalMessage(
                f"the properties are {len(stored_properties)} bytes,"
                f" at most {props.PROPERTIES_SIZE_MAX} are allowed"
            )
        tag = parsed.get(props.TAGS)
        tags_code = records.tags_code(tag) if tag else 0
        record = records.encode_record(
            queue_id=queue_id,
            flag=flag,
            sys_flag=request.sys_flag,
            born_timestamp_ms=request.born_timestamp,
            born_host=born_host,
            store_timestamp_ms=self.now_ms(),
            store_host=self.store_host,
            reconsume_times=request.reconsume_times,
            body=body,
            topic=request.topic,
            properties=stored_properties,
        )
        return unique_id, (request.topic, queue_id, tags_code, record)

    def _batch(
        self, request: SendMessage, body: bytes, queue_id: int, born_host: bytes
    ) -> tuple[str, list[Message]]:
        """The unique ids, comma-joined, and the records of a batch body."""
        if names.is_retry_topic(request.topic):
            raise IllegalMessage("batch request does not support retry group")
        try:
            items = records.split_batch_body(body)
        except records.MalformedRecord as error:
            raise IllegalMessage(f"the batch cannot be read: {error}") from error
        if not items:
            raise IllegalMessage("the batch holds no message")
        made = [
            self._record(
                request, item.body, item.properties.decode(), item.flag, queue_id, born_host
            )
            for item in items
        ]
        envelope = props.decode(request.properties).get(props.UNIQ_KEY)
        unique_ids = envelope or ",".join(unique_id for unique_id, _message in made)
        return unique_ids, [message for _unique_id, message in made]


def _born_host(caller: Caller) -> bytes:
    """Where the message came from, as records hold it; a forwarded one names its client."""
    forwarded = caller.frame.fields.get(BORN_HOST)
    if forwarded is not None:
        host, _, port = forwarded.rpartition(":")
        try:
            return records.pack_host(host, int(port))
        except ValueError as error:
            raise InvalidParameter(f"{BORN_HOST} {forwarded!r} is not host:port") from error
    return caller.connection.packed_remote


def _declined(reason: Reason, topic: str, queue_id: int, queues: int) -> Refused:
    if reason is Reason.UNKNOWN_QUEUE:
        return QueueNotFound(topic, queue_id, queues)
    return TopicNotFound(topic)


def _stored(
    replies: Sequence[MessageReply], store_host: bytes, queue_id: int, unique_ids: str
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
    return Answer(rendered=render_send_reply(_REPLY, ids.encode(), queue_id, offset, unique_ids))


def _ignore(_outcome: object) -> None:
    """The messages behind it in the log tell what became of the topic."""
