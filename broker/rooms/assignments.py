"""Who consumes what, for consumers that leave it to the broker; and by pull or by pop.

Every member answers, from its own table of who is connected and from the replicated modes. The
queues of other broker groups are known from the name servers. Whoever cannot be told now, since
this member does not know the client yet or no name server answers, keeps what it has.

By pull the shares are those that consumers compute for themselves, so both kinds can be in a group.

Source: protocol pages 06 §10 and 08 §4.1; QueryAssignmentProcessor.java.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from attrs import define

from broker.errors import NotPermitted
from broker.machine import commands, names
from broker.machine.machine import Machine
from broker.machine.request_modes import POP
from broker.machine.request_modes import RequestMode as Mode
from broker.serving.client_table import ClientTable
from broker.serving.leadership import Leadership
from broker.serving.proposals import Proposals
from dledger_py.client.queues import Queue
from dledger_py.client.rebalance import averaged
from dledger_py.remoting.commands.assignments import (
    Assignment,
    AssignmentQuestion,
    Assignments,
    GetRequestModes,
    QueryAssignment,
    RequestMode,
    RequestModes,
    SetRequestMode,
)
from dledger_py.remoting.commands.heartbeats import MessageModel
from dledger_py.remoting.commands.json_bodies import decode_body, encode_body
from dledger_py.remoting.commands.popping import ANY_QUEUE
from dledger_py.remoting.commands.statistics import MessageQueue
from dledger_py.remoting.rooms import Answer, Caller, Later, handles

_UNSET: Final = Mode()


@define(eq=False, kw_only=True)
class AssignmentRoom:
    """Codes 400 to 402."""

    machine: Machine
    clients: ClientTable
    queues_of: Callable[[str], Awaitable[Sequence[Queue] | None]]
    """The readable queues of a topic, of all broker groups; None if they are not known."""
    leadership: Leadership
    proposals: Proposals
    now_ms: Callable[[], int]

    @handles(QueryAssignment)
    async def assignment(self, request: QueryAssignment, caller: Caller) -> Answer[None]:
        """The client's queues of a topic."""
        asked = decode_body(AssignmentQuestion, caller.frame.body)
        mode = self.machine.request_modes.get(asked.topic, asked.consumer_group) or _UNSET
        queues = await self.queues_of(asked.topic)
        share = None if queues is None else self._share(asked, queues, mode)
        if share is None:
            return Answer(body=encode_body(Assignments()))
        assignments = tuple(
            Assignment(
                message_queue=MessageQueue(
                    topic=queue.topic, broker_name=queue.broker, queue_id=queue.queue_id
                ),
                mode=mode.mode,
            )
            for queue in dict.fromkeys(share)
        )
        return Answer(body=encode_body(Assignments(message_queue_assignments=assignments)))

    @handles(SetRequestMode)
    def set_mode(self, request: SetRequestMode, caller: Caller) -> Later[Any]:
        """Let a group pull a topic or pop it; its consumers do so when they ask next."""
        if not self.leadership.leads:
            return self.leadership.relay(caller)
        wanted = decode_body(RequestMode, caller.frame.body)
        if names.is_retry_topic(wanted.topic):
            raise NotPermitted("retry topic is not allowed to set mode")
        command = commands.SetRequestMode(
            stamped_ms=self.now_ms(),
            topic=wanted.topic,
            group=wanted.consumer_group,
            mode=wanted.mode,
            pop_share_queues=wanted.pop_share_queue_num,
        )
        return self.proposals.answer(command, caller)

    @handles(GetRequestModes)
    def modes(self, request: GetRequestModes, caller: Caller) -> Answer[None]:
        """All that were set."""
        table: dict[str, dict[str, RequestMode]] = {}
        for topic, group, mode, shared in self.machine.request_modes.state():
            table.setdefault(topic, {})[group] = RequestMode(
                topic=topic, consumer_group=group, mode=mode, pop_share_queue_num=shared
            )
        return Answer(body=encode_body(RequestModes(message_request_mode_map=table)))

    def _share(
        self, asked: AssignmentQuestion, queues: Sequence[Queue], mode: Mode
    ) -> Sequence[Queue] | None:
        """None if it cannot be told."""
        if asked.message_model is MessageModel.BROADCASTING:
            return queues
        group = self.clients.consumer_group(asked.consumer_group)
        if group is None or asked.client_id not in group.clients:
            return None
        share = _STRATEGIES.get(asked.strategy_name)
        if share is None:
            return None
        consumers = sorted(group.clients)
        if mode.mode == POP:
            return shared_by_pop(queues, consumers, asked.client_id, mode.pop_share_queues, share)
        return share(queues, consumers, asked.client_id)


Share = Callable[[Sequence[Queue], Sequence[str], str], Sequence[Queue]]


def shared_by_pop(
    queues: Sequence[Queue], consumers: Sequence[str], consumer: str, shared: int, share: Share
) -> Sequence[Queue]:
    """A consumer pops its own queues and those of the `shared` consumers behind it, so that a slow
    one does not keep its messages waiting; all of them, where that would be everybody's."""
    if shared <= 0 or shared >= len(consumers) - 1:
        return [Queue(queue.topic, queue.broker, ANY_QUEUE) for queue in queues]
    place = consumers.index(consumer)
    if len(consumers) > len(queues):  # nobody shall be without
        return [sorted(queues)[place % len(queues)]] if queues else []
    ring = (*consumers, *consumers)
    return [
        queue
        for other in ring[place : place + shared + 1]
        for queue in share(queues, consumers, other)
    ]


def _averaged(queues: Sequence[Queue], consumers: Sequence[str], consumer: str) -> Sequence[Queue]:
    return averaged(queues, consumers, consumer) or ()


def _by_circle(queues: Sequence[Queue], consumers: Sequence[str], consumer: str) -> Sequence[Queue]:
    return sorted(queues)[consumers.index(consumer) :: len(consumers)]


_STRATEGIES: Final[dict[str, Share]] = {"AVG": _averaged, "AVG_BY_CIRCLE": _by_circle}
