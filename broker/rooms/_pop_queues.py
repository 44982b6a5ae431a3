"""Which queues a pop looks at, and whether it may."""

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from attrs import define

from broker.errors import (
    GroupNotFound,
    InvalidParameter,
    NotPermitted,
    QueueNotFound,
    TopicNotFound,
)
from broker.machine import names
from broker.machine.machine import Machine
from broker.machine.names import DERIVED_TOPIC_LENGTH_MAX
from broker.rooms._filters import Wants, wanted
from broker.serving.long_polls import ANY_QUEUE
from broker.serving.pop_choice import Asked, PopChoice
from dledger_py.remoting.commands.popping import (
    FROM_FIRST,
    Notification,
    Origin,
    PeekMessage,
    PopMessage,
)

MESSAGES_MAX: Final = 32
"""Of one pop; RocketMQ's."""

INVISIBLE_MS_MAX: Final = 12 * 3_600_000
"""Nothing in flight holds the log back longer. Java's clients ask for five minutes at most."""

ATTEMPT_ID_MAX: Final = 256
"""Characters; it is kept with the queue."""

RETRIES_FIRST: Final = 5
"""One pop of so many looks at the retry topic first, so that neither keeps the other waiting."""


@define(eq=False, kw_only=True)
class PopQueues:
    """Knows the queues, and who may pop them."""

    machine: Machine
    choice: PopChoice
    ensure_group: Callable[[str], None]

    def admit(self, request: PopMessage) -> Wants:
        """Check the request in RocketMQ's order; what it wants. Raises: the refusal."""
        if not 0 < request.invisible_time <= INVISIBLE_MS_MAX:
            raise InvalidParameter(
                f"invisibleTime {request.invisible_time}: 1 to {INVISIBLE_MS_MAX} ms are possible"
            )
        if len(request.attempt_id or "") > ATTEMPT_ID_MAX:
            raise InvalidParameter(f"an attemptId of more than {ATTEMPT_ID_MAX} characters")
        self.check(request, request.max_msg_nums)
        return wanted(request.exp_type, request.exp)

    def check(
        self, request: PopMessage | PeekMessage | Notification, max_msg_nums: int = 1
    ) -> None:
        """Raises: the refusal."""
        if max_msg_nums > MESSAGES_MAX:
            raise InvalidParameter(
                f"{max_msg_nums} messages are asked for, at most {MESSAGES_MAX} are given"
            )
        topic = self.machine.topics.get(request.topic)
        if topic is None:
            raise TopicNotFound(request.topic)
        if not topic.readable:
            raise NotPermitted(f"the topic[{request.topic}] popping message is forbidden")
        if not ANY_QUEUE <= request.queue_id < topic.read_queues:
            raise QueueNotFound(request.topic, request.queue_id, topic.read_queues)
        group = self.machine.groups.get(request.consumer_group)
        if group is None:
            fault = names.group_fault(request.consumer_group)
            if fault is not None:
                raise GroupNotFound(request.consumer_group, fault)
        elif not group.consume_enable:
            raise NotPermitted(f"the group {request.consumer_group} is not allowed to consume")
        again = names.pop_retry_topic_name(request.consumer_group, request.topic)
        if not names.is_retry_topic(request.topic) and len(again) > DERIVED_TOPIC_LENGTH_MAX:
            # Of a dead-letter topic, whose name may be longer than others.
            raise InvalidParameter(f"{again!r:.60}…: no topic for retries can have this name")
        if group is None:
            self.ensure_group(request.consumer_group)

    def knows(self, request: PopMessage) -> bool:
        """Whether its topic and its group are known here."""
        machine = self.machine
        return request.topic in machine.topics and request.consumer_group in machine.groups

    def asked(
        self, request: PopMessage | PeekMessage | Notification, wants: Wants
    ) -> Iterator[Asked]:
        """The queues to look at, in the order to do so."""
        group, topic = request.consumer_group, request.topic
        ordered = not isinstance(request, PeekMessage) and request.order
        again = names.pop_retry_topic_name(group, topic)
        retries = () if ordered or names.is_retry_topic(topic) else self._queue_ids(again)
        turn = random.randrange(RETRIES_FIRST) if retries else -1
        if turn == 0:
            yield from (_of_retries(group, again, queue_id) for queue_id in retries)
        queue_ids: Sequence[int] = (request.queue_id,)
        if request.queue_id < 0:
            queue_ids = self._queue_ids(topic)
        first = random.randrange(len(queue_ids)) if queue_ids else 0
        for queue_id in (*queue_ids[first:], *queue_ids[:first]):
            yield Asked(
                key=(group, topic, queue_id),
                origin=Origin.RETRY if names.is_retry_topic(topic) else Origin.TOPIC,
                wants=wants,
                init_mode=request.init_mode if isinstance(request, PopMessage) else FROM_FIRST,
                ordered=ordered,
                attempt_id="" if isinstance(request, PeekMessage) else request.attempt_id or "",
            )
        if turn > 0:
            yield from (_of_retries(group, again, queue_id) for queue_id in retries)

    def available(self, request: PopMessage | Notification) -> bool:
        """Whether a pop might find something, if its filter lets it."""
        return any(self.choice.available(each) for each in self.asked(request, None))

    def _queue_ids(self, topic: str) -> Sequence[int]:
        config = self.machine.topics.get(topic)
        return range(config.read_queues) if config is not None else ()


def _of_retries(group: str, topic: str, queue_id: int) -> Asked:
    return Asked(
        key=(group, topic, queue_id), origin=Origin.RETRY, wants=None, init_mode=FROM_FIRST
    )
