"""What consumers say of messages they popped: done with it, or not for so long or for longer.

Both go through the log, many in one entry, and are answered once that is applied. What a handle is
of no use for any more, since its message was acknowledged, moved for another try, or given another
time, is answered like a success where a consumer says that it is done: it cannot do anything about
it, and RocketMQ says the same. Where it wants another time it is told.

Source: protocol pages 02 (e), 06 §10 and 08 §4; AckMessageProcessor.java,
ChangeInvisibleTimeProcessor.java.
"""

from collections.abc import Iterable
from typing import Any, Final

from attrs import define

from broker.errors import (
    GroupNotFound,
    HandleOutdated,
    IllegalMessage,
    InvalidParameter,
    NothingThere,
)
from broker.machine import names
from broker.machine.commands import Ack
from broker.machine.machine import Machine
from broker.machine.pops import MESSAGES_MAX, count_of, runs_of
from broker.machine.replies import Reason
from broker.rooms._admission import known_topic
from broker.rooms._pop_queues import INVISIBLE_MS_MAX
from broker.serving.leadership import Leadership
from broker.serving.pop_batch import PopBatch
from broker.store.consume_queues import ConsumeQueues
from dledger_py.remoting.commands.json_bodies import decode_body
from dledger_py.remoting.commands.popping import (
    AckMessage,
    AckMessages,
    BatchAck,
    BatchAcks,
    ChangeInvisibleTime,
    Handle,
    InvisibleTimeReply,
    Origin,
    decode_handle,
    real_topic,
)
from dledger_py.remoting.rooms import Answer, Caller, Later, Refused, handles
from dledger_py.remoting.wire.schema import Malformed

BATCH_MAX: Final = 16_384
"""Messages of one batch: proxies acknowledge a few hundred at a time. Each may be of another group
and topic, and all of them are in one entry of the log: some 7 MB with the longest names."""


@define(eq=False, kw_only=True)
class PoppingAcks:
    """Codes 200051, 200053 and 200151."""

    machine: Machine
    queues: ConsumeQueues
    batch: PopBatch
    leadership: Leadership

    @handles(AckMessage)
    def ack(self, request: AckMessage, caller: Caller) -> Later[Any]:
        """The consumer is done with one message."""
        if not self.leadership.leads:
            return self.leadership.relay(caller)
        handle = self._handle(request)
        later = caller.later()
        ack = _ack(request.consumer_group, request.topic, request.queue_id, handle, request.offset)
        self.batch.ack([ack], lambda: later.answer(Answer()), later.refuse)
        return later

    @handles(AckMessages)
    def ack_all(self, request: AckMessages, caller: Caller) -> Later[Any]:
        """The consumer is done with several. Rows that cannot be are passed over, as by
        RocketMQ."""
        if not self.leadership.leads:
            return self.leadership.relay(caller)
        body = caller.frame.body
        rows = decode_body(BatchAcks, body).acks if body else ()
        if not rows:
            raise NothingThere("no message is named that is to be acknowledged")
        acks: list[Ack] = []
        messages = 0
        for row in rows:
            for ack in self._acks_of(row):
                acks.append(ack)
                messages += count_of(ack[-1])
            if messages > BATCH_MAX:
                raise InvalidParameter(f"more than {BATCH_MAX} messages are acknowledged at once")
        later = caller.later()
        self.batch.ack(acks, lambda: later.answer(Answer()), later.refuse)
        return later

    @handles(ChangeInvisibleTime)
    def change(self, request: ChangeInvisibleTime, caller: Caller) -> Later[InvisibleTimeReply]:
        """The consumer wants a message for another time from now on; 0 gives it back."""
        if not self.leadership.leads:
            return self.leadership.relay(caller)
        handle = self._handle(request)
        if not 0 <= request.invisible_time <= INVISIBLE_MS_MAX:
            raise InvalidParameter(
                f"invisibleTime {request.invisible_time}: 0 to {INVISIBLE_MS_MAX} ms are possible"
            )
        later = caller.later()

        def changed(new: Reason | int) -> None:
            if isinstance(new, Reason):
                later.refuse(_unchanged(new, request))
                return
            header = InvisibleTimeReply(
                pop_time=new,
                invisible_time=request.invisible_time,
                revive_qid=handle.revive_qid,
            )
            later.answer(Answer(header))

        change = (
            request.consumer_group,
            request.topic,
            request.queue_id,
            handle.first_offset,
            handle.pop_ms,
            request.offset,
            request.invisible_time,
        )
        self.batch.change(change, changed, later.refuse)
        return later

    def _handle(self, request: AckMessage | ChangeInvisibleTime) -> Handle:
        """Check what the message is named by. Raises: the refusal."""
        group = request.consumer_group
        if group not in self.machine.groups:  # nothing is in flight for it, whatever its name is
            fault = names.group_fault(group)
            if fault is not None:
                raise GroupNotFound(group[: names.GROUP_LENGTH_MAX], fault)
        topic, queue_id = known_topic(self.machine, request.topic), request.queue_id
        if not 0 <= queue_id < topic.queues:
            raise IllegalMessage(
                f"queueId[{queue_id}] is illegal, topic:[{topic.name}] has {topic.queues} queues"
            )
        first = self.queues.min_offset(topic.name, queue_id)
        end = self.queues.next_offset(topic.name, queue_id)
        if not first <= request.offset < end:
            raise NothingThere(
                f"offset is illegal, key:{topic.name}@{queue_id}, commit:{request.offset},"
                f" store:{first}~{end}"
            )
        return decode_handle(request.extra_info)

    def _acks_of(self, row: BatchAck) -> Iterable[Ack]:
        """What a row of a batch names; nothing if it cannot be."""
        try:
            topic = real_topic(row.group, row.topic, Origin(row.origin))
            offsets = row.offsets()
        except (ValueError, Malformed):
            return
        if topic not in self.machine.topics or row.group not in self.machine.groups:
            return
        for first in range(0, len(offsets), MESSAGES_MAX):
            some = offsets[first : first + MESSAGES_MAX]
            yield (
                row.group,
                topic,
                row.queue_id,
                row.first_offset,
                row.pop_ms,
                runs_of(some),
            )


def _ack(group: str, topic: str, queue_id: int, handle: Handle, offset: int) -> Ack:
    return (group, topic, queue_id, handle.first_offset, handle.pop_ms, ((offset, 1),))


def _unchanged(reason: Reason, request: ChangeInvisibleTime) -> Refused:
    if reason is Reason.TABLE_FULL:
        return Refused("too many messages are in flight for this one to get a time of its own")
    return HandleOutdated(request.topic, request.queue_id, request.offset)
