"""Where groups go on, as operators say: resets, and the copy of another group's offsets.

A reset is replicated with the offset it sets: the next pull learns of it (`pulling`), and commits
do not count before a consumer has taken it up (`machine.resets`). With `server_side` off it is done
as RocketMQ did before 5.0: the offsets are sent to the consumers that are online, which stop, go
there and commit; nothing is kept here.

Only the leader does this. It looks the offsets up in its own index, some queues at a time, so that
a topic of thousands of queues does not hold up everybody else.

Source: protocol pages 07 (§11, 12) and 06 §6; AdminBrokerProcessor.java, Broker2Client.java.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final

from attrs import define, field

from broker.errors import GroupNotFound, NoLeader, NotOnline
from broker.machine import commands
from broker.machine.machine import Machine
from broker.machine.topics import QUEUES_MAX, TopicConfig
from broker.rooms._admission import known_queue, known_topic
from broker.rooms._stored_times import Cold, StoredTimes
from broker.serving.client_table import ClientTable
from broker.serving.cold_reads import ColdReads
from broker.serving.leadership import Leadership
from broker.serving.offset_commits import OffsetCommits
from broker.serving.proposals import Proposals
from broker.store.consume_queues import Boundary, ConsumeQueues
from dledger_py.remoting.commands.json_bodies import encode_body
from dledger_py.remoting.commands.resets import (
    CloneOffsets,
    OffsetsByQueue,
    ResetClientOffsets,
    ResetOffsets,
    offsets_for,
)
from dledger_py.remoting.commands.statistics import MessageQueue
from dledger_py.remoting.rooms import Answer, Caller, Later, Refused, handles
from dledger_py.remoting.wire.codes import VERSION_3_0_7

QUEUES_PER_TURN: Final = 32  # looked up by time before others get their turn: some 5 ms

COPIED_MAX: Final = 16_384
"""Offsets of one entry: 7 MB with the longest names. A group may have many times as many."""

assert QUEUES_MAX < 100_000, "one entry of the log holds a reset of every queue of a topic"

Finish = Callable[["_Search"], None]


@define(eq=False)
class _Search:
    """Offsets being looked up for one request."""

    request: ResetOffsets
    later: Later[Any]
    left: list[int]
    """Queue ids."""
    finish: Finish
    found: dict[int, int] = field(factory=dict)
    known_ms: dict[int, int] = field(factory=dict)
    """Store times read so far, by log position, of the queue under way."""


@define(eq=False, kw_only=True)
class Resets:
    """Codes 222 and 314; says 220 to the clients."""

    broker_name: str
    server_side: bool
    machine: Machine
    queues: ConsumeQueues
    stored_times: StoredTimes
    cold_reads: ColdReads
    clients: ClientTable
    commits: OffsetCommits
    leadership: Leadership
    proposals: Proposals
    now_ms: Callable[[], int]

    @handles(ResetOffsets)
    def reset(self, request: ResetOffsets, caller: Caller) -> Later[Any]:
        """Let the group go on from a point in time, or from an offset of one queue.

        Raises: TopicNotFound, QueueNotFound, GroupNotFound, NotOnline, Refused.
        """
        if not self.leadership.leads:
            return self.leadership.relay(caller)
        topic = known_topic(self.machine, request.topic)
        if request.group not in self.machine.groups:
            raise GroupNotFound(request.group)
        if not self.server_side:
            return self._reset_clients(request, topic, caller)
        if request.queue_id >= 0:
            known_queue(self.machine, request.topic, request.queue_id)
            queue_ids: Iterable[int] = (request.queue_id,)
        else:
            queue_ids = range(topic.read_queues)
        search = _Search(request, caller.later(), [*queue_ids], self._keep)
        if not search.left:
            raise Refused("No queues to reset.")
        if request.queue_id >= 0 and request.offset is not None and request.offset != -1:
            search.found[request.queue_id] = self._within(request, request.offset)
            search.left.clear()
        self._go_on(search)
        return search.later

    @handles(CloneOffsets)
    def clone(self, request: CloneOffsets, caller: Caller) -> Answer[None] | Later[Any]:
        """Let one group stand where another does. What a pending reset of the destination says is
        not changed by it. Raises: GroupNotFound."""
        if not self.leadership.leads:
            return self.leadership.relay(caller)
        if request.dest_group not in self.machine.groups:
            raise GroupNotFound(request.dest_group)
        later = caller.later()

        def seen(refusal: Exception | None) -> None:
            if refusal is not None:
                later.refuse(NoLeader())  # nothing was copied yet, whatever became of the commits
                return
            copies = tuple(self._copies(request))
            entries = [
                commands.CommitOffsets(
                    stamped_ms=self.now_ms(), commits=copies[at : at + COPIED_MAX]
                )
                for at in range(0, len(copies) or 1, COPIED_MAX)
            ]
            self.proposals.settle_all(entries, later)

        self.commits.propose(seen)  # offsets taken in before this request are copied too
        return later

    # --- the server's side -----------------------------------------------------------------------

    def _within(self, request: ResetOffsets, offset: int) -> int:
        """The offset asked for. Raises: Refused, if the queue never had it."""
        topic, queue_id = request.topic, request.queue_id
        first = self.queues.min_offset(topic, queue_id)
        end = self.queues.next_offset(topic, queue_id)
        if not first <= offset <= end + 1:  # RocketMQ's bounds
            raise Refused(f"Target offset {offset} not in consume queue range [{first}-{end}]")
        return offset

    def _go_on(self, search: _Search) -> None:
        """Look further queues up; finish, or come back after others had their turn."""
        for _ in range(QUEUES_PER_TURN):
            if not search.left:
                search.finish(search)
                return
            try:
                search.found[search.left[-1]] = self._target(search, search.left[-1])
            except Cold as cold:
                self._fetch(search, cold.position)
                return
            except Refused as error:
                search.later.refuse(error)
                return
            search.left.pop()
            search.known_ms.clear()
        self.cold_reads.submit(_nothing, lambda _result: self._go_on(search), search.later.refuse)

    def _fetch(self, search: _Search, position: int) -> None:
        """Find out when the record at this position was stored, and go on."""

        def learnt(stored_ms: int) -> None:
            search.known_ms[position] = stored_ms
            self._go_on(search)

        self.cold_reads.submit(
            lambda: self.stored_times.reader.stored_ms(position), learnt, search.later.refuse
        )

    def _target(self, search: _Search, queue_id: int) -> int:
        """Where the time of the request lies in a queue. Raises: Cold, Refused."""
        topic, timestamp = search.request.topic, search.request.timestamp
        if timestamp < 0:
            return self.queues.next_offset(topic, queue_id)
        return self.stored_times.search_nowait(
            topic, queue_id, timestamp, Boundary.LOWER, search.known_ms
        )

    def _keep(self, search: _Search) -> None:
        request, later = search.request, search.later
        command = commands.ResetOffsets(
            stamped_ms=self.now_ms(),
            group=request.group,
            topic=request.topic,
            queues=tuple(sorted(search.found.items())),
        )

        def done(refusal: Exception | None) -> None:
            if refusal is None:
                later.answer(self._answer(search))
            else:
                later.refuse(refusal)

        self.proposals.propose(command, done)

    def _answer(self, search: _Search) -> Answer[Any]:
        return Answer(body=encode_body(OffsetsByQueue(offset_table=self._table(search))))

    def _table(self, search: _Search) -> dict[MessageQueue, int]:
        topic = search.request.topic
        return {
            MessageQueue(topic=topic, broker_name=self.broker_name, queue_id=queue_id): offset
            for queue_id, offset in sorted(search.found.items())
        }

    # --- the clients' side -----------------------------------------------------------------------

    def _reset_clients(
        self, request: ResetOffsets, topic: TopicConfig, caller: Caller
    ) -> Later[Any]:
        group = self.clients.consumer_group(request.group)
        if group is None:
            raise NotOnline(request.group)
        for client in group.clients.values():
            if client.version < VERSION_3_0_7:
                raise Refused(f"the client does not support this feature. version={client.version}")
        for queue_id in range(topic.write_queues):
            if self.machine.offsets.get(request.group, request.topic, queue_id) is None:
                raise Refused(f"the group {request.group} has consumed nothing of queue {queue_id}")
        left = [*range(topic.write_queues)]
        search = _Search(request, caller.later(), left, self._tell_clients)
        self._go_on(search)
        return search.later

    def _tell_clients(self, search: _Search) -> None:
        request = search.request
        for queue_id, target in search.found.items():
            now = self.machine.offsets.get(request.group, request.topic, queue_id)
            if not request.is_force and now is not None:
                search.found[queue_id] = min(target, now)
        group = self.clients.consumer_group(request.group)
        if group is None:  # they left while the offsets were looked up
            search.later.refuse(NotOnline(request.group))
            return
        table = self._table(search)
        push = ResetClientOffsets(
            group=request.group, topic=request.topic, timestamp=request.timestamp
        )
        for client in group.clients.values():
            client.connection.request(push, offsets_for(client.language, table))
        search.later.answer(self._answer(search))

    # --- copies ----------------------------------------------------------------------------------

    def _copies(self, request: CloneOffsets) -> Iterable[commands.Commit]:
        offsets = self.machine.offsets
        source, destination = request.src_group, request.dest_group
        connected = self.clients.consumer_group(source)
        for topic in (request.topic,) if request.topic else offsets.topics_of(source):
            if topic not in self.machine.topics:
                continue
            if not request.offline and connected and topic not in connected.subscriptions:
                continue
            copied = offsets.of_topic(source, topic)
            if not copied:
                continue
            for queue_id in offsets.of_topic(destination, topic).keys() - copied.keys():
                yield destination, topic, queue_id, -1
            for queue_id, offset in copied.items():
                yield destination, topic, queue_id, offset


def _nothing() -> None:
    """Nothing was to be read."""
