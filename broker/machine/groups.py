"""The consumer groups of this broker group and their settings.

Elsewhere: how settings are kept (`config_tables`), who is connected (soft state, in
`broker.serving`), what a group has consumed (`offsets`).
"""

from typing import Final

from attrs import frozen

from broker.machine import names
from broker.machine.config_tables import ConfigTable

GROUPS_MAX: Final = (
    50_000  # half of TOPICS_MAX: each may bring a retry topic. Raising it: an upgrade
)
RETRY_POLICY_LENGTH_MAX: Final = 1024  # room for RocketMQ's list of some twenty pauses, many times
RETRY_QUEUES_MAX: Final = 1024


@frozen(kw_only=True)
class GroupConfig:
    """Settings of one group; defaults of RocketMQ's `SubscriptionGroupConfig.java`."""

    name: str
    consume_enable: bool = True
    consume_from_min_enable: bool = True
    consume_broadcast_enable: bool = True
    consume_message_orderly: bool = False
    retry_queues: int = 1
    retry_max_times: int = 16
    retry_policy: str = '{"type":"CUSTOMIZED"}'
    """Compact JSON, given back as it came; rooms look into it (`broker.rooms._retry_policies`)."""
    broker_id: int = 0
    which_broker_when_consume_slowly: int = 1
    notify_consumer_ids_changed_enable: bool = True
    sys_flag: int = 0
    consume_timeout_minutes: int = 15
    attributes: tuple[tuple[str, str], ...] = ()


class Groups(ConfigTable[GroupConfig]):
    """Every group, predefined ones too."""


def setting_fault(config: GroupConfig) -> str | None:
    """What is wrong with a group's settings, or None. Names are checked by `names.group_fault`."""
    if not 0 <= config.retry_queues <= RETRY_QUEUES_MAX:
        return (
            f"group {config.name!r}: {config.retry_queues} retry queues, "
            f"only 0-{RETRY_QUEUES_MAX} are possible"
        )
    if len(config.retry_policy) > RETRY_POLICY_LENGTH_MAX:
        return (
            f"group {config.name!r}: a retry policy of {len(config.retry_policy)} characters, "
            f"{RETRY_POLICY_LENGTH_MAX} allowed"
        )
    return None


def standard_groups() -> tuple[GroupConfig, ...]:
    """The groups every broker knows from its start; tools use them without creating them."""
    return tuple(GroupConfig(name=name) for name in names.PREDEFINED_GROUPS)
