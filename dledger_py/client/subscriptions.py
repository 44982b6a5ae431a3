"""What a group reads: topics, which of their messages, and from where on."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Literal

from attrs import frozen

from dledger_py.remoting.commands.heartbeats import (
    ConsumeFromWhere,
    ConsumerData,
    tag_subscription,
)

RETRY_PREFIX = "%RETRY%"

From = Literal["last", "first"] | datetime
"""Where a group starts in a queue it has never committed an offset for."""


@frozen(kw_only=True)
class Subscription:
    """What a group reads of one topic."""

    topic: str
    expression: str
    tags: frozenset[str]
    """Empty for all."""

    def wants(self, tag: str | None) -> bool:
        """Whether a message with *tag* is for this group."""
        return not self.tags or tag in self.tags


@frozen(kw_only=True)
class Manner:
    """How a group is consumed."""

    concurrency: int
    from_: From
    max_reconsume_times: int | None
    """None: what the broker keeps for the group, usually 16; in order: without limit."""

    ordered: bool = False
    """One message of a queue after the other, and one member for each queue."""


def retries_of(group: str) -> Subscription:
    """The group's own retry topic, which every member reads."""
    return Subscription(topic=RETRY_PREFIX + group, expression="*", tags=frozenset())


def parse_subscriptions(
    subscriptions: Mapping[str, str] | Sequence[str] | str, check: Callable[[str], str]
) -> dict[str, Subscription]:
    """What a user subscribes to: topics with tag expressions, or topics alone."""
    if isinstance(subscriptions, str):
        subscriptions = {subscriptions: "*"}
    elif not isinstance(subscriptions, Mapping):
        subscriptions = dict.fromkeys(subscriptions, "*")
    if not subscriptions:
        raise ValueError("subscriptions: at least one topic is expected")
    found = {}
    for topic, expression in subscriptions.items():
        meant = tag_subscription(check(topic), expression)
        found[topic] = Subscription(
            topic=topic, expression=meant.sub_string, tags=frozenset(meant.tags_set)
        )
    return found


def consumer_data(
    group: str, subscriptions: Mapping[str, Subscription], from_: From, version: int
) -> ConsumerData:
    """What the brokers are told about a membership."""
    where = {
        "last": ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET,
        "first": ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET,
    }
    return ConsumerData(
        group_name=group,
        consume_from_where=(
            where[from_] if isinstance(from_, str) else ConsumeFromWhere.CONSUME_FROM_TIMESTAMP
        ),
        subscription_data_set=tuple(
            tag_subscription(each.topic, each.expression, version)
            for each in subscriptions.values()
        ),
    )
