"""When messages were stored: for rooms that search by time or show it to operators.

The index is read on the loop, because one thread owns it. The time stands in the record itself,
which mostly is in the page cache; where it is not, that one read is done by a worker thread.
"""

from attrs import define

from broker.formats import UNIT_PLACE
from broker.store.consume_queues import Boundary, ConsumeQueues
from broker.store.message_reader import MessageReader
from dledger_py.runtime.host import Host


class Cold(Exception):
    """This position has to be read from the disk."""

    def __init__(self, position: int) -> None:
        super().__init__(position)
        self.position = position


@define(eq=False)
class StoredTimes:
    """Store times of messages, by queue and offset."""

    queues: ConsumeQueues
    reader: MessageReader
    host: Host

    async def of(self, topic: str, queue_id: int, offset: int) -> int | None:
        """When the message at this offset was stored, in ms; None if there is none."""
        unit = self.queues.range(topic, queue_id, offset, 1)
        if not unit:
            return None
        return await self._stored_ms(UNIT_PLACE.unpack(unit)[0])

    async def search(self, topic: str, queue_id: int, time_ms: int, boundary: Boundary) -> int:
        """The offset a point in time stands for. A search that meets a cold position starts again
        once that is known; it meets some twenty at most."""
        known: dict[int, int] = {}
        while True:
            try:
                return self.search_nowait(topic, queue_id, time_ms, boundary, known)
            except Cold as cold:
                known[cold.position] = await self._stored_ms(cold.position)

    def search_nowait(
        self, topic: str, queue_id: int, time_ms: int, boundary: Boundary, known: dict[int, int]
    ) -> int:
        """The same without waiting; `known` has the times of positions read so far, and gets more.

        Raises: Cold, for a position whose time the caller has to find out before it asks again.
        """

        def stored_ms(position: int) -> int:
            if position not in known:
                try:
                    known[position] = self.reader.stored_ms(position, nowait=True)
                except BlockingIOError:
                    raise Cold(position) from None
            return known[position]

        return self.queues.offset_by_time(stored_ms, topic, queue_id, time_ms, boundary)

    async def _stored_ms(self, position: int) -> int:
        try:
            return self.reader.stored_ms(position, nowait=True)
        except BlockingIOError:
            return await self.host.run_in_thread(self.reader.stored_ms, position)
