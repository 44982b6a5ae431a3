"""Requests that wait until a pop would find something: of any queue, and of the group's retries.

Each waits in two places (`serving.long_polls`); whatever ends it in one releases it from
the others. Of one that arrives only as many are woken as get something: the first that looks takes
it, and the next finds nothing.
"""

from collections.abc import Callable
from typing import Final

from attrs import define, field

from broker.machine import names
from broker.serving.long_polls import ANY_QUEUE, HOLD_MS_MAX, HeldPull, LongPolls
from dledger_py.remoting.commands.popping import Notification, PopMessage
from dledger_py.remoting.rooms import Caller

LATE_MS: Final = 500
"""Who is answered so long after its time has given up."""

_WATCHED: Final = "held pops watch"


@define(eq=False, kw_only=True)
class PopWaits:
    """Holds them."""

    now_ms: Callable[[], int]
    monotonic_ms: Callable[[], int]
    polls: LongPolls = field(factory=LongPolls)
    ending: bool = field(default=False, init=False)
    """Whether everybody is to be answered now."""
    arrivals: int = field(default=0, init=False)
    """How often messages came while anybody waited."""

    @property
    def busy(self) -> bool:
        """Whether anybody waits."""
        return self.polls.busy

    @property
    def waiting(self) -> int:
        """How many requests wait. Each does so in two places."""
        return self.polls.statistics().held // 2

    def wait_ms(self, born_ms: int, poll_ms: int) -> int | None:
        """How long a request may be held; None if its client has given it up."""
        now_ms = self.now_ms()
        left_ms = (born_ms or now_ms) + poll_ms - now_ms
        return None if left_ms < -LATE_MS else max(0, min(left_ms, poll_ms, HOLD_MS_MAX))

    def hold(
        self,
        request: PopMessage | Notification,
        caller: Caller,
        deadline_ms: int,
        looks: Callable[[], bool],
        again: Callable[[], None],
    ) -> list[HeldPull]:
        """Wait for messages of the topic, for the group's retries of it, and if that is in order,
        for what was popped before to be done with. What to release."""
        connection = caller.connection
        if _WATCHED not in connection.attributes:
            connection.attributes[_WATCHED] = True
            connection.on_close(lambda: self.polls.drop(connection.id))
        group, topic, queue_id = request.consumer_group, request.topic, request.queue_id
        places = [(topic, queue_id)]
        if request.order:
            places.append((_order(group, topic), ANY_QUEUE))
        else:
            places.append((names.pop_retry_topic_name(group, topic), ANY_QUEUE))
        held = [
            HeldPull(
                topic=place,
                queue_id=number,
                deadline_ms=deadline_ms,
                wants=None,
                owner=connection.id,
                again=again,
                looks=looks,
                group=group,
            )
            for place, number in places
        ]
        for pull in held:
            self.polls.hold(pull)
        return held

    def release(self, held: list[HeldPull]) -> None:
        """It waits no more."""
        for pull in held:
            self.polls.release(pull)
        held.clear()

    def end_all(self) -> None:
        """A last answer for everybody."""
        self.ending = True
        self.polls.wake_all()
        self.ending = False

    def arrived(self, topic: str, queue_id: int) -> None:
        """Messages stand in the queue: see who waits for them. Only of use while `busy`."""
        self.arrivals += 1
        self.polls.wake(topic, queue_id, ())
        self.polls.wake(topic, ANY_QUEUE, ())

    def freed(self, group: str, topic: str) -> None:
        """Something that was popped in order is done with, or will be free sooner."""
        if self.polls.busy:
            self.polls.wake(_order(group, topic), ANY_QUEUE, ())


def _order(group: str, topic: str) -> str:
    """The place where pops in order wait besides; no topic has such a name."""
    return f"{topic}@{group}"
