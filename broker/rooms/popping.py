"""Popping: messages of whatever queue, handed to one consumer of a group for a while.

The leader alone gives messages out: it chooses them (`serving.pop_choice`), and answers once the
log says that they are taken, so that no other leader gives them to anybody else. An answer that is
lost costs the time its messages were asked for; then they are tried again, as if their consumer had
said nothing.

A pop that finds nothing is held until a message arrives that it can have, or until the time its
client allowed is over. A follower holds pops just so, and hands one on to the leader when there
seems to be something for it; what was handed on is not held again.

Elsewhere: what an answer looks like (`_popped`); what consumers say of what they got
(`popping_acks`).

Source: protocol pages 02 (e) and 08 §4; PopMessageProcessor.java, PopLongPollingService.java.
"""

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final

from attrs import define, field, frozen

from broker.errors import GroupNotFound
from broker.machine.commands import Pop
from broker.machine.replies import Reason
from broker.rooms._filters import Wants
from broker.rooms._pop_queues import PopQueues
from broker.rooms._pop_waits import PopWaits
from broker.rooms._popped import Popped, answer_of, miss
from broker.serving.client_table import ClientTable
from broker.serving.cold_reads import ColdReads
from broker.serving.leadership import FORWARDED_BY, Leadership
from broker.serving.long_polls import HeldPull
from broker.serving.pop_batch import Failed, Outcomes, PopBatch, Taken
from broker.serving.pop_choice import Asked, Blocked, Full, Part
from broker.serving.rates import Rates
from broker.store.message_reader import BYTES_MAX, MessageReader
from dledger_py.remoting.commands.popping import (
    PopMessage,
    PopReply,
)
from dledger_py.remoting.rooms import Answer, Caller, Later, Refused, handles
from dledger_py.remoting.wire.codes import ResponseCode

DECLINED_MAX: Final = 16
"""How often a pop chooses again, if something came in between."""

CLAIMS_MAX: Final = 1_024
"""Queues of one pop at a time, most of them without messages: where the group only moves on, since
it stands elsewhere or nothing matches. A topic has up to 65,536, which fit no entry of the log."""

DRY_MAX: Final = 10_000
"""Groups and topics; beyond, all are forgotten, and waiting pops looked at once more."""


@define(eq=False, kw_only=True)
class _Pop:
    """One pop, from its request to its answer."""

    request: PopMessage
    caller: Caller
    later: Later[PopReply]
    wants: Wants
    until_ms: int
    """When the client's time is over, by a monotonic clock."""
    may_wait: bool
    declined: int = 0
    held: list[HeldPull] = field(factory=list)

    @property
    def over(self) -> bool:
        return self.later.settled or self.later.abandoned

    @property
    def key(self) -> tuple[str, str, int]:
        return self.request.consumer_group, self.request.topic, self.request.queue_id


@frozen
class _Nothing:
    """There is nothing to take now; but perhaps then, if queues are blocked."""

    blocked_until_ms: int | None = None


