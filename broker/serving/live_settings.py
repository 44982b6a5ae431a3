"""Settings that an operator changes while the member runs, and what was changed before.

A change is validated as a whole, written down, and then told to whoever goes by it. It is this
member's own, as in RocketMQ: the room that takes it sees to it that the other members of the group
hear of it. What was changed outlives a restart and wins over the configuration file, until it is
changed again, or left to the file again by an empty value.

Elsewhere: the settings themselves and their limits (`broker.config`), the request
(`rooms.settings`).
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
import structlog
from attrs import define, evolve, field, frozen

from broker.config import BrokerConfig
from broker.errors import InvalidParameter, NotPermitted
from dledger_py.runtime.host import Host
from dledger_py.storage import FileSystem
from dledger_py.storage.files import replace_file

log = structlog.get_logger()

FILE_NAME: Final = "settings.json"
FILE_BYTES_MAX: Final = 64 * 1024


def _flag(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError("true or false is expected")
    return text.lower() == "true"


def _number(text: str) -> int:
    if not text.removeprefix("-").isdecimal() or len(text) > 18:
        raise ValueError("a whole number is expected")
    return int(text)


@frozen
class Changeable:
    """One setting under RocketMQ's name: ours, and how its text is read."""

    field: str
    read: Callable[[str], Any]


CHANGEABLE: Final[Mapping[str, Changeable]] = {
    "autoCreateTopicEnable": Changeable("auto_create_topics", _flag),
    "defaultTopicQueueNums": Changeable("default_topic_queues", _number),
    "enableMixedMessageType": Changeable("mixed_topics", _flag),
    "enableTopicMessageTypeCheck": Changeable("check_message_types", _flag),
    "fileReservedTime": Changeable("retention_hours", _number),
    "maxMessageSize": Changeable("max_message_bytes", _number),
    "transactionCheckInterval": Changeable("transaction_check_interval_ms", _number),
    "transactionCheckMax": Changeable("transaction_check_max", _number),
    "transactionTimeOut": Changeable("transaction_timeout_ms", _number),
    "useServerSideResetOffset": Changeable("server_side_reset", _flag),
}

HINTS: Final[Mapping[str, str]] = {
    "brokerPermission": "wipeWritePerm takes a group out of the routes of sends",
    "flushDiskType": "what is acknowledged must mean the same all the time",
}
"""What else to do, for settings somebody may look for."""


@define(eq=False, kw_only=True)
class LiveSettings:
    """The settings in force. `change` is for one caller at a time."""

    start: BrokerConfig
    """What file, environment and command line say."""
    files: FileSystem
    host: Host
    changed: dict[str, str] = field(factory=dict, init=False)
    """What differs from that, by RocketMQ's names."""
    config: BrokerConfig = field(init=False)
    _told: list[Callable[[BrokerConfig], None]] = field(factory=list, init=False)

    def __attrs_post_init__(self) -> None:
        self.config = self.start
        # One by one: what another release wrote must not keep this one from starting.
        for name, text in self._load().items():
            try:
                self.config = self.with_changes({**self.changed, name: text})
                self.changed[name] = text
            except (InvalidParameter, NotPermitted) as error:
                log.warning("settings.passed_over", setting=name, reason=error.remark)
        if self.changed:
            log.info("settings.changed_before", **self.changed)

    def on_change(self, told: Callable[[BrokerConfig], None]) -> None:
        """Call `told` with the settings after every change."""
        self._told.append(told)

    async def change(self, changes: Mapping[str, str]) -> None:
        """Take these values, an empty one being the file's.

        Durability: on disk on return. Raises: NotPermitted, InvalidParameter: nothing was changed.
        OSError: likewise.
        """
        changed = self._merged(changes)
        config = self.with_changes(changed)
        content = msgspec.json.encode(dict(sorted(changed.items())))
        directory = str(self.start.data_dir)
        await self.host.run_in_thread(
            lambda: replace_file(self.files, directory, FILE_NAME, content)
        )
        self.changed, self.config = changed, config
        log.info("settings.changed", **changes)
        for told in self._told:
            told(config)

    def with_changes(self, changed: Mapping[str, str]) -> BrokerConfig:
        """The settings at the start but for these. Raises: NotPermitted, InvalidParameter."""
        values: dict[str, Any] = {}
        for name, text in changed.items():
            known = CHANGEABLE.get(name)
            if known is None:
                hint = HINTS.get(name, f"these can be: {', '.join(CHANGEABLE)}")
                raise NotPermitted(f"{name!r:.80} cannot be changed while the broker runs; {hint}")
            try:
                values[known.field] = known.read(text)
            except ValueError as error:
                raise InvalidParameter(f"{name} = {text!r:.40}: {error}") from error
        try:
            return evolve(self.start, **values)
        except ValueError as error:
            raise InvalidParameter(str(error)) from error

    def _merged(self, changes: Mapping[str, str]) -> dict[str, str]:
        merged = {**self.changed, **changes}
        return {name: text for name, text in merged.items() if text or name not in CHANGEABLE}

    def _load(self) -> dict[str, str]:
        directory = str(self.start.data_dir)
        try:
            file = self.files.open(f"{directory}/{FILE_NAME}")
        except OSError:
            return {}  # nothing was ever changed
        try:
            return msgspec.json.decode(file.pread(FILE_BYTES_MAX, 0), type=dict[str, str])
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            log.warning("settings.unreadable", file=FILE_NAME, reason=str(error))
            return {}
        finally:
            file.close()
