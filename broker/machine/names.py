"""Names of topics and consumer groups: which are legal, which are the broker's own.

Laws: pure functions of the name (and of the cluster's and broker's names, which name topics too).
Whether a topic exists is elsewhere (`topics`); what a reserved topic looks like is too
(`standard_topics`).

**Source**: RocketMQ's `TopicValidator.java`, `Validators.java` and `MixAll.java`.
"""

import re
from typing import Final

TOPIC_LENGTH_MAX: Final = 127  # several clients read the record's topic length as one signed byte
GROUP_LENGTH_MAX: Final = 120  # so that %RETRY%<group> keeps within a topic's 127
DERIVED_TOPIC_LENGTH_MAX: Final = 255  # retry and dead-letter topics; RocketMQ's limit

RETRY_PREFIX: Final = "%RETRY%"
DEAD_LETTER_PREFIX: Final = "%DLQ%"
SYSTEM_TOPIC_PREFIX: Final = "rmq_sys_"
SYSTEM_GROUP_PREFIX: Final = "CID_RMQ_SYS_"

TEMPLATE_TOPIC: Final = "TBW102"
SELF_TEST_TOPIC: Final = "SELF_TEST_TOPIC"
BENCHMARK_TOPIC: Final = "BenchmarkTest"
OFFSET_MOVED_TOPIC: Final = "OFFSET_MOVED_EVENT"
SCHEDULE_TOPIC: Final = "SCHEDULE_TOPIC_XXXX"
HALF_TOPIC: Final = "RMQ_SYS_TRANS_HALF_TOPIC"
HALF_OP_TOPIC: Final = "RMQ_SYS_TRANS_OP_HALF_TOPIC"
CHECKS_EXHAUSTED_TOPIC: Final = "TRANS_CHECK_MAX_TIME_TOPIC"
TRACE_TOPIC: Final = "RMQ_SYS_TRACE_TOPIC"
TIMER_TOPIC: Final = "rmq_sys_wheel_timer"
CHECKPOINT_TOPIC: Final = "CHECKPOINT_TOPIC"

SYSTEM_TOPICS: Final = frozenset(
    {
        TEMPLATE_TOPIC,
        SELF_TEST_TOPIC,
        BENCHMARK_TOPIC,
        OFFSET_MOVED_TOPIC,
        SCHEDULE_TOPIC,
        HALF_TOPIC,
        HALF_OP_TOPIC,
        CHECKS_EXHAUSTED_TOPIC,
        TRACE_TOPIC,
        CHECKPOINT_TOPIC,
    }
)

CLOSED_TO_PRODUCERS: Final = frozenset(
    {
        SCHEDULE_TOPIC,
        HALF_TOPIC,
        HALF_OP_TOPIC,
        CHECKS_EXHAUSTED_TOPIC,
        SELF_TEST_TOPIC,
        OFFSET_MOVED_TOPIC,
        TIMER_TOPIC,
    }
)

PREDEFINED_GROUPS: Final = (
    "DEFAULT_PRODUCER",
    "DEFAULT_CONSUMER",
    "TOOLS_CONSUMER",
    "SCHEDULE_CONSUMER",
    "FILTERSRV_CONSUMER",
    "__MONITOR_CONSUMER",
    "CLIENT_INNER_PRODUCER",
    "SELF_TEST_P_GROUP",
    "SELF_TEST_C_GROUP",
    "CID_ONS-HTTP-PROXY",
    "CID_ONSAPI_PERMISSION",
    "CID_ONSAPI_OWNER",
    "CID_ONSAPI_PULL",
    "CID_RMQ_SYS_TRANS",
)

_LEGAL = re.compile(r"[%|A-Za-z0-9_-]+")


def topic_fault(name: str) -> str | None:
    """What is wrong with a topic's name, or None if it may be used."""
    derived = name.startswith((RETRY_PREFIX, DEAD_LETTER_PREFIX))
    return _fault("topic", name, DERIVED_TOPIC_LENGTH_MAX if derived else TOPIC_LENGTH_MAX)


def group_fault(name: str) -> str | None:
    """What is wrong with a group's name, or None if it may be used."""
    return _fault("group", name, GROUP_LENGTH_MAX)


def is_system_topic(name: str, *, cluster: str, broker: str) -> bool:
    """Whether operators may neither create, alter nor delete this topic."""
    return (
        name in SYSTEM_TOPICS
        or name.startswith(SYSTEM_TOPIC_PREFIX)
        or name in {cluster, broker, reply_topic_name(cluster)}
    )


def producers_may_send(topic: str) -> bool:
    """False for topics that only the broker itself writes."""
    return topic not in CLOSED_TO_PRODUCERS


def is_system_group(name: str) -> bool:
    """Whether a group is predefined or the broker's own; such groups are not deleted."""
    return name in PREDEFINED_GROUPS or name.startswith(SYSTEM_GROUP_PREFIX)


def is_retry_topic(topic: str) -> bool:
    """Whether the topic carries a group's retries."""
    return topic.startswith(RETRY_PREFIX)


def is_dead_letter_topic(topic: str) -> bool:
    """Whether the topic carries what a group could not consume."""
    return topic.startswith(DEAD_LETTER_PREFIX)


def retry_topic_name(group: str) -> str:
    """The topic of a group's retries."""
    return RETRY_PREFIX + group


def dead_letter_topic_name(group: str) -> str:
    """The topic of what a group could not consume."""
    return DEAD_LETTER_PREFIX + group


def pop_retry_topic_name(group: str, topic: str) -> str:
    """The topic of what a group popped of a topic and did not acknowledge in time."""
    return f"{RETRY_PREFIX}{group}_{topic}"


def reply_topic_name(cluster: str) -> str:
    """The topic of request-reply answers."""
    return f"{cluster}_REPLY_TOPIC"


def revive_topic_name(cluster: str) -> str:
    """The topic by which pop brings back what was not acknowledged."""
    return f"{SYSTEM_TOPIC_PREFIX}REVIVE_LOG_{cluster}"


def broker_member_topic_name(broker: str) -> str:
    """The topic that announces changes of a broker group's members."""
    return f"{SYSTEM_TOPIC_PREFIX}SYNC_BROKER_MEMBER_{broker}"


def _fault(kind: str, name: str, length_max: int) -> str | None:
    if not name:
        return f"the {kind} has no name"
    if len(name) > length_max:
        return (
            f"the name of {kind} {name[:32]!r}... has {len(name)} characters, {length_max} allowed"
        )
    if not _LEGAL.fullmatch(name):
        return f"{kind} {name!r}: only letters, digits and % | _ - are allowed"
    return None
