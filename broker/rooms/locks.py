"""Queues owned by one consumer of a group at a time: what consuming in order stands on.

Who owns what is part of the replicated state, so a change of leader neither frees a queue that is
worked on nor keeps one that is free. A lock is given once that is durable at a quorum.

Source: protocol pages 06 §10 and 07 §7; AdminBrokerProcessor.java, RebalanceLockManager.java.
"""

from collections.abc import Callable
from typing import Any, Final

from attrs import define

from broker.errors import GroupNotFound, InvalidParameter
from broker.machine import commands, names
from broker.machine.machine import Machine
from broker.machine.replies import Owned, Reply
from broker.serving.leadership import Leadership
from broker.serving.proposals import Proposals
from dledger_py.remoting.commands.json_bodies import decode_body, encode_body
from dledger_py.remoting.commands.locks import (
    LockQueues,
    QueuesLocked,
    QueuesOfClient,
    UnlockQueues,
)
from dledger_py.remoting.commands.statistics import MessageQueue
from dledger_py.remoting.rooms import Answer, Caller, Later, handles

QUEUES_MAX: Final = 65_536  # of one request: a topic has no more
CLIENT_ID_CHARACTERS_MAX: Final = 1024  # address, process, unit name; it is kept with each lock


@define(eq=False, kw_only=True)
class Locks:
    """Codes 41 and 42."""

    broker_name: str
    machine: Machine
    leadership: Leadership
    proposals: Proposals
    now_ms: Callable[[], int]

    @handles(LockQueues)
    def lock(self, request: LockQueues, caller: Caller) -> Later[Any]:
        """Answered with the queues the client owns; with fewer, it asks again in 20 s."""
        if not self.leadership.leads:
            return self.leadership.relay(caller)
        asked = self._asked(caller)
        if asked.consumer_group not in self.machine.groups:
            fault = names.group_fault(asked.consumer_group)
            raise GroupNotFound(asked.consumer_group, fault or "")
        later = caller.later()

        def replied(reply: Reply) -> None:
            assert isinstance(reply, Owned)
            owned = tuple(
                MessageQueue(topic=topic, broker_name=self.broker_name, queue_id=queue_id)
                for topic, queue_id in reply.queues
            )
            later.answer(Answer(body=encode_body(QueuesLocked(queues=owned))))

        command = commands.LockQueues(
            stamped_ms=self.now_ms(),
            group=asked.consumer_group,
            owner=asked.client_id,
            queues=self._ours(asked),
        )
        self.proposals.ask(command, replied, later.refuse)
        return later

    @handles(UnlockQueues)
    def unlock(self, request: UnlockQueues, caller: Caller) -> Later[Any]:
        """Answered alike whether the client owned them or not."""
        if not self.leadership.leads:
            return self.leadership.relay(caller)
        asked = self._asked(caller)
        command = commands.UnlockQueues(
            stamped_ms=self.now_ms(),
            group=asked.consumer_group,
            owner=asked.client_id,
            queues=self._ours(asked),
        )
        return self.proposals.answer(command, caller)

    def _asked(self, caller: Caller) -> QueuesOfClient:
        asked = decode_body(QueuesOfClient, caller.frame.body)
        if not 0 < len(asked.client_id) <= CLIENT_ID_CHARACTERS_MAX:
            raise InvalidParameter(
                f"a clientId of {len(asked.client_id)} characters:"
                f" 1 to {CLIENT_ID_CHARACTERS_MAX} are possible"
            )
        if len(asked.mq_set) > QUEUES_MAX:
            raise InvalidParameter(f"{len(asked.mq_set)} queues: at most {QUEUES_MAX} at a time")
        return asked

    def _ours(self, asked: QueuesOfClient) -> tuple[commands.Queue, ...]:
        return tuple(
            (queue.topic, queue.queue_id)
            for queue in asked.mq_set
            if queue.broker_name == self.broker_name
        )
