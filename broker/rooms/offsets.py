"""Positions in queues: what a group has consumed, and where a queue begins and ends.

Commits and the two questions whose stale answer would rewind a consumer (14, 30) are the leader's;
the others are answered by every member from what it has applied.

Source: protocol pages 02 (c) and 07 (§4, 5); ConsumerManageProcessor.java.
"""

from collections.abc import Callable
from typing import Final

from attrs import define

from broker.errors import GroupNotFound, InvalidParameter, NoLeader, OffsetNotFound
from broker.machine.machine import Machine
from broker.rooms._admission import known_queue
from broker.rooms._stored_times import StoredTimes
from broker.serving.leadership import Leadership
from broker.serving.offset_commits import OffsetCommits
from broker.store.consume_queues import Boundary, ConsumeQueues
from dledger_py.remoting.commands.offsets import (
    GetEarliestTime,
    GetMaxOffset,
    GetMinOffset,
    OffsetReply,
    QueryConsumerOffset,
    SearchOffset,
    TimestampReply,
    UpdateConsumerOffset,
)
from dledger_py.remoting.rooms import Answer, Caller, Later, handles

_OFFSET: Final = b'{"offset":"%d"}'

ReadBarrier = Callable[[Callable[[object], None]], None]


@define(eq=False, kw_only=True)
class Offsets:
    """Codes 14, 15, 29, 30, 31 and 32."""

    machine: Machine
    queues: ConsumeQueues
    stored_times: StoredTimes
    commits: OffsetCommits
    leadership: Leadership
    read_barrier: ReadBarrier

    @handles(UpdateConsumerOffset)
    def commit(self, request: UpdateConsumerOffset, caller: Caller) -> Answer[None] | Later[None]:
        """Remember where the group goes on; answered once that is durable at a quorum."""
        if not self.leadership.leads:
            return self.leadership.relay(caller)
        if request.consumer_group not in self.machine.groups:
            raise GroupNotFound(request.consumer_group)
        known_queue(self.machine, request.topic, request.queue_id)

        key = (request.consumer_group, request.topic, request.queue_id, request.commit_offset)
        if caller.frame.is_one_way:
            self.commits.add(*key)
            return Answer()
        later = caller.later()

        def answered(error: Exception | None) -> None:
            if error is None:
                later.answer(Answer())
            else:
                later.refuse(error)

        self.commits.add(*key, answered)
        return later

    @handles(QueryConsumerOffset)
    def committed(
        self, request: QueryConsumerOffset, caller: Caller
    ) -> Answer[OffsetReply] | Later[OffsetReply]:
        """Where the group goes on: never less than a commit that was answered before."""
        if not self.leadership.leads:
            return self.leadership.relay(caller)
        return self._linearized(caller, lambda: self._committed(request))

    def _committed(self, request: QueryConsumerOffset) -> Answer[OffsetReply]:
        topic, queue_id = request.topic, request.queue_id
        offset = self.machine.offsets.get(request.consumer_group, topic, queue_id)
        if offset is not None:
            return Answer(rendered=_OFFSET % offset)
        young = self.queues.min_offset(topic, queue_id) == 0
        written = self.queues.next_offset(topic, queue_id) > 0
        if young and written and request.set_zero_if_not_found is not False:
            # A new group on a queue that still has its first message begins with it.
            return Answer(rendered=_OFFSET % 0)
        raise OffsetNotFound

    @handles(GetMaxOffset)
    def end(
        self, request: GetMaxOffset, caller: Caller
    ) -> Answer[OffsetReply] | Later[OffsetReply]:
        """The offset that the next message of the queue gets."""
        if not self.leadership.leads:
            return self.leadership.relay(caller)
        known_queue(self.machine, request.topic, request.queue_id)
        return self._linearized(
            caller,
            lambda: Answer(
                rendered=_OFFSET % self.queues.next_offset(request.topic, request.queue_id)
            ),
        )

    @handles(GetMinOffset)
    def begin(self, request: GetMinOffset, caller: Caller) -> Answer[OffsetReply]:
        """The first offset that can be read."""
        known_queue(self.machine, request.topic, request.queue_id)
        return Answer(rendered=_OFFSET % self.queues.min_offset(request.topic, request.queue_id))

    @handles(SearchOffset)
    async def by_time(self, request: SearchOffset, caller: Caller) -> Answer[OffsetReply]:
        """The offset a point in time stands for."""
        known_queue(self.machine, request.topic, request.queue_id)
        try:
            boundary = Boundary(request.boundary_type.upper() or "LOWER")
        except ValueError:
            raise InvalidParameter(
                f"boundaryType {request.boundary_type!r}: it is LOWER or UPPER"
            ) from None
        offset = await self.stored_times.search(
            request.topic, request.queue_id, request.timestamp, boundary
        )
        return Answer(OffsetReply(offset=offset))

    @handles(GetEarliestTime)
    async def earliest(self, request: GetEarliestTime, caller: Caller) -> Answer[TimestampReply]:
        """When the oldest message of the queue was stored; -1 if there is none."""
        known_queue(self.machine, request.topic, request.queue_id)
        first = self.queues.min_offset(request.topic, request.queue_id)
        stored_ms = await self.stored_times.of(request.topic, request.queue_id, first)
        return Answer(TimestampReply(timestamp=-1 if stored_ms is None else stored_ms))

    def _linearized(
        self, caller: Caller, answer: Callable[[], Answer[OffsetReply]]
    ) -> Later[OffsetReply]:
        """Answer after everything that was acknowledged before this request came.

        Commits taken in and not yet applied come first, also those nobody waits for: a consumer
        that leaves says them one-way, and its successor asks at once. Applying them is as good a
        proof of leadership as a round of heartbeats.
        """
        later = caller.later()

        def passed(error: object) -> None:
            if error is not None:
                # Reading twice does no harm, so whatever the reason: ask again.
                later.refuse(NoLeader())
                return
            try:
                later.answer(answer())
            except OffsetNotFound as refusal:
                later.refuse(refusal)

        if self.commits.pending:
            self.commits.propose(passed)
        else:
            self.read_barrier(passed)
        return later
