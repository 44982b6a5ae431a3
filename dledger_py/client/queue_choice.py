"""Which queue the next message goes to.  Pure.

Without a key, queues take turns, and a send that failed on one broker group goes to another when
there is one.  With a key (FIFO), the queue depends on the key and the queue list alone, and a
retry stays on it: order is worth more than a quicker answer.
"""

from collections.abc import Sequence

from attrs import define

from dledger_py.client.queues import Queue


def java_hash(text: str) -> int:
    """Java's `String.hashCode`: over UTF-16 units, wrapped to 32 bits, signed."""
    value = 0
    if text.isascii():
        for unit in text.encode("ascii"):
            value = (31 * value + unit) & 0xFFFFFFFF
    else:
        units = text.encode("utf-16-be", "surrogatepass")
        for at in range(0, len(units), 2):
            value = (31 * value + (units[at] << 8 | units[at + 1])) & 0xFFFFFFFF
    return value - (1 << 32) if value & 0x80000000 else value


def by_key(queues: Sequence[Queue], key: str) -> Queue:
    """The queue of FIFO group *key*: where Java's `SelectMessageQueueByHash` puts it, too.

    Changing the number of queues moves keys; order holds only between such changes.
    """
    return queues[abs(java_hash(key)) % len(queues)]


@define
class Turns:
    """Queues of one topic taking turns; starts anywhere, so that many producers spread."""

    _next: int

    def choose(self, queues: Sequence[Queue], avoid_broker: str | None = None) -> Queue:
        """The next queue; not one of *avoid_broker* while another group has one."""
        count = len(queues)
        for _ in range(count):
            queue = queues[self._next % count]
            self._next += 1
            if queue.broker != avoid_broker:
                return queue
        return queues[self._next % count]
