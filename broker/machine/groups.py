"""The consumer groups of this broker group and their settings.

Laws: as for topics: an unchanged setting changes nothing. Elsewhere: who is connected (soft state,
in `broker.serving`), what a group has consumed (`offsets`).
"""

from collections.abc import Iterable, Iterator
from typing import Final

from attrs import define, field, frozen

from broker.machine import names
from broker.machine.topics import DataVersion

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
    """Compact JSON, given back as it came: only pop and proxies look into it."""
    broker_id: int = 0
    which_broker_when_consume_slowly: int = 1
    notify_consumer_ids_changed_enable: bool = True
    sys_flag: int = 0
    consume_timeout_minutes: int = 15
    attributes: tuple[tuple[str, str], ...] = ()


@define
class Groups:
    """The table. Anyone may read it between two awaits; `put` and `drop` are the machine's."""

    data_version: DataVersion = DataVersion()
    _configs: dict[str, GroupConfig] = field(factory=dict)

    def get(self, name: str) -> GroupConfig | None:
        """The group's settings, or None if there is no such group."""
        return self._configs.get(name)

    def __contains__(self, name: str) -> bool:
        return name in self._configs

    def __len__(self) -> int:
        return len(self._configs)

    def __iter__(self) -> Iterator[GroupConfig]:
        return iter(self._configs.values())

    def names(self) -> tuple[str, ...]:
        """Every group, predefined ones too."""
        return tuple(self._configs)

    def put(self, configs: Iterable[GroupConfig], stamped_ms: int) -> tuple[str, ...]:
        """Create or replace; the names that really changed. One data version for all of them."""
        changed = tuple(c for c in configs if self._configs.get(c.name) != c)
        if changed:
            self._configs.update((config.name, config) for config in changed)
            self.data_version = self.data_version.next(stamped_ms)
        return tuple(config.name for config in changed)

    def drop(self, name: str, stamped_ms: int) -> bool:
        """Forget a group; False if there was none."""
        if self._configs.pop(name, None) is None:
            return False
        self.data_version = self.data_version.next(stamped_ms)
        return True


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
