"""Which queue the next message goes to.  Pure.

Without a key, queues take turns, and a send that failed on one broker group goes to another when
there is one.  With a key (FIFO), the queue depends on the key and the queue list alone, and a
retry stays on it: order is worth more than a quicker answer.
"""

from collections.abc import Sequence

from attrs import define

from dledger_py.client.queues import Queue
from dledger_py.remoting.wire.message import tags_code


def by_key(queues: Sequence[Queue], key: str) -> Queue:
    """The queue of FIFO group *key*: where Java's `SelectMessageQueueByHash` puts it, too.

    Tags are hashed by Java's `String.hashCode`, and so are keys here.

    Changing the number of queues moves keys; order holds only between such changes.
    """
    return queues[abs(tags_code(key)) % len(queues)]


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
