"""What kind of message one is, by its properties, and whether its topic is for that kind.

A topic says so by the attribute `message.type`; one that does not is for normal messages. Brokers
of RocketMQ keep the attribute and leave the check to its proxies, which do it unless told otherwise
(`enableTopicMessageTypeCheck`); here the broker does it, if told to.

**Source**: RocketMQ's `TopicMessageType.java`, `DefaultTopicMessageTypeValidator.java`; its proxy's
`AbstractRemotingActivity.java` for the code.
"""

from collections.abc import Mapping
from typing import Final

from broker.errors import IllegalMessage
from broker.machine import names
from broker.machine.topics import TopicConfig
from broker.serving.half_records import claims_half
from dledger_py.remoting.wire import properties as props

ATTRIBUTE: Final = "message.type"

NORMAL: Final = "NORMAL"
FIFO: Final = "FIFO"
DELAY: Final = "DELAY"
TRANSACTION: Final = "TRANSACTION"
MIXED: Final = "MIXED"

_FOR_LATER: Final = (
    props.DELAY,
    props.TIMER_DELIVER_MS,
    props.TIMER_DELAY_SEC,
    props.TIMER_DELAY_MS,
)


def type_of(properties: Mapping[str, str]) -> str:
    """The kind of a message; the first that its properties speak for."""
    if claims_half(properties):
        return TRANSACTION
    if any(key in properties for key in _FOR_LATER):
        return DELAY
    return FIFO if props.SHARDING_KEY in properties else NORMAL


def takes_all(topic: TopicConfig) -> bool:
    """Whether any kind may be sent to it: what comes back from consumers goes to retry and
    dead-letter topics, whatever it is."""
    return (
        names.is_retry_topic(topic.name)
        or names.is_dead_letter_topic(topic.name)
        or dict(topic.attributes).get(ATTRIBUTE) == MIXED
    )


def check_type(topic: TopicConfig, properties: Mapping[str, str]) -> None:
    """Raises: IllegalMessage, if the topic is not for this kind."""
    if takes_all(topic):
        return
    expected = dict(topic.attributes).get(ATTRIBUTE, NORMAL)
    actual = type_of(properties)
    if actual != expected:
        raise IllegalMessage(
            f"TopicMessageType validate failed, the expected type is {expected}, but actual type"
            f" is {actual}: topic '{topic.name}' has {ATTRIBUTE} {expected}"
        )
