"""What a group reads: topics, which of their messages, and from where on."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Literal

from attrs import field, frozen

from dledger_py.client.messages import checked_name
from dledger_py.remoting.commands.heartbeats import (
    SQL_EXPRESSION,
    TAG_EXPRESSION,
    ConsumeFromWhere,
    ConsumerData,
    MessageModel,
    SubscriptionData,
    tag_subscription,
)

RETRY_PREFIX = "%RETRY%"

GROUP_CHARACTERS_MAX = 120
"""Longer ones make retry topics that other languages' clients cannot read."""

From = Literal["last", "first"] | datetime
"""Where a group starts in a queue it has never committed an offset for."""


def _an_expression(_sql: "Sql", _attribute: object, expression: str) -> None:
    if not isinstance(expression, str) or not expression.strip():
        raise ValueError(f'expression {expression!r}: one like "amount > 5" is expected')


@frozen
class Sql:
    """Messages for which an SQL92 expression over their properties is true: see docs/filters.md."""

    expression: str = field(validator=_an_expression)


Selection = str | Sql
"""Which messages of a topic: tags ("a || b", "*" for all), or an expression."""


@frozen(kw_only=True)
class Subscription:
    """What a group reads of one topic."""

    topic: str
    expression: str
    expression_type: str = TAG_EXPRESSION
    tags: frozenset[str]
    """Empty for all, and with an expression of another type."""

    @property
    def selection(self) -> Selection:
        """As the user wrote it."""
        if self.expression_type == TAG_EXPRESSION:
            return self.expression
        return Sql(self.expression)

    def data(self, version: int = 0) -> SubscriptionData:
        """What the brokers are told about it."""
        if self.expression_type == TAG_EXPRESSION:
            return tag_subscription(self.topic, self.expression, version)
        return SubscriptionData(
            topic=self.topic,
            sub_string=self.expression,
            sub_version=version,
            expression_type=self.expression_type,
        )

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

    broadcast: bool = False
    """Every member reads everything, and nobody commits."""


def checked_group(group: str) -> str:
    """*group*, if a group may be called that."""
    checked_name("group", group)
    if len(group) > GROUP_CHARACTERS_MAX:
        raise ValueError(f"group {group!r}: at most {GROUP_CHARACTERS_MAX} characters are expected")
    return group


def checked_place(where: From) -> From:
    """*where*, if it is one."""
    if isinstance(where, datetime):
        if where.tzinfo is None:
            raise ValueError(f"{where}: a datetime with a time zone is expected")
    elif where not in ("last", "first"):
        raise ValueError(f"{where!r}: 'last', 'first' or a datetime is expected")
    return where


def retries_of(group: str) -> Subscription:
    """The group's own retry topic, which every member reads."""
    return Subscription(topic=RETRY_PREFIX + group, expression="*", tags=frozenset())


def parse_subscriptions(
    subscriptions: Mapping[str, Selection] | Sequence[str] | str, check: Callable[[str], str]
) -> dict[str, Subscription]:
    """What a user subscribes to: topics with tags or expressions, or topics alone."""
    if isinstance(subscriptions, str):
        subscriptions = {subscriptions: "*"}
    elif not isinstance(subscriptions, Mapping):
        subscriptions = dict.fromkeys(subscriptions, "*")
    if not subscriptions:
        raise ValueError("subscriptions: at least one topic is expected")
    found = {}
    for topic, selection in subscriptions.items():
        check(topic)
        if isinstance(selection, Sql):
            found[topic] = Subscription(
                topic=topic,
                expression=selection.expression,
                expression_type=SQL_EXPRESSION,
                tags=frozenset(),
            )
        elif selection is not None and not isinstance(selection, str):
            raise TypeError(
                f"{selection!r} of topic {topic!r}: '*', tags as in 'paid || shipped', or Sql(...)"
                " is expected"
            )
        else:
            meant = tag_subscription(topic, selection)
            found[topic] = Subscription(
                topic=topic, expression=meant.sub_string, tags=frozenset(meant.tags_set)
            )
    return found


def consumer_data(
    group: str, subscriptions: Mapping[str, Subscription], manner: Manner, version: int
) -> ConsumerData:
    """What the brokers are told about a membership."""
    where = {
        "last": ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET,
        "first": ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET,
    }
    from_ = manner.from_
    return ConsumerData(
        group_name=group,
        message_model=MessageModel.BROADCASTING if manner.broadcast else MessageModel.CLUSTERING,
        consume_from_where=(
            where[from_] if isinstance(from_, str) else ConsumeFromWhere.CONSUME_FROM_TIMESTAMP
        ),
        subscription_data_set=tuple(each.data(version) for each in subscriptions.values()),
    )
