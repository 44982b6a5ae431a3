"""Messages a consumer could not handle: again later, or to the dead letters.

The message is read from the log, and put once more: into the group's retry topic, delayed the
longer the more often it came back (by levels, or as the group's retry policy says), or into its
dead-letter topic, once it came too often or the consumer gave it up. Answered when that is in the
log; the consumer then commits behind the message it sent back, so it is in one of the two places
whoever leads.

Source: protocol page 07 §9; AbstractSendMessageProcessor.java (consumerSendMsgBack).
"""

import random
from collections.abc import Sequence
from typing import Any, Final

from attrs import define, frozen

from broker.errors import GroupNotFound, IllegalMessage, NotPermitted
from broker.machine import names
from broker.machine.commands import EnsureGroups, EnsureTopics
from broker.machine.groups import GroupConfig
from broker.machine.put_messages import Message
from broker.machine.replies import MessageReply, Reason
from broker.machine.timer_wheel import LEVELS_MS, Waiting, at_level, until
from broker.machine.topics import TopicConfig, dead_letter_topic, retry_topic
from broker.rooms._retry_policies import kept_policy_of
from broker.rooms.sending import Sending, declined
from broker.serving.cold_reads import ColdReads
from broker.store.consume_queues import ConsumeQueues
from broker.store.message_lookup import candidate_at, confirmed
from broker.store.message_reader import LogReader
from dledger_py.remoting.commands.send_back import SendBack
from dledger_py.remoting.rooms import Answer, Caller, Later, Refused, handles
from dledger_py.remoting.wire import properties as props
from dledger_py.remoting.wire.codes import VERSION_MAX_RECONSUME_TIMES
from dledger_py.remoting.wire.message import (
    TRANSACTION_MASK,
    Record,
    decode_record,
    encode_record,
    tags_code,
)

FIRST_LEVEL: Final = 3  # 10 s; each time a level more

# What is of an earlier life of the message: where and when it was to be delivered then.
EARLIER: Final = (
    props.REAL_TOPIC,
    props.REAL_QUEUE_ID,
    props.TIMER_OUT_MS,
    props.TIMER_DELAY_SEC,
    props.TIMER_DELAY_MS,
    props.TIMER_DELIVER_MS,
)


@frozen(kw_only=True)
class _Pause:
    """How long a message waits: a level of delay, or a time of its own; neither: it does not."""

    level: int = 0
    of_its_own_ms: int = 0

    def waiting(self, now_ms: int) -> Waiting | None:
        """Where it waits."""
        if self.of_its_own_ms:
            return until(now_ms + self.of_its_own_ms, now_ms)
        return at_level(self.level, now_ms) if self.level else None


NOW: Final = _Pause()


