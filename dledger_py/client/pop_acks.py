"""Acknowledging what was popped: many messages in one request, where many are done with at once.

The laws.

* One request is under way to each broker group; what is said meanwhile goes into the next, together
  (code 200151).  So nothing waits but for an answer, and a message that comes alone goes alone.
* Whoever acknowledges hears of the answer.  A broker passes over what it cannot find in a batch:
  its handle was void, and saying so would change nothing.
* A broker that knows no batches is told one by one from then on: they came with RocketMQ 5.1.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice

import anyio
from attrs import define, field

from dledger_py.client.asking import Asker
from dledger_py.client.errors import ClientError, ResponseError
from dledger_py.client.queues import Queue
from dledger_py.remoting.commands.json_bodies import encode_body
from dledger_py.remoting.commands.popping import (
    BATCH_BYTES_MAX,
    AckMessage,
    AckMessages,
    BatchAck,
    BatchAcks,
    Handle,
    ack_bits,
)
from dledger_py.remoting.wire.codes import ResponseCode

SETTLE_S = 5.0
"""How long the broker is told what became of a message; then it comes again by itself."""

BATCH_MAX = 1024
"""Messages of one request; our brokers take 16,384."""

SPAN_MAX = 8 * BATCH_BYTES_MAX
"""Offsets of one pop of a queue that one row has bits for; a filter may leave more between two."""


@define(eq=False)
class _Said:
    """One message that somebody is done with."""

    queue: Queue
    handle: Handle
    told: bool = False
    error: ClientError | None = None


@define(eq=False)
class _Broker:
    """What one broker group is to be told."""

    turn: anyio.Lock = field(factory=anyio.Lock)
    waiting: deque[_Said] = field(factory=deque)
    knows_batches: bool = True


@define(eq=False)
class Acknowledger:
    """Tells brokers what a group is done with."""

    asker: Asker
    group: str
    _brokers: dict[str, _Broker] = field(factory=dict, init=False)

    async def acknowledge(self, queue: Queue, handle: Handle) -> None:
        """Returns once the broker has answered; *queue* says which it is, and what was popped.

        **Raises** ClientError if it did not within `SETTLE_S`, once it was this message's turn.
        """
        said = _Said(queue, handle)
        broker = self._brokers.setdefault(queue.broker, _Broker())
        broker.waiting.append(said)
        async with broker.turn:
            if not said.told:
                await self._tell(broker, list(islice(broker.waiting, BATCH_MAX)))
        if said.error is not None:
            raise said.error

    async def _tell(self, broker: _Broker, batch: Sequence[_Said]) -> None:
        near = [each for each in batch if _span(each.handle) < SPAN_MAX]
        alone = [each for each in batch if _span(each.handle) >= SPAN_MAX]
        batches = len(near) > 1 and broker.knows_batches
        if not batches or not await self._tell_together(broker, near):
            alone += near
        async with anyio.create_task_group() as calls:
            for said in alone:
                calls.start_soon(self._tell_one, said)
        for said in batch:
            said.told = True
            broker.waiting.popleft()

    async def _tell_together(self, broker: _Broker, batch: Sequence[_Said]) -> bool:
        """False if the broker does not know how."""
        queue = batch[0].queue
        body = BatchAcks(broker_name=queue.broker, acks=tuple(_rows(self.group, batch)))
        try:
            await self.asker.ask(queue, AckMessages(), SETTLE_S, body=encode_body(body))
        except ClientError as error:
            if isinstance(error, ResponseError) and (
                error.code == ResponseCode.REQUEST_CODE_NOT_SUPPORTED
            ):
                broker.knows_batches = False
                return False
            for said in batch:
                said.error = error
        return True

    async def _tell_one(self, said: _Said) -> None:
        handle = said.handle
        request = AckMessage(
            consumer_group=self.group,
            topic=handle.real_topic(self.group, said.queue.topic),
            queue_id=handle.queue_id,
            extra_info=handle.encode(),
            offset=handle.offset,
        )
        try:
            await self.asker.ask(said.queue, request, SETTLE_S)
        except ClientError as error:
            said.error = error


def _span(handle: Handle) -> int:
    return handle.offset - handle.first_offset


def _rows(group: str, batch: Iterable[_Said]) -> Iterable[BatchAck]:
    """One for what was popped of a queue together."""
    pops: dict[tuple[object, ...], list[_Said]] = {}
    for said in batch:
        handle = said.handle
        key = (said.queue.topic, handle.origin, handle.queue_id, handle.first_offset, handle.pop_ms)
        pops.setdefault(key, []).append(said)
    for together in pops.values():
        first = together[0]
        handle = first.handle
        yield BatchAck(
            group=group,
            topic=first.queue.topic,
            origin=handle.origin.value,
            first_offset=handle.first_offset,
            queue_id=handle.queue_id,
            revive_qid=handle.revive_qid,
            pop_ms=handle.pop_ms,
            invisible_ms=handle.invisible_ms,
            bits=ack_bits(handle.first_offset, {each.handle.offset for each in together}),
        )
