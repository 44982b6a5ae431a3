"""Request and reply: the answer of a consumer, pushed to the producer that waits for it.

A request is a message like others, which names its sender's client id. Whoever consumes it sends
the answer to `<cluster>_REPLY_TOPIC` at any broker of it, with that id as a property; the broker
finds the sender among its producers and hands the answer on.

Laws
- Success means that the requester has taken the reply. It is not stored: RocketMQ does by default,
  nobody reads it there, and one that came too late is of use to nobody.
- Whoever leads has no part in it: any member pushes to a client it knows, and asks the others for
  one it does not.

Source: protocol page 08 §7; ReplyMessageProcessor.java.
"""

from collections.abc import Callable
from typing import Any, Final

from attrs import define

from broker.errors import (
    ClientGone,
    ClientSilent,
    ClientUnknown,
    IllegalMessage,
    NotPermitted,
    QueueNotFound,
)
from broker.machine import names
from broker.machine.machine import Machine
from broker.rooms._admission import client_host, known_topic
from broker.rooms.sending import REGION
from broker.serving.client_calls import ClientCalls
from broker.serving.client_table import ClientTable
from dledger_py.remoting.commands.relays import PushReply, SendReplyMessage
from dledger_py.remoting.commands.sending import SendReply
from dledger_py.remoting.rooms import Answer, Caller, Refused, handles
from dledger_py.remoting.wire import properties as props
from dledger_py.remoting.wire.codes import ResponseCode
from dledger_py.remoting.wire.message import unpack_host

_NOT_STORED: Final = "0"  # the message id; Java's clients fail on an answer without one


@define(eq=False, kw_only=True)
class Replies:
    """Codes 324 and 325; says 326 to the clients."""

    machine: Machine
    table: ClientTable
    calls: ClientCalls
    store_host: bytes
    max_message_bytes: int
    now_ms: Callable[[], int]

    @handles(SendReplyMessage)
    async def reply(self, request: SendReplyMessage, caller: Caller) -> Answer[SendReply]:
        """Push the reply to the client that waits for it; success once that has taken it."""
        self._admit(request, caller)
        client_id = props.find(request.properties, props.REPLY_TO_CLIENT)
        if client_id is None:
            raise Refused(f"the reply has no property {props.REPLY_TO_CLIENT}: nobody waits for it")
        with self.calls.holding(caller.frame.size):
            client = self.table.producer(client_id)
            if client is None:
                answer: Answer[Any] | None = await self.calls.elsewhere(caller)
                if answer is None:
                    raise ClientUnknown(
                        f"push reply message fail, channel of <{client_id}> not found."
                    )
                return answer
            try:
                push = self._push(request, caller)
                taken = await self.calls.call(client, push, caller.frame.body)
            except (ClientSilent, ClientGone) as error:
                raise Refused(f"push reply message fail: {error.remark}") from error
        if taken.code != ResponseCode.SUCCESS:
            raise Refused(
                f"push reply message to <{client_id}> fail: it answered {taken.code},"
                f" {taken.remark or 'without a remark'}"
            )
        return Answer(
            SendReply(
                msg_id=_NOT_STORED,
                queue_id=max(0, request.queue_id),
                queue_offset=0,
                msg_region=REGION,
                trace_on=True,
            )
        )

    def _admit(self, request: SendReplyMessage, caller: Caller) -> None:
        """Raises: the refusal, if a message like this might not be sent there either."""
        if not names.producers_may_send(request.topic):
            raise NotPermitted(f"Sending message to topic[{request.topic}] is forbidden.")
        topic = known_topic(self.machine, request.topic)
        if not topic.writable:
            raise NotPermitted(f"the topic[{request.topic}] is read only")
        if request.queue_id >= topic.queues:
            raise QueueNotFound(topic.name, request.queue_id, topic.queues)
        size = len(caller.frame.body)
        if size > self.max_message_bytes:
            raise IllegalMessage(
                f"the message body is {size} bytes, at most {self.max_message_bytes} are allowed"
            )

    def _push(self, request: SendReplyMessage, caller: Caller) -> PushReply:
        now_ms = self.now_ms()
        return PushReply(
            producer_group=request.producer_group,
            topic=request.topic,
            default_topic=request.default_topic,
            default_topic_queue_nums=request.default_topic_queue_nums,
            queue_id=max(0, request.queue_id),
            sys_flag=request.sys_flag,
            born_timestamp=request.born_timestamp,
            flag=request.flag,
            properties=props.append(request.properties, props.PUSH_REPLY_TIME, str(now_ms)),
            reconsume_times=request.reconsume_times,
            unit_mode=request.unit_mode,
            born_host=_text(client_host(caller)),
            store_host=_text(self.store_host),
            store_timestamp=now_ms,
        )


def _text(packed: bytes) -> str:
    host, port = unpack_host(packed)
    return f"{host}:{port}"
