"""Consumers that pop: each message is theirs for a while, and some of them say nothing at first."""

from itertools import count

import trio
from attrs import define

from chaos.checkers.history import Outcome, PopAcknowledged, Popped
from chaos.checkers.pops import GROUP, TOPIC
from chaos.workloads.attempts import Attempts, now_ms
from dledger_py.remoting.commands.popping import (
    ANY_QUEUE,
    AckMessage,
    Handle,
    Origin,
    PopMessage,
    PopReply,
    decode_handle,
    parse_popped,
)
from dledger_py.remoting.wire import properties as props
from dledger_py.remoting.wire.codes import ResponseCode
from dledger_py.remoting.wire.message import Record, decode_records

QUEUES = 2
CONSUMERS = 3
PAUSE_S = 0.05
AGAIN_S = 0.05
INVISIBLE_MS = 4_000
"""Longer than an election: an acknowledgement that waits for a leader is to be in time."""

POLL_MS = 500
BATCH = 4

FATES = ("taken", "taken", "silent", "taken")
"""In turns. Of what is `silent` its first consumer says nothing."""


@define(eq=False, kw_only=True)
class Pops:
    """The producer and the consumers."""

    attempts: Attempts

    async def produce(self, stopped: trio.Event) -> None:
        """Send messages, in whose values stands what becomes of them, until `stopped`."""
        brokers = self.attempts.brokers
        for number in count():
            if stopped.is_set():
                return
            broker = brokers[number % len(brokers)]
            value = f"{FATES[number % len(FATES)]}-{number:06d}"
            await self.attempts.send(TOPIC, broker, number % QUEUES, value)
            await trio.sleep(PAUSE_S)

    async def consume(self) -> None:
        """Be the group until cancelled: several consumers of each broker."""
        async with trio.open_nursery() as consumers:
            for broker in self.attempts.brokers:
                for _ in range(CONSUMERS):
                    consumers.start_soon(self._pop_for_ever, broker)

    async def _pop_for_ever(self, broker: str) -> None:
        while True:
            began_ms = now_ms()
            request = PopMessage(
                consumer_group=GROUP,
                topic=TOPIC,
                queue_id=ANY_QUEUE,
                max_msg_nums=BATCH,
                invisible_time=INVISIBLE_MS,
                poll_time=POLL_MS,
                born_time=began_ms,
            )
            ending = await self.attempts.call(
                TOPIC, broker, request, accept=(0, ResponseCode.POLLING_TIMEOUT)
            )
            if ending.reply is None or ending.reply.code != ResponseCode.SUCCESS:
                await trio.sleep(0 if ending.done else AGAIN_S)
                continue
            for record in decode_records(ending.reply.body):
                handle = _handle_of(record, ending.reply.header, broker)
                value = record.body.decode()
                self.attempts.recorder.add(
                    Popped(
                        value=value,
                        began_ms=began_ms,
                        popped_ms=handle.pop_ms,
                        until_ms=handle.pop_ms + handle.invisible_ms,
                        times=record.reconsume_times,
                    )
                )
                if not value.startswith("silent") or record.reconsume_times:
                    await self._acknowledge(value, handle)

    async def _acknowledge(self, value: str, handle: Handle) -> None:
        """Until that is heard, or the message is the consumer's no more."""
        until_ms = handle.pop_ms + handle.invisible_ms
        request = AckMessage(
            consumer_group=GROUP,
            topic=handle.real_topic(GROUP, TOPIC),
            queue_id=handle.queue_id,
            extra_info=handle.encode(),
            offset=handle.offset,
        )
        while now_ms() < until_ms:
            ending = await self.attempts.call(TOPIC, handle.broker_name, request)
            self.attempts.recorder.add(
                PopAcknowledged(
                    value=value,
                    popped_ms=handle.pop_ms,
                    until_ms=until_ms,
                    at_ms=now_ms(),
                    outcome=ending.outcome,
                )
            )
            if ending.outcome is Outcome.DONE:
                return
            await trio.sleep(AGAIN_S)


def _handle_of(record: Record, reply: PopReply, broker: str) -> Handle:
    """As clients make it."""
    text = record.property(props.POP_CK)
    if text is not None:
        return decode_handle(text)
    queue = parse_popped(reply)[Origin.TOPIC, record.queue_id]
    return Handle(
        first_offset=queue.first_offset,
        pop_ms=reply.pop_time,
        invisible_ms=reply.invisible_time,
        revive_qid=reply.revive_qid,
        origin=queue.origin,
        broker_name=broker,
        queue_id=record.queue_id,
        offset=record.queue_offset,
    )
