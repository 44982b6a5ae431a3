"""The topics of this broker group and their settings.

Elsewhere: how settings are kept (`config_tables`), what stands in the queues (`queues`), which
names are legal (`names`), when a topic is created (the rooms propose it, `machine` decides).
"""

from typing import Final

from attrs import frozen

from broker.machine import names
from broker.machine.attributes import Attributes
from broker.machine.config_tables import ConfigTable
from broker.machine.timer_wheel import LEVELS_MS, WHEEL_QUEUES

PERM_READ: Final = 4
PERM_WRITE: Final = 2
PERM_INHERIT: Final = 1
PERM_MAX: Final = PERM_READ | PERM_WRITE | PERM_INHERIT

FILTER_TYPES: Final = frozenset({"SINGLE_TAG", "MULTI_TAG"})

QUEUES_MAX: Final = 65_536  # per topic. RocketMQ sets none; tools list every queue in one answer
TOPICS_MAX: Final = 100_000  # bounds what clients can make us keep by inventing names
# Both limits decide replies, hence are part of what a command means: raising one is an upgrade.


@frozen(kw_only=True)
class TopicConfig:
    """Settings of one topic; the defaults are those of RocketMQ's `TopicConfig.java`."""

    name: str
    read_queues: int = 16
    write_queues: int = 16
    perm: int = PERM_READ | PERM_WRITE
    filter_type: str = "SINGLE_TAG"
    sys_flag: int = 0
    order: bool = False
    attributes: Attributes = ()

    @property
    def queues(self) -> int:
        """How many queues may hold messages: while a topic shrinks, some are only read."""
        return max(self.read_queues, self.write_queues)

    @property
    def readable(self) -> bool:
        """Whether consumers may pull."""
        return bool(self.perm & PERM_READ)

    @property
    def writable(self) -> bool:
        """Whether producers may send."""
        return bool(self.perm & PERM_WRITE)

    @property
    def inheritable(self) -> bool:
        """Whether the topic serves as a template for topics created on their first message."""
        return bool(self.perm & PERM_INHERIT)


class Topics(ConfigTable[TopicConfig]):
    """Every topic, the broker's own and retry topics too."""


def setting_fault(config: TopicConfig) -> str | None:
    """What is wrong with a topic's settings, or None. Names are checked by `names.topic_fault`."""
    for kind, queues in (("read", config.read_queues), ("write", config.write_queues)):
        # RocketMQ lets an operator shrink one of the two to zero, to drain a topic.
        if not 0 <= queues <= QUEUES_MAX:
            return (
                f"topic {config.name!r}: {queues} {kind} queues, only 0-{QUEUES_MAX} are possible"
            )
    if not 0 <= config.perm <= PERM_MAX:
        return f"topic {config.name!r}: perm {config.perm}, only 0-{PERM_MAX} are possible"
    if config.filter_type not in FILTER_TYPES:
        return f"topic {config.name!r}: filter type {config.filter_type!r} is unknown"
    return None


def topic_from_template(name: str, template: TopicConfig, queues: int) -> TopicConfig:
    """What a topic becomes that a producer's first message creates."""
    clamped = max(1, min(queues, template.write_queues))
    return TopicConfig(
        name=name,
        read_queues=clamped,
        write_queues=clamped,
        perm=template.perm & ~PERM_INHERIT,
        sys_flag=template.sys_flag,
        filter_type=template.filter_type,
    )


def retry_topic(group: str, queues: int = 1) -> TopicConfig:
    """The topic a group's retries travel through."""
    return _topic(names.retry_topic_name(group), max(1, queues), PERM_READ | PERM_WRITE)


def dead_letter_topic(group: str) -> TopicConfig:
    """The topic that keeps what a group could not consume."""
    return _topic(names.dead_letter_topic_name(group), 1, PERM_READ | PERM_WRITE)


def standard_topics(
    cluster: str, broker: str, *, auto_create: bool = True, trace: bool = True
) -> tuple[TopicConfig, ...]:
    """The topics every broker group has from its start, as RocketMQ's brokers do.

    `auto_create` adds the template whose presence lets producers create topics by sending, `trace`
    the one to which clients send what became of messages: Go's do so only where it exists. A
    cluster named like its broker has one topic for both, the cluster's.
    """
    all_bits = PERM_READ | PERM_WRITE | PERM_INHERIT
    usual = PERM_READ | PERM_WRITE
    listed = (
        *((_topic(names.TEMPLATE_TOPIC, 8, all_bits),) if auto_create else ()),
        _topic(cluster, 16, all_bits),
        _topic(broker, 1, all_bits),
        _topic(names.SELF_TEST_TOPIC, 1, usual),
        _topic(names.BENCHMARK_TOPIC, 1024, usual),
        _topic(names.OFFSET_MOVED_TOPIC, 1, usual),
        _topic(names.SCHEDULE_TOPIC, len(LEVELS_MS), usual),
        _topic(names.HALF_TOPIC, 1, usual),
        _topic(names.HALF_OP_TOPIC, 1, usual),
        _topic(names.reply_topic_name(cluster), 1, usual),
        _topic(names.revive_topic_name(cluster), 8, usual),
        _topic(names.broker_member_topic_name(broker), 1, PERM_INHERIT),
        _topic(names.TIMER_TOPIC, WHEEL_QUEUES, usual),
        *((_topic(names.TRACE_TOPIC, 1, usual),) if trace else ()),
    )
    return tuple({config.name: config for config in reversed(listed)}.values())[::-1]


def _topic(name: str, queues: int, perm: int) -> TopicConfig:
    return TopicConfig(name=name, read_queues=queues, write_queues=queues, perm=perm)
