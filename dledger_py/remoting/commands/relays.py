"""What a broker hands on between two clients: replies, and an operator's questions to a consumer.

The same code travels twice for the questions: from the tool to the broker, and from the broker to
the consumer.
"""

from collections.abc import Mapping

from attrs import Factory, define, frozen

from dledger_py.remoting.commands.sending import LETTERS, SendMessage
from dledger_py.remoting.commands.statistics import MessageQueue
from dledger_py.remoting.wire.codes import RequestCode
from dledger_py.remoting.wire.schema import Int32, Request, spelled


@define(kw_only=True)
class SendReplyMessage(SendMessage):
    """Hand a reply on to the client whose request it answers; body: the reply's. Code 324."""

    code = RequestCode.SEND_REPLY_MESSAGE


spelled(SendReplyMessage, RequestCode.SEND_REPLY_MESSAGE_V2, **LETTERS)


@frozen(kw_only=True)
class PushReply(Request[None]):
    """Server to client: the reply to a request of yours; body: the reply's. Code 326.

    The hosts are host:port. Success means that the client has taken it.
    """

    code = RequestCode.PUSH_REPLY_MESSAGE_TO_CLIENT
    producer_group: str
    topic: str
    default_topic: str
    default_topic_queue_nums: Int32
    queue_id: Int32
    sys_flag: Int32
    born_timestamp: int
    flag: Int32
    born_host: str
    store_host: str
    store_timestamp: int
    properties: str | None = None
    reconsume_times: Int32 | None = None
    unit_mode: bool = False


@frozen(kw_only=True)
class GetConsumerRunningInfo(Request[None]):
    """What a consumer is doing; answered by the consumer, as its language writes it. Code 307."""

    code = RequestCode.GET_CONSUMER_RUNNING_INFO
    consumer_group: str
    client_id: str
    jstack_enable: bool = False


@frozen(kw_only=True)
class ConsumeDirectly(Request[None]):
    """Let a consumer consume one message now; answered by the consumer. Code 309.

    The tool names the message by its offset message id; the broker sends it along as the body.
    """

    code = RequestCode.CONSUME_MESSAGE_DIRECTLY
    consumer_group: str
    msg_id: str
    client_id: str | None = None
    broker_name: str | None = None
    topic: str | None = None
    topic_sys_flag: Int32 | None = None
    group_sys_flag: Int32 | None = None


@frozen(kw_only=True)
class ConsumerStatus:
    """Where consumers are: a client fills the first table, a broker the second, by client id."""

    message_queue_table: Mapping[MessageQueue, int] = Factory(dict)
    consumer_table: Mapping[str, Mapping[MessageQueue, int]] = Factory(dict)


@frozen(kw_only=True)
class GetConsumerStatus(Request[None]):
    """Where a group's consumers are in a topic's queues; body: ConsumerStatus. Code 223.

    `client_addr` is a client id, whatever its name says; without it all are asked.
    """

    code = RequestCode.INVOKE_BROKER_TO_GET_CONSUMER_STATUS
    topic: str
    group: str
    client_addr: str | None = None


@frozen(kw_only=True)
class GetStatusFromClient(Request[None]):
    """Server to client: where are you in this topic's queues; body: ConsumerStatus. Code 221."""

    code = RequestCode.GET_CONSUMER_STATUS_FROM_CLIENT
    topic: str
    group: str
    client_addr: str | None = None