@define(eq=False, kw_only=True)
class SendingBack:
    """Code 36."""

    sending: Sending
    log: LogReader
    queues: ConsumeQueues
    cold_reads: ColdReads

    @handles(SendBack)
    def send_back(self, request: SendBack, caller: Caller) -> Answer[None] | Later[Any]:
        """Store the message once more, for later or among the dead letters."""
        sending = self.sending
        if not sending.leadership.leads:
            return sending.leadership.relay(caller)
        sending.disk.admit()
        group = sending.machine.groups.get(request.group)
        if group is None:
            raise GroupNotFound(request.group, names.group_fault(request.group) or "")
        if group.retry_queues == 0:
            return Answer()  # the group wants nothing a second time
        times_max = group.retry_max_times
        if request.max_reconsume_times is not None and (
            caller.version >= VERSION_MAX_RECONSUME_TIMES
        ):
            times_max = request.max_reconsume_times
        later = caller.later()

        def found(candidate: bytearray | None) -> None:
            try:
                self._store(request, group, times_max, candidate, later)
            except Refused as error:
                later.refuse(error)

        try:
            found(candidate_at(self.log, request.offset, nowait=True))
        except BlockingIOError:
            self.cold_reads.submit(
                lambda: candidate_at(self.log, request.offset), found, later.refuse
            )
        return later

    def _store(
        self,
        request: SendBack,
        group: GroupConfig,
        times_max: int,
        candidate: bytearray | None,
        later: Later[Any],
    ) -> None:
        """Raises: Refused."""
        sending = self.sending
        stored = confirmed(self.queues, request.offset, candidate) if candidate else None
        if stored is None:
            raise Refused(f"look message by offset failed, {request.offset}")
        record = decode_record(stored)
        if record.reconsume_times >= times_max or request.delay_level < 0:
            topic, queue_id = self._dead_letters(group), 0
            message = self._laid_out(record, topic, queue_id, NOW)
        else:
            topic = self._retries(group)
            queue_id = random.randrange(min(group.retry_queues, topic.write_queues))
            later_by = self._pause(group, request.delay_level, record.reconsume_times)
            message = self._laid_out(record, topic, queue_id, later_by)

        def settled(replies: Sequence[MessageReply]) -> None:
            if isinstance(replies[0], Reason):
                later.refuse(declined(replies[0], topic, queue_id))
            else:
                later.answer(Answer())

        sending.batch.add((message,), settled, later.refuse)

    def _pause(self, group: GroupConfig, level: int, retries: int) -> _Pause:
        """The level of delay that the consumer asks for; if it leaves that to the broker, what its
        group's policy says."""
        policy = kept_policy_of(group.retry_policy) if level == 0 else None
        if policy is not None:
            return _Pause(of_its_own_ms=policy.pause_ms(retries))
        # As policies do: whoever sent it may have written a number below 0.
        return _Pause(level=min(level or FIRST_LEVEL + max(retries, 0), len(LEVELS_MS)))

    def _retries(self, group: GroupConfig) -> TopicConfig:
        sending = self.sending
        topic = sending.machine.topics.get(names.retry_topic_name(group.name))
        if topic is None:
            topic = retry_topic(group.name, group.retry_queues)
            sending.create(EnsureGroups(stamped_ms=sending.now_ms(), groups=(group,)))
        if not topic.writable or not topic.write_queues:
            raise NotPermitted(f"the topic[{topic.name}] sending message is forbidden")
        return topic

    def _dead_letters(self, group: GroupConfig) -> TopicConfig:
        sending = self.sending
        topic = sending.machine.topics.get(names.dead_letter_topic_name(group.name))
        if topic is None:
            topic = dead_letter_topic(group.name)
            sending.create(EnsureTopics(stamped_ms=sending.now_ms(), topics=(topic,)))
        return topic

    def _laid_out(
        self, record: Record, topic: TopicConfig, queue_id: int, later_by: _Pause
    ) -> Message:
        """The message as it stands in the log next."""
        sending = self.sending
        now_ms = sending.now_ms()
        parsed = props.decode(record.properties)
        for key in EARLIER:
            parsed.pop(key, None)
        parsed.setdefault(props.RETRY_TOPIC, record.topic)
        parsed.setdefault(props.ORIGIN_MESSAGE_ID, record.offset_message_id)
        parsed[props.DELAY] = str(later_by.level)
        tag = parsed.get(props.TAGS)
        at, code = (topic.name, queue_id), tags_code(tag) if tag else 0
        waiting = later_by.waiting(now_ms)
        if waiting is not None:
            parsed[props.REAL_TOPIC], parsed[props.REAL_QUEUE_ID] = topic.name, str(queue_id)
            if later_by.of_its_own_ms:
                parsed[props.TIMER_OUT_MS] = str(now_ms + later_by.of_its_own_ms)
            at, code = (waiting.topic, waiting.queue_id), waiting.due_ms
        properties = props.encode(parsed).encode()
        if len(properties) > props.PROPERTIES_SIZE_MAX:
            raise IllegalMessage(
                f"the properties would be {len(properties)} bytes,"
                f" at most {props.PROPERTIES_SIZE_MAX} are allowed"
            )
        again = encode_record(
            queue_id=at[1],
            flag=record.flag,
            sys_flag=record.sys_flag & ~TRANSACTION_MASK,
            born_timestamp_ms=record.born_timestamp_ms,
            born_host=record.born_host,
            store_timestamp_ms=now_ms,
            store_host=sending.store_host,
            reconsume_times=record.reconsume_times_again,
            body=record.body,
            topic=at[0],
            properties=properties,
        )
        return (*at, code, again)
