"""Ending transactions: what a producer says became of its half message.

The verdict counts once it is in the log, and the committed message stands in its topic by the same
entry. Nobody waits for the answer: a producer whose verdict got lost is asked again (`check_back`).

Source: protocol page 08 §1.2; EndTransactionProcessor.java.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from attrs import define

from broker.errors import InvalidParameter, NoLeader, NotPermitted, TopicNotFound
from broker.machine.end_transaction import Verdict
from broker.machine.machine import Machine
from broker.machine.put_messages import Message
from broker.machine.transactions import Half
from broker.rooms.delaying import delay_for
from broker.rooms.sending import WHERE_TO
from broker.serving.cold_reads import ColdReads
from broker.serving.disk_watch import DiskWatch
from broker.serving.half_messages import HalfMessages
from broker.serving.half_records import again, immunity_ms, read_half, real_queue
from broker.serving.leadership import Leadership
from broker.store.message_reader import LogReader
from dledger_py.remoting.commands.transactions import COMMIT, ROLLBACK, UNKNOWN, EndTransaction
from dledger_py.remoting.rooms import Answer, Caller, Later, Refused, handles
from dledger_py.remoting.wire import message as records
from dledger_py.remoting.wire import properties as props
from dledger_py.remoting.wire.codes import ResponseCode
from dledger_py.remoting.wire.message import Record

VERDICTS: Final[Mapping[int, Verdict]] = {
    COMMIT: Verdict.COMMITTED,
    ROLLBACK: Verdict.ROLLED_BACK,
}


@define(eq=False, kw_only=True)
class Transactions:
    """Code 37."""

    store_host: bytes
    timeout_ms: int
    """How old a half message is before its producer is asked."""
    machine: Machine
    leadership: Leadership
    halves: HalfMessages
    log: LogReader
    cold_reads: ColdReads
    disk: DiskWatch
    now_ms: Callable[[], int]

    @handles(EndTransaction)
    def end(self, request: EndTransaction, caller: Caller) -> Answer[Any] | Later[Any]:
        """Answered once the half has ended. A verdict that came before is answered alike, or
        refused with 1 if it is another one, or nobody remembers."""
        if request.commit_or_rollback == UNKNOWN:
            return Answer()  # the producer does not know yet: it will be asked again
        verdict = VERDICTS.get(request.commit_or_rollback)
        if verdict is None:
            raise InvalidParameter(
                f"commitOrRollback {request.commit_or_rollback}: {UNKNOWN}, {COMMIT} and {ROLLBACK}"
                " are possible"
            )
        if not self.leadership.leads:
            return self.leadership.relay(caller)
        if verdict is Verdict.COMMITTED:
            self.disk.admit()
        half = self._pending(request)
        if half is None:
            return self._ended(request.commit_log_offset, verdict)
        later = caller.later()

        def found(record: Record) -> None:
            try:
                self._end(request, verdict, record, later)
            except Refused as error:
                later.refuse(error)

        position = request.commit_log_offset
        try:
            record = read_half(self.log, position, half, nowait=True)
        except BlockingIOError:
            self.cold_reads.submit(lambda: read_half(self.log, position, half), found, later.refuse)
        else:
            found(record)
        return later

    def _pending(self, request: EndTransaction) -> Half | None:
        half = self.machine.transactions.get(request.commit_log_offset)
        if half is not None and half.queue_offset != request.tran_state_table_offset:
            raise Refused(
                f"the half message at log position {request.commit_log_offset} has queue offset"
                f" {half.queue_offset}, not {request.tran_state_table_offset}"
            )
        return half

    def _ended(self, position: int, verdict: Verdict) -> Answer[Any]:
        ended = self.halves.ended(position)
        if ended is verdict:
            return Answer()
        how = "" if ended is None else f": it is {ended.name.lower().replace('_', ' ')}"
        raise Refused(
            f"find prepared transaction message failed: none is pending at log position"
            f" {position}{how}"
        )

    def _end(
        self, request: EndTransaction, verdict: Verdict, record: Record, later: Later[Any]
    ) -> None:
        """Propose the end. Raises: the refusal."""
        position = request.commit_log_offset
        # Reading may have waited for a disk: look again.
        if not self.leadership.leads:
            raise NoLeader
        if self._pending(request) is None:
            later.answer(self._ended(position, verdict))
            return
        properties = props.decode(record.properties)
        group = properties.get(props.PRODUCER_GROUP, "")
        if group != request.producer_group:
            raise Refused(
                f"the producer group wrong: the half message is of {group!r},"
                f" not of {request.producer_group!r}"
            )
        self._admit_late(request, record, properties)

        def done(error: Exception | None) -> None:
            if error is None:
                later.answer(Answer())
            else:
                later.refuse(error)

        under_way = self.halves.ending(position)
        if under_way is verdict:
            self.halves.join(position, done)
        elif under_way is not None:
            raise Refused(f"another verdict is on its way: {under_way.name.lower()}")
        else:
            message = None
            if verdict is Verdict.COMMITTED:
                message = self._final(record, position, properties)
            self.halves.end(position, verdict, message, done)

    def _admit_late(
        self, request: EndTransaction, record: Record, properties: Mapping[str, str]
    ) -> None:
        """Who asked not to be checked for some time has to end the transaction in that time, or
        wait for the check: RocketMQ's rule. Raises: Refused."""
        if request.from_transaction_check or props.CHECK_IMMUNITY_TIME_S not in properties:
            return
        late_ms = self.now_ms() - record.store_timestamp_ms
        if late_ms > immunity_ms(properties, self.timeout_ms):
            raise Refused(
                f"the transaction is {late_ms} ms old, more than"
                f" {props.CHECK_IMMUNITY_TIME_S} allows: its check will come",
                code=ResponseCode.ILLEGAL_OPERATION,
            )

    def _final(self, record: Record, position: int, properties: Mapping[str, str]) -> Message:
        """The message that consumers get, or that waits for its time. Raises: the refusal."""
        name, queue_id = real_queue(properties)
        topic = self.machine.topics.get(name)
        if topic is None:
            raise TopicNotFound(name)
        if queue_id >= topic.queues:  # the topic has shrunk meanwhile
            if not topic.write_queues:
                raise NotPermitted(f"the topic[{name}] has no queue that may be written")
            queue_id %= topic.write_queues
        sys_flag = record.sys_flag & ~(records.TRANSACTION_MASK | records.MULTI_TAGS)
        sys_flag |= records.TRANSACTION_COMMIT
        if topic.filter_type == "MULTI_TAG":
            sys_flag |= records.MULTI_TAGS
        now_ms = self.now_ms()
        tag = properties.get(props.TAGS)
        at, code, text = (name, queue_id), records.tags_code(tag) if tag else 0, record.properties
        delay = delay_for(name, properties, now_ms)  # it counts from now
        if delay is not None:
            at, code = (delay.waiting.topic, delay.waiting.queue_id), delay.waiting.due_ms
            real = {props.REAL_TOPIC: name, props.REAL_QUEUE_ID: str(queue_id)}
            kept = {k: v for k, v in properties.items() if k not in WHERE_TO}
            text = props.encode({**kept, **real, **delay.added})
        final = again(
            record,
            *at,
            sys_flag,
            now_ms,
            self.store_host,
            properties=text,
            prepared_offset=position,
        )
        return *at, code, final
