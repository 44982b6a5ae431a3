"""What is asked about pops without popping: is there anything, what would it be, who else waits.

Any member answers, from what it has applied; nothing is taken, and no filter is heeded.

Source: protocol pages 02 (e) and 08 §4.3; NotificationProcessor.java, PeekMessageProcessor.java,
PollingInfoProcessor.java.
"""

from collections.abc import Callable
from typing import Any

from attrs import define

from broker.rooms._pop_queues import PopQueues
from broker.rooms._pop_waits import PopWaits
from broker.rooms._popped import Popped
from broker.serving.cold_reads import ColdReads
from broker.serving.long_polls import HeldPull
from broker.serving.pop_choice import Full, Part
from broker.store.message_reader import BYTES_MAX, MessageReader
from dledger_py.remoting.commands.popping import (
    Notification,
    NotificationReply,
    PeekMessage,
    PollingInfo,
    PollingInfoReply,
    PopReply,
)
from dledger_py.remoting.rooms import Answer, Caller, Later, Refused, handles
from dledger_py.remoting.wire.codes import ResponseCode


@define(eq=False, kw_only=True)
class PoppingQuestions:
    """Codes 200052, 200054 and 200055."""

    of: PopQueues
    waits: PopWaits
    reader: MessageReader
    cold_reads: ColdReads
    monotonic_ms: Callable[[], int]

    @handles(Notification)
    def notify(
        self, request: Notification, caller: Caller
    ) -> Answer[NotificationReply] | Later[NotificationReply]:
        """Tell the client as soon as a pop would find something."""
        self.of.check(request)
        if self.of.available(request):
            return Answer(NotificationReply(has_msg=True))
        wait_ms = self.waits.wait_ms(request.born_time, request.poll_time)
        if not wait_ms:
            return Answer(NotificationReply(has_msg=False))
        if not self.waits.polls.has_room():
            return Answer(NotificationReply(has_msg=False, polling_full=True))
        later = caller.later()
        held: list[HeldPull] = []

        def end() -> None:
            if not later.settled:
                self.waits.release(held)
                later.answer(Answer(NotificationReply(has_msg=self.of.available(request))))

        deadline_ms = self.monotonic_ms() + wait_ms
        held += self.waits.hold(
            request, caller, deadline_ms, lambda: self.of.available(request), end
        )
        return later

    @handles(PollingInfo)
    def polling(self, request: PollingInfo, caller: Caller) -> Answer[PollingInfoReply]:
        """How many wait here; those that wait at other members are not known."""
        polls = self.waits.polls
        found = polls.count(request.consumer_group, request.topic, request.queue_id)
        return Answer(PollingInfoReply(polling_num=found))

    @handles(PeekMessage)
    def peek(self, request: PeekMessage, caller: Caller) -> Later[PopReply]:
        """Show what a pop would get next. As in RocketMQ retries come under the topic they stand
        in, and nothing has a handle."""
        self.of.check(request, request.max_msg_nums)
        parts, left = self._next(request)
        later: Later[Any] = caller.later()

        def read(*, nowait: bool) -> bytes:
            bodies = [
                Popped(part=part, counts=()).read(self.reader, nowait=nowait) for part in parts
            ]
            return b"".join(bodies)

        def found(body: bytes) -> None:
            code = ResponseCode.SUCCESS if body else ResponseCode.PULL_NOT_FOUND
            later.answer(Answer(PopReply(rest_num=left), body=body, code=code))

        try:
            found(read(nowait=True))
        except BlockingIOError:
            self.cold_reads.submit(lambda: read(nowait=False), found, later.refuse)
        except Refused as error:
            later.refuse(error)
        return later

    def _next(self, request: PeekMessage) -> tuple[list[Part], int]:
        """What a pop would take, and how much it would leave."""
        room, bytes_left = max(1, request.max_msg_nums), BYTES_MAX
        parts: list[Part] = []
        left = 0
        for asked in self.of.asked(request, None):
            left += self.of.choice.left(asked)
            if room <= 0 or bytes_left <= 0:
                continue
            try:
                part = self.of.choice.choose(asked, room, bytes_left)
            except Full:
                continue
            if isinstance(part, Part) and part.chosen:
                parts.append(part)
                room -= len(part.chosen)
                bytes_left -= part.size
                left -= len(part.chosen)
        return parts, max(0, left)
