"""Which consumer owns which queue, for groups that consume in order.

Laws: a queue has at most one owner in each group. It goes to whoever asks while it is free, stays
with him as long as he asks again in time, and is free once he lets go or has not asked for
`LEASE_MS`. Clients take an own lock for lost after half of that, so nobody works on a queue that
another has been given. Time is what commands are stamped with: a lease survives a change of leader,
and where the new leader's clock is behind, it lasts longer by no more than one lease.

Elsewhere: whether the queue exists (`machine`); retries of such groups, which count here.

**Source**: RocketMQ's `RebalanceLockManager.java`, which forgets all locks with its process.
"""

from collections.abc import Iterable
from typing import Final

from attrs import define, field

from broker.machine.commands import Queue
from broker.machine.shapes import Plain

LEASE_MS: Final = 60_000

LOCKS_MAX: Final = 100_000
"""Of all groups together: bounds what clients can make us keep by inventing names. More are not
given, as if the queues were owned by somebody else. It decides replies, so raising it is an
upgrade."""


@define
class Lock:
    """Who owns a queue, and the stamp of when he last asked for it."""

    owner: str
    renewed_ms: int


@define
class Locks:
    """The table. Anyone may read it between two awaits; the rest is the machine's."""

    _groups: dict[str, dict[Queue, Lock]] = field(factory=dict)
    _count: int = 0

    def consumes_in_order(self, group: str, now_ms: int) -> bool:
        """Whether any consumer of the group owns a queue at this moment."""
        return any(_holds(lock, now_ms) for lock in self._groups.get(group, {}).values())

    def take(
        self, group: str, owner: str, queues: Iterable[Queue], stamped_ms: int
    ) -> tuple[Queue, ...]:
        """Give the owner those of the queues that nobody else owns; those he owns now."""
        self._sweep(group, stamped_ms)
        locks = self._groups.setdefault(group, {})
        owned: list[Queue] = []
        for queue in dict.fromkeys(queues):
            lock = locks.get(queue)
            if lock is None:
                if self._count >= LOCKS_MAX:
                    continue
                locks[queue] = Lock(owner, stamped_ms)
                self._count += 1
            elif lock.owner == owner:
                lock.renewed_ms = stamped_ms
            else:
                continue
            owned.append(queue)
        self._forget_if_empty(group)
        return tuple(owned)

    def release(self, group: str, owner: str, queues: Iterable[Queue]) -> bool:
        """Free those of the queues that are this owner's; False if none was."""
        locks = self._groups.get(group, {})
        freed = [
            queue
            for queue in dict.fromkeys(queues)
            if (lock := locks.get(queue)) is not None and lock.owner == owner
        ]
        self._drop(group, freed)
        return bool(freed)

    def drop_topic(self, topic: str) -> None:
        """Forget a deleted topic, in every group."""
        for group, locks in list(self._groups.items()):
            self._drop(group, [queue for queue in locks if queue[0] == topic])

    def drop_group(self, group: str) -> None:
        """Forget a deleted group."""
        self._drop(group, list(self._groups.get(group, ())))

    def state(self) -> Plain:
        """All of it as plain values, sorted."""
        return [
            [group, topic, queue_id, lock.owner, lock.renewed_ms]
            for group, locks in sorted(self._groups.items())
            for (topic, queue_id), lock in sorted(locks.items(), key=_queue)
        ]

    def put(self, group: str, queue: Queue, lock: Lock) -> None:
        """Take one over from a snapshot."""
        self._groups.setdefault(group, {})[queue] = lock
        self._count += 1

    def _sweep(self, group: str, stamped_ms: int) -> None:
        """Free what was not asked for in time; if there is no room left, of every group."""
        groups = list(self._groups) if self._count >= LOCKS_MAX else [group]
        for name in groups:
            locks = self._groups.get(name, {})
            for lock in locks.values():
                # A leader's clock that is behind the last one's begins the lease again.
                lock.renewed_ms = min(lock.renewed_ms, stamped_ms)
            over = [queue for queue, lock in locks.items() if not _holds(lock, stamped_ms)]
            self._drop(name, over)

    def _drop(self, group: str, queues: Iterable[Queue]) -> None:
        locks = self._groups.get(group)
        if locks is None:
            return
        for queue in queues:
            del locks[queue]
            self._count -= 1
        self._forget_if_empty(group)

    def _forget_if_empty(self, group: str) -> None:
        if not self._groups.get(group, True):
            del self._groups[group]


def _holds(lock: Lock, now_ms: int) -> bool:
    return now_ms - lock.renewed_ms <= LEASE_MS


def _queue(item: tuple[Queue, Lock]) -> Queue:
    return item[0]
