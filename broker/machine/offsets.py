"""How far each group has consumed each queue.

Laws: the last value wins, also backwards: whoever consumes knows best where it stands. A negative
offset means *not set*: it erases what was there. A queue never consumed has no offset. Offsets of a
deleted topic go with it, because a topic of the same name starts its queues at 0 again.

**Source**: RocketMQ's `ConsumerOffsetManager.java`; it keys by `topic@group` where we nest.
"""

from collections.abc import Mapping
from types import MappingProxyType

from attrs import define, field

from broker.machine.shapes import Plain

_NONE: Mapping[int, int] = MappingProxyType({})


@define
class Offsets:
    """The table. Anyone may read it between two awaits; the rest is the machine's."""

    _groups: dict[str, dict[str, dict[int, int]]] = field(factory=dict)

    def get(self, group: str, topic: str, queue_id: int) -> int | None:
        """The next offset the group wants of this queue, or None if it is not set."""
        return self.of_topic(group, topic).get(queue_id)

    def of_topic(self, group: str, topic: str) -> Mapping[int, int]:
        """Queue id → offset, of the queues that have one. A view: copy it to keep it."""
        return self._groups.get(group, {}).get(topic, _NONE)

    def topics_of(self, group: str) -> tuple[str, ...]:
        """The topics of which a group has consumed anything."""
        return tuple(self._groups.get(group, ()))

    def groups_of(self, topic: str) -> tuple[str, ...]:
        """The groups that have consumed anything of a topic."""
        return tuple(group for group, topics in self._groups.items() if topic in topics)

    def groups(self) -> tuple[str, ...]:
        """Every group with an offset, even one whose settings were deleted."""
        return tuple(self._groups)

    def state(self) -> Plain:
        """All of it as plain values, sorted."""
        return [
            [group, topic, queue_id, offset]
            for group, topics in sorted(self._groups.items())
            for topic, queues in sorted(topics.items())
            for queue_id, offset in sorted(queues.items())
        ]

    def put(self, group: str, topic: str, queue_id: int, offset: int) -> None:
        """Remember an offset; a negative one erases."""
        if offset >= 0:
            self._groups.setdefault(group, {}).setdefault(topic, {})[queue_id] = offset
            return
        queues = self._groups.get(group, {}).get(topic, {})
        if queues.pop(queue_id, None) is not None and not queues:
            self._forget(group, topic)

    def drop_topic(self, topic: str) -> None:
        """Forget a deleted topic, in every group."""
        for group in self.groups_of(topic):
            self._forget(group, topic)

    def drop_group(self, group: str) -> bool:
        """Forget everything a group has consumed; False if that was nothing."""
        return self._groups.pop(group, None) is not None

    def _forget(self, group: str, topic: str) -> None:
        del self._groups[group][topic]
        if not self._groups[group]:
            del self._groups[group]