@define(eq=False, kw_only=True)
class Popping:
    """Code 200050."""

    broker_name: str
    of: PopQueues
    waits: PopWaits
    batch: PopBatch
    reader: MessageReader
    cold_reads: ColdReads
    clients: ClientTable
    leadership: Leadership
    rates: Rates
    now_ms: Callable[[], int]
    monotonic_ms: Callable[[], int]
    _dry: dict[tuple[str, str, int], int] = field(factory=dict, init=False)
    """By group, topic and queue id: which arrival it was after which nothing was left. So of many
    pops that wait for one message, all but two are looked at no further."""

    @handles(PopMessage)
    def pop(self, request: PopMessage, caller: Caller) -> Answer[PopReply] | Later[PopReply]:
        """Hand messages out, or hold the request until there are any."""
        wait_ms = self.waits.wait_ms(request.born_time, request.poll_time)
        if wait_ms is None:
            return miss(request, ResponseCode.POLLING_TIMEOUT, "the time to wait is over already")
        leads = self.leadership.leads
        if not leads and not self.of.knows(request):
            return self.leadership.relay(caller)  # the leader may know more
        pop = _Pop(
            request=request,
            caller=caller,
            later=caller.later(),
            wants=self.of.admit(request),
            until_ms=self.monotonic_ms() + wait_ms,
            may_wait=wait_ms > 0 and FORWARDED_BY not in caller.frame.fields,
        )
        if leads:
            self._begin(pop)
        elif pop.may_wait and not self.of.available(request):
            self._wait_or_miss(pop, None)
        else:
            return self.leadership.relay(caller)
        return pop.later

    # --- waiting ---------------------------------------------------------------------------------

    def _wait_or_miss(self, pop: _Pop, blocked_until_ms: int | None) -> None:
        if not pop.may_wait or self.monotonic_ms() >= pop.until_ms:
            self._miss(pop, ResponseCode.POLLING_TIMEOUT, "no message was found")
        elif not self.waits.polls.has_room():
            self._miss(pop, ResponseCode.POLLING_FULL, "too many requests are held")
        elif not pop.later.abandoned:
            deadline_ms = pop.until_ms
            if blocked_until_ms is not None:
                free_in_ms = max(0, blocked_until_ms - self.now_ms())
                deadline_ms = min(deadline_ms, self.monotonic_ms() + free_in_ms)
            pop.held = self.waits.hold(
                pop.request,
                pop.caller,
                deadline_ms,
                lambda: self._look(pop),
                lambda: self._woken(pop),
            )

    def _look(self, pop: _Pop) -> bool:
        """Something arrived that a held pop may want: whether it is held no more."""
        if pop.over or pop.request.order:
            return True  # in order, it also has to be found out until when to wait now
        if not self.leadership.leads:
            if not self.of.available(pop.request):
                return False
            self.waits.release(pop.held)
            self._relay(pop)
            return True
        if self._dry.get(pop.key) == self.waits.arrivals:
            return False
        if self._attempt(pop) is not None:
            return False
        self.waits.release(pop.held)
        return True

    def _woken(self, pop: _Pop) -> None:
        """A held pop cannot go on as it was: its time is over, or so is that of a blocked queue; or
        its topic is another now, or who leads."""
        self.waits.release(pop.held)
        if pop.over:
            return
        if self.waits.ending or self.monotonic_ms() >= pop.until_ms:
            pop.may_wait = False
        if not self.leadership.leads:
            pop.may_wait = False
            self._wait_or_miss(pop, None)
            return
        try:
            pop.wants = self.of.admit(pop.request)
        except Refused as error:  # the topic is gone, or smaller now
            pop.later.refuse(error)
            return
        self._begin(pop)

    def _relay(self, pop: _Pop) -> None:
        try:
            self.leadership.relay(pop.caller)
        except Refused as error:
            pop.later.refuse(error)

    # --- taking ----------------------------------------------------------------------------------

    def _begin(self, pop: _Pop) -> None:
        """Take messages, or wait for some, or say that there are none."""
        nothing = self._attempt(pop)
        if nothing is not None:
            self._wait_or_miss(pop, nothing.blocked_until_ms)

    def _attempt(self, pop: _Pop) -> _Nothing | None:
        """None if the pop is on its way to its answer."""
        parts: list[Part] = []
        blocked_ms: list[int] = []
        left, bytes_left = max(1, pop.request.max_msg_nums), BYTES_MAX
        full = False
        for asked in self.of.asked(pop.request, pop.wants):
            try:
                part = self.of.choice.choose(asked, left, bytes_left)
            except Full:
                full = True
                continue
            except BlockingIOError:
                if not parts:
                    self._read_first(pop, asked)
                    return None
                break
            if isinstance(part, Blocked):
                blocked_ms.append(part.until_ms)
            elif part is not None:
                parts.append(part)
                left -= len(part.chosen)
                bytes_left -= part.size
                if left <= 0 or bytes_left <= 0 or len(parts) >= CLAIMS_MAX:
                    break
        if parts:
            self._take(pop, parts)
            return None
        if full:
            self._miss(pop, ResponseCode.POLLING_FULL, "too many messages are in flight")
            return None
        if not pop.may_wait:
            self._pass_over(pop)
        if pop.wants is None and not pop.request.order:
            if len(self._dry) >= DRY_MAX:
                self._dry.clear()
            self._dry[pop.key] = self.waits.arrivals
        return _Nothing(min(blocked_ms, default=None))

    def _take(self, pop: _Pop, parts: Sequence[Part]) -> None:
        """Have it written down that these are taken."""

        def decided(stamped_ms: int, outcomes: Outcomes) -> None:
            declined = any(isinstance(outcome, Reason) for outcome in outcomes)
            got = [
                Popped(part=part, counts=outcome)
                for part, outcome in zip(parts, outcomes, strict=True)
                if part.chosen and not isinstance(outcome, Reason)
            ]
            if got:
                self._read(pop, stamped_ms, got)
            elif pop.later.abandoned:
                return
            elif Reason.TABLE_FULL in outcomes:
                self._miss(pop, ResponseCode.POLLING_FULL, "too many messages are in flight")
            elif Reason.UNKNOWN_GROUP in outcomes and pop.declined:
                pop.later.refuse(GroupNotFound(pop.request.consumer_group))  # nor can it be made
            elif declined and pop.declined >= DECLINED_MAX:
                self._miss(pop, ResponseCode.POLLING_TIMEOUT, "others came first")
            else:
                pop.declined += declined
                self._go_on(pop)

        self._propose(pop.request, parts, decided, pop.later.refuse)

    def _propose(
        self, request: PopMessage, parts: Sequence[Part], decided: Taken, failed: Failed
    ) -> None:
        cursors = [self.of.choice.proposed(part) for part in parts]

        def settle(outcomes: Outcomes) -> None:
            for part, cursor, outcome in zip(parts, cursors, outcomes, strict=True):
                self.of.choice.settled(part, cursor, taken=not isinstance(outcome, Reason))

        def taken(stamped_ms: int, outcomes: Outcomes) -> None:
            settle(outcomes)
            decided(stamped_ms, outcomes)

        def lost(error: Exception) -> None:
            settle((Reason.OUTDATED,) * len(parts))
            failed(error)

        command = Pop(
            group=request.consumer_group,
            invisible_ms=request.invisible_time,
            ordered=request.order,
            attempt_id=(request.attempt_id or "") if request.order else "",
            claims=tuple(part.claim for part in parts),
        )
        self.batch.pop(command, taken, lost)

    def _go_on(self, pop: _Pop) -> None:
        """Try again for a pop that got nothing."""
        try:
            pop.wants = self.of.admit(pop.request)
        except Refused as error:
            pop.later.refuse(error)
            return
        if self.leadership.leads:
            self._begin(pop)
        else:
            self._miss(pop, ResponseCode.POLLING_TIMEOUT, "another member leads now")

    def _pass_over(self, pop: _Pop) -> None:
        """Have it written down how far nothing matched; nobody waits for it."""
        passed = map(self.of.choice.passed, self.of.asked(pop.request, pop.wants))
        parts = [*islice((part for part in passed if part is not None), CLAIMS_MAX)]
        if parts:
            self._propose(pop.request, parts, lambda _stamped_ms, _outcomes: None, _nobody_waits)

    # --- reading ---------------------------------------------------------------------------------

    def _read_first(self, pop: _Pop, asked: Asked) -> None:
        """Records are needed in order to choose, and are not in memory: have them read."""
        self.cold_reads.submit(
            self.of.choice.reading(asked), lambda _read: self._go_on(pop), pop.later.refuse
        )

    def _read(self, pop: _Pop, stamped_ms: int, got: Sequence[Popped]) -> None:
        """Answer with what was taken."""
        if pop.later.abandoned:
            return  # as if the consumer had said nothing

        def read(*, nowait: bool) -> list[bytes]:
            return [each.read(self.reader, nowait=nowait) for each in got]

        def found(bodies: list[bytes]) -> None:
            request = pop.request
            left = sum(self.of.choice.left(asked) for asked in self.of.asked(request, pop.wants))
            answer = answer_of(request, self.broker_name, stamped_ms, got, bodies, left)
            self._note(pop, got, len(answer.body))
            pop.later.answer(answer)

        try:
            found(read(nowait=True))
        except BlockingIOError:
            self.cold_reads.submit(lambda: read(nowait=False), found, pop.later.refuse)
        except Refused as error:
            pop.later.refuse(error)

    def _note(self, pop: _Pop, got: Sequence[Popped], size: int) -> None:
        """For operators."""
        messages = sum(len(each.part.chosen) for each in got)
        self.rates.pulls_found.total += 1
        self.rates.got.total += messages
        self.rates.got_bytes.total += size
        self.rates.group(pop.request.topic, pop.request.consumer_group).total += messages
        for each in got:
            group, topic, queue_id = each.part.key
            self.clients.pulled(group, topic, queue_id, each.part.claim.next_offset)

    def _miss(self, pop: _Pop, code: ResponseCode, remark: str) -> None:
        self.rates.pulls_missed.total += 1
        pop.later.answer(miss(pop.request, code, remark))


def _nobody_waits(_error: Exception) -> None:
    """Whoever pops next passes over the same."""
