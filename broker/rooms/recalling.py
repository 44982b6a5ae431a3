"""Taking a timed message back before its time: RECALL_MESSAGE.

Answered once the recall is in the log: whoever leads then, the message is not delivered. Whether
there is such a message is not looked up, as in RocketMQ; what is known is that nothing of its time
has been delivered yet. RocketMQ has this switched off by default; here it is on.

Source: protocol page 08 §3; RecallMessageProcessor.java.
"""

from collections.abc import Callable
from typing import Any

from attrs import define

from broker.errors import IllegalOperation, TopicNotFound
from broker.machine import commands, names
from broker.machine.machine import Machine
from broker.machine.replies import Reply
from broker.machine.timer_wheel import FURTHEST_MS
from broker.rooms.delaying import RecallHandle, decode_handle
from broker.serving.leadership import Leadership
from broker.serving.proposals import Proposals
from dledger_py.remoting.commands.sending import RecallMessage, RecallReply
from dledger_py.remoting.rooms import Answer, Caller, Later, handles


@define(eq=False, kw_only=True)
class Recalling:
    """Code 370."""

    broker_name: str
    machine: Machine
    leadership: Leadership
    proposals: Proposals
    now_ms: Callable[[], int]

    @handles(RecallMessage)
    def recall(self, request: RecallMessage, caller: Caller) -> Later[Any]:
        """Keep a timed message from being delivered."""
        if not self.leadership.leads:
            return self.leadership.relay(caller)
        if request.topic not in self.machine.topics:
            raise TopicNotFound(request.topic)
        handle = decode_handle(request.recall_handle)
        self._admit(handle, request.topic)
        later = caller.later()

        def replied(_reply: Reply) -> None:
            later.answer(Answer(RecallReply(msg_id=handle.unique_id)))

        command = commands.RecallMessage(
            stamped_ms=self.now_ms(),
            topic=handle.topic,
            unique_id=handle.unique_id,
            deliver_ms=handle.deliver_ms,
        )
        self.proposals.ask(command, replied, later.refuse)
        return later

    def _admit(self, handle: RecallHandle, topic: str) -> None:
        if names.is_retry_topic(topic):  # timed by a retry policy, and promised to its group
            raise IllegalOperation("what a consumer group is to try again cannot be recalled")
        if handle.topic != topic:
            raise IllegalOperation(f"the recall handle is of topic {handle.topic[:127]!r}")
        if handle.broker_name != self.broker_name:
            raise IllegalOperation(f"the recall handle is of broker {handle.broker_name[:127]!r}")
        if handle.deliver_ms <= self.now_ms():
            raise IllegalOperation("too late: its time has come")
        if handle.deliver_ms - self.now_ms() > FURTHEST_MS:  # it would be kept for ever
            raise IllegalOperation(f"no message can be for as late as {handle.deliver_ms}")
