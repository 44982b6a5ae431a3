"""Half messages that nobody ended, taken up again: RESUME_CHECK_HALF_MESSAGE.

What was kept of one in the topic of the expired becomes a half message once more, of the same
content, and its producer is asked about it. The copy stays where it is, so asking twice makes two.

Source: protocol page 02 (d); AdminBrokerProcessor.java.
"""

from collections.abc import Callable, Sequence
from typing import Any

from attrs import define

from broker.errors import InvalidParameter, NoLeader
from broker.machine.put_messages import Message
from broker.machine.replies import MessageReply, Reason
from broker.rooms.sending import declined
from broker.serving.cold_reads import ColdReads
from broker.serving.disk_watch import DiskWatch
from broker.serving.half_messages import HalfMessages
from broker.serving.half_records import EXPIRED_TOPIC, HALF_TOPIC, again, claims_half
from broker.serving.leadership import Leadership
from broker.serving.put_batch import PutBatch
from broker.store.consume_queues import ConsumeQueues
from broker.store.message_lookup import candidate_at, confirmed
from broker.store.message_reader import LogReader
from dledger_py.remoting.commands.transactions import ResumeCheck
from dledger_py.remoting.rooms import Answer, Caller, Later, Refused, handles
from dledger_py.remoting.wire import properties as props
from dledger_py.remoting.wire.message import (
    MalformedRecord,
    decode_record,
    parse_offset_message_id,
    tags_code,
)


@define(eq=False, kw_only=True)
class Resuming:
    """Code 323."""

    store_host: bytes
    leadership: Leadership
    halves: HalfMessages
    batch: PutBatch
    log: LogReader
    queues: ConsumeQueues
    cold_reads: ColdReads
    disk: DiskWatch
    now_ms: Callable[[], int]

    @handles(ResumeCheck)
    def resume(self, request: ResumeCheck, caller: Caller) -> Answer[None] | Later[Any]:
        """Answered once it is a half message again."""
        if not self.leadership.leads:
            return self.leadership.relay(caller)
        try:
            _host, _port, position = parse_offset_message_id(request.msg_id)
        except MalformedRecord as error:
            raise InvalidParameter(str(error)) from error
        later = caller.later()

        def found(candidate: bytearray | None) -> None:
            try:
                self._begin(position, candidate, later)
            except Refused as error:
                later.refuse(error)

        try:
            found(candidate_at(self.log, position, nowait=True))
        except BlockingIOError:
            self.cold_reads.submit(lambda: candidate_at(self.log, position), found, later.refuse)
        return later

    def _begin(self, position: int, candidate: bytearray | None, later: Later[Any]) -> None:
        """Raises: the refusal."""
        if not self.leadership.leads:
            raise NoLeader  # reading may have waited for a disk
        self.disk.admit()
        self.halves.admit()
        message = self._half_again(position, candidate)

        def settled(replies: Sequence[MessageReply]) -> None:
            if isinstance(replies[0], Reason):
                later.refuse(declined(replies[0], HALF_TOPIC, 0))
            else:
                later.answer(Answer())

        self.batch.add((message,), *self.halves.counted(settled, later.refuse))

    def _half_again(self, position: int, candidate: bytearray | None) -> Message:
        stored = confirmed(self.queues, position, candidate) if candidate else None
        if stored is None:
            raise Refused(f"no message is at log position {position}")
        record = decode_record(stored)
        properties = props.decode(record.properties)
        if record.topic != EXPIRED_TOPIC.name or not claims_half(properties):
            raise InvalidParameter(
                f"the message at log position {position} is of topic '{record.topic}':"
                f" what is to be resumed is in {EXPIRED_TOPIC.name}"
            )
        tag = properties.get(props.TAGS)
        half = again(record, HALF_TOPIC.name, 0, record.sys_flag, self.now_ms(), self.store_host)
        return HALF_TOPIC.name, 0, tags_code(tag) if tag else 0, half
