"""Positions that operators have given to groups and consumers have not taken up yet.

Laws: a reset is kept beside the offset it sets, until a consumer shows that it goes on from there:
it commits exactly that offset, or pulls from it, which the leader tells by a command. Till then
commits of that queue are void, since they tell of what was consumed before. So a change of leader
neither loses a reset nor repeats one that was taken up. The last reset of a queue is the one that
counts. A deleted topic or group takes its resets along.

**Source**: RocketMQ's `ConsumerOffsetManager.java`, which forgets its resets with the process, and
with the first pull that is told of one, heard or not.
"""

from collections.abc import Iterable
from typing import Final

from attrs import define, field

from broker.machine.shapes import Plain

RESETS_MAX: Final = 100_000
"""Queues of all groups together: bounds what resets of groups that nobody consumes with can make us
keep. It decides replies, so raising it is an upgrade."""

Queue = tuple[str, int]
"""(topic, queue id)."""

Reset = tuple[int, int]
"""(offset, stamp of the command in ms), which tells it from others to the same offset."""


@define
class Resets:
    """The table. Anyone may read it between two awaits; the rest is the machine's."""

    _groups: dict[str, dict[Queue, Reset]] = field(factory=dict)
    count: int = 0
    """How many are pending: readers that find none need not look further."""

    def get(self, group: str, topic: str, queue_id: int) -> Reset | None:
        """From where the group is to go on with the queue; None if its consumers know."""
        found = self._groups.get(group)
        return found.get((topic, queue_id)) if found else None

    def has_room(self, group: str, topic: str, queue_ids: Iterable[int]) -> bool:
        """Whether resets of these queues keep within `RESETS_MAX`."""
        known = self._groups.get(group, {})
        new = sum((topic, queue_id) not in known for queue_id in set(queue_ids))
        return self.count + new <= RESETS_MAX

    def put(self, group: str, topic: str, queue_id: int, reset: Reset) -> None:
        """Remember that consumers have to be told; an older reset of the queue is forgotten."""
        queues = self._groups.setdefault(group, {})
        self.count += (topic, queue_id) not in queues
        queues[topic, queue_id] = reset

    def end(self, group: str, topic: str, queue_id: int, offset: int) -> bool:
        """A consumer goes on from this offset; False if none was to."""
        reset = self.get(group, topic, queue_id)
        if reset is None or reset[0] != offset:
            return False
        self._drop(group, [(topic, queue_id)])
        return True

    def drop_topic(self, topic: str) -> None:
        """Forget a deleted topic, in every group."""
        for group, queues in list(self._groups.items()):
            self._drop(group, [queue for queue in queues if queue[0] == topic])

    def drop_group(self, group: str) -> None:
        """Forget a deleted group."""
        self._drop(group, list(self._groups.get(group, ())))

    def state(self) -> Plain:
        """All of it as plain values, sorted."""
        return [
            [group, topic, queue_id, offset, stamped_ms]
            for group, queues in sorted(self._groups.items())
            for (topic, queue_id), (offset, stamped_ms) in sorted(queues.items())
        ]

    def _drop(self, group: str, queues: Iterable[Queue]) -> None:
        pending = self._groups.get(group, {})
        for queue in queues:
            del pending[queue]
            self.count -= 1
        if not pending:
            self._groups.pop(group, None)
