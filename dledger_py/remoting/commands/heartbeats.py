"""The heartbeat's body, and the subscriptions inside it, as every client writes them.

Enum members come as names (Java, Go, ali-ons) or ordinals (C++), versions as numbers or strings,
code sets as numbers or strings, arrays as null or not at all: `json_bodies` takes them all. Tag
codes are computed from the tags here, never taken over: Go hashes other units than Java.
"""

from enum import IntEnum

from attrs import evolve, frozen

from dledger_py.remoting.commands.json_bodies import decode_body, encode_body
from dledger_py.remoting.wire.message import tags_code
from dledger_py.remoting.wire.schema import wire


class ConsumeType(IntEnum):
    CONSUME_ACTIVELY = 0  # pull
    CONSUME_PASSIVELY = 1  # push
    CONSUME_POP = 2


class MessageModel(IntEnum):
    BROADCASTING = 0
    CLUSTERING = 1


class ConsumeFromWhere(IntEnum):
    CONSUME_FROM_LAST_OFFSET = 0
    CONSUME_FROM_LAST_OFFSET_AND_FROM_MIN_WHEN_BOOT_FIRST = 1
    CONSUME_FROM_MIN_OFFSET = 2
    CONSUME_FROM_MAX_OFFSET = 3
    CONSUME_FROM_FIRST_OFFSET = 4
    CONSUME_FROM_TIMESTAMP = 5


TAG_EXPRESSION = "TAG"
SQL_EXPRESSION = "SQL92"


@frozen(kw_only=True)
class SubscriptionData:
    """One topic of a consumer group. `sub_version` is comparable within one client only."""

    topic: str
    sub_string: str = "*"
    sub_version: int = 0
    tags_set: tuple[str, ...] = ()  # empty for all
    code_set: tuple[int, ...] = ()
    expression_type: str = TAG_EXPRESSION
    class_filter_mode: bool = False


@frozen(kw_only=True)
class ConsumerData:
    """A client's membership in one consumer group."""

    group_name: str
    consume_type: ConsumeType = ConsumeType.CONSUME_PASSIVELY
    message_model: MessageModel = MessageModel.CLUSTERING
    consume_from_where: ConsumeFromWhere = ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET
    subscription_data_set: tuple[SubscriptionData, ...] = ()
    unit_mode: bool = False


@frozen(kw_only=True)
class ProducerData:
    group_name: str


@frozen(kw_only=True)
class HeartbeatData:
    """All groups of one client."""

    client_id: str = wire("clientID")
    producer_data_set: tuple[ProducerData, ...] = ()
    consumer_data_set: tuple[ConsumerData, ...] = ()
    heartbeat_fingerprint: int = 0
    without_sub: bool = False


def decode_heartbeat(body: bytes) -> HeartbeatData:
    """A heartbeat's body, subscriptions normalised. Raises: MalformedBody."""
    data = decode_body(HeartbeatData, body)
    consumers = tuple(
        evolve(
            consumer,
            subscription_data_set=tuple(map(normalised, consumer.subscription_data_set)),
        )
        for consumer in data.consumer_data_set
    )
    return evolve(data, consumer_data_set=consumers)


def encode_heartbeat(data: HeartbeatData) -> bytes:
    """What our client sends."""
    return encode_body(data)


def normalised(subscription: SubscriptionData) -> SubscriptionData:
    """With the expression type named and the codes computed from the tags."""
    return evolve(
        subscription,
        expression_type=subscription.expression_type or TAG_EXPRESSION,
        code_set=tuple(map(tags_code, subscription.tags_set)),
    )


def tag_subscription(topic: str, expression: str | None, version: int = 0) -> SubscriptionData:
    """The subscription a tag expression means: `*`, nothing, or tags separated by `||`.

    Source: FilterAPI.buildSubscriptionData.
    """
    text = expression or "*"
    tags = () if text == "*" else tuple(tag.strip() for tag in text.split("||") if tag.strip())
    return SubscriptionData(
        topic=topic,
        sub_string=text,
        sub_version=version,
        tags_set=tags,
        code_set=tuple(map(tags_code, tags)),
    )
