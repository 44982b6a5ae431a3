"""Answers to pops: the messages, and what clients make their handles of.

Laws
- All four numbers are in every answer: Java unboxes them without looking.
- The offsets of each queue are listed once, ascending, one for each of its messages in the body.
- Retries come under the topic that was asked for, with their handles as property: clients need not
  know of the topic they stand in. Their offsets and ids are those of the record there.

Source: protocol page 08 §4; PopMessageProcessor.java.
"""

from collections.abc import Sequence
from itertools import starmap

from attrs import frozen

from broker.serving.pop_choice import Part
from broker.store.message_reader import MessageReader
from dledger_py.remoting.commands.popping import (
    IN_ORDER,
    Handle,
    Origin,
    PopMessage,
    PoppedQueue,
    PopReply,
    message_offsets,
    order_counts,
    start_offsets,
)
from dledger_py.remoting.rooms import Answer
from dledger_py.remoting.wire import properties as props
from dledger_py.remoting.wire.codes import ResponseCode
from dledger_py.remoting.wire.message import Record, decode_records, encode_record

_EVERYTHING = 1 << 62  # the limits were heeded when the messages were chosen


@frozen(kw_only=True)
class Popped:
    """What was taken of one queue."""

    part: Part
    counts: tuple[int, ...]
    """How often each was popped before, if it was in order."""

    def read(self, reader: MessageReader, *, nowait: bool) -> bytes:
        """The records. **Blocks**, **Raises**: as `MessageReader.read`."""
        part = self.part
        if part.fetched is not None:
            return part.fetched.body
        fetched = reader.read(
            part.units,
            part.units_at,
            part.chosen,
            messages_max=len(part.chosen),
            bytes_max=_EVERYTHING,
            nowait=nowait,
        )
        return fetched.body


def answer_of(
    request: PopMessage,
    broker_name: str,
    stamped_ms: int,
    got: Sequence[Popped],
    bodies: Sequence[bytes],
    left: int,
) -> Answer[PopReply]:
    """What was taken, with the records of each."""
    revive_qid = IN_ORDER if request.order else 0
    queues = list(map(_queue, got))

    def made(each: Popped, body: bytes) -> bytes:
        if each.part.origin is Origin.TOPIC or each.part.key[1] == request.topic:
            return body
        again = []
        for record in decode_records(body):
            handle = Handle(
                first_offset=each.part.offsets[0],
                pop_ms=stamped_ms,
                invisible_ms=request.invisible_time,
                revive_qid=revive_qid,
                origin=each.part.origin,
                broker_name=broker_name,
                queue_id=record.queue_id,
                offset=record.queue_offset,
            )
            text = props.append(record.properties, props.POP_CK, handle.encode())
            if len(text.encode()) > props.PROPERTIES_SIZE_MAX:
                return body  # its client makes the handle of the offsets, as of any other message
            again.append(_under(record, request.topic, text))
        return b"".join(again)

    header = PopReply(
        pop_time=stamped_ms,
        invisible_time=request.invisible_time,
        revive_qid=revive_qid,
        rest_num=left,
        start_offset_info=start_offsets(queues),
        msg_offset_info=message_offsets(queues),
        order_count_info=order_counts(queues) if request.order else None,
    )
    return Answer(
        header, body=b"".join(starmap(made, zip(got, bodies, strict=True))), remark="FOUND"
    )


def miss(request: PopMessage, code: ResponseCode, remark: str) -> Answer[PopReply]:
    """An answer without messages."""
    header = PopReply(invisible_time=request.invisible_time)
    return Answer(header, code=code, remark=remark)


def _queue(each: Popped) -> PoppedQueue:
    part = each.part
    return PoppedQueue(
        origin=part.origin,
        queue_id=part.key[2],
        first_offset=part.offsets[0],
        offsets=part.offsets,
        counts=each.counts,
    )


def _under(record: Record, topic: str, properties: str) -> bytes:
    """The record as one of another topic."""
    return encode_record(
        queue_id=record.queue_id,
        flag=record.flag,
        sys_flag=record.sys_flag,
        born_timestamp_ms=record.born_timestamp_ms,
        born_host=record.born_host,
        store_timestamp_ms=record.store_timestamp_ms,
        store_host=record.store_host,
        reconsume_times=record.reconsume_times,
        prepared_offset=record.prepared_offset,
        body=record.body,
        topic=topic,
        properties=properties.encode(),
        queue_offset=record.queue_offset,
        physical_offset=record.physical_offset,
    )
