"""How the consumers of a group are to get the messages of a topic: by pull, or by pop.

Laws: only what an operator has set is kept; everything else is by pull. A deleted topic or group
takes its modes along.

**Source**: RocketMQ's `MessageRequestModeManager.java`.
"""

from typing import Final

from attrs import define, field, frozen

from broker.machine.shapes import Plain

PULL: Final = "PULL"
POP: Final = "POP"
MODES: Final = frozenset({PULL, POP})

MODES_MAX: Final = 100_000
"""Of all topics together. It decides replies, so raising it is an upgrade."""


@frozen
class RequestMode:
    """The mode of one group for one topic."""

    mode: str = PULL
    pop_share_queues: int = 0
    """How many consumers share a queue besides the one that has it; 0 or fewer: all share all."""


@define
class RequestModes:
    """The table. Anyone may read it between two awaits; the rest is the machine's."""

    _modes: dict[tuple[str, str], RequestMode] = field(factory=dict)

    def get(self, topic: str, group: str) -> RequestMode | None:
        """What was set, if anything was."""
        return self._modes.get((topic, group))

    def has_room(self, topic: str, group: str) -> bool:
        """Whether the mode of this group for this topic can be set."""
        return len(self._modes) < MODES_MAX or (topic, group) in self._modes

    def put(self, topic: str, group: str, mode: RequestMode) -> bool:
        """Set it; False if it is set already."""
        changed = self._modes.get((topic, group)) != mode
        self._modes[topic, group] = mode
        return changed

    def drop_topic(self, topic: str) -> None:
        """Forget a deleted topic."""
        for key in [each for each in self._modes if each[0] == topic]:
            del self._modes[key]

    def drop_group(self, group: str) -> None:
        """Forget a deleted group."""
        for key in [each for each in self._modes if each[1] == group]:
            del self._modes[key]

    def state(self) -> Plain:
        """(topic, group, mode, queues shared), sorted."""
        return [
            [*key, mode.mode, mode.pop_share_queues] for key, mode in sorted(self._modes.items())
        ]
