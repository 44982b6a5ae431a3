"""Owning queues: who consumes in order asks the broker for each queue, and asks again to keep it.

The laws.

* A queue is owned for `OWNED_S` after the *question* that was answered with it, which is half of
  what the broker grants.  So nobody else owns it while this member thinks it does.
* What was lost, for a moment even, is not renewed: it has to be asked for anew, and read anew from
  what is committed, since another member may have been there.

Source: docs/consistency.md; protocol codes 41 and 42.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable

import anyio

from dledger_py.client.asking import Asker
from dledger_py.client.errors import ClientClosed, ClientError, MalformedAnswer
from dledger_py.client.queues import Queue
from dledger_py.remoting.commands.json_bodies import MalformedBody, decode_body, encode_body
from dledger_py.remoting.commands.locks import (
    LockQueues,
    QueuesLocked,
    QueuesOfClient,
    UnlockQueues,
)
from dledger_py.remoting.commands.statistics import MessageQueue

logger = logging.getLogger(__name__)

OWNED_S = 30.0
"""Brokers forget an owner after 60 s; Java's clients count 30 s, too."""

RENEW_S = 10.0
"""How often ownership is renewed.  Java's clients do it every 20 s, which leaves one try."""

ASK_S = 8.0
"""How long one question may take: longer than an election, and two fit into `OWNED_S`."""

LET_GO_S = 2.0


class QueueLocks:
    """The queues one member of a group owns."""

    def __init__(self, asker: Asker, client_id: str, group: str) -> None:
        self._asker = asker
        self._client_id = client_id
        self._group = group
        self._until: dict[Queue, float] = {}

    def owns(self, queue: Queue) -> bool:
        """Whether *queue* is this member's alone, now."""
        until = self._until.get(queue)
        if until is None:
            return False
        if until <= anyio.current_time():
            del self._until[queue]
            logger.warning("%s: the lock on %s could not be kept", self._group, queue)
            return False
        return True

    async def acquire(self, queue: Queue) -> bool:
        """Ask for *queue*; False while somebody else owns it.  **Raises** ClientError."""
        asked_at = anyio.current_time()
        if queue not in await self._ask([queue]):
            return False
        self._until[queue] = asked_at + OWNED_S
        return True

    async def keep(self) -> None:
        """Renew what is owned, again and again, until cancelled."""
        while True:
            await anyio.sleep(RENEW_S)
            await self.renew()

    async def renew(self) -> None:
        """Renew what is owned; what cannot be renewed is owned until its time is up."""
        async with anyio.create_task_group() as tasks:
            for queues in self._by_broker(self._until):
                tasks.start_soon(self._renew, queues)

    async def _renew(self, queues: list[Queue]) -> None:
        asked_at = anyio.current_time()
        try:
            found = await self._ask(queues)
        except ClientClosed:
            return
        except ClientError as error:
            logger.warning("%s: locks are not renewed: %s", self._group, error)
            return
        for queue in queues:
            if queue not in found:
                self._until.pop(queue, None)
            elif self.owns(queue):
                self._until[queue] = asked_at + OWNED_S

    async def release(self, queues: Iterable[Queue]) -> None:
        """Let go of *queues*, also of those that were asked for, and nobody heard the answer.

        What brokers do not hear is over by itself after a minute.
        """
        let_go = list(queues)
        for queue in let_go:
            self._until.pop(queue, None)
        async with anyio.create_task_group() as tasks:
            for some in self._by_broker(let_go):
                tasks.start_soon(self._release, some)

    async def _release(self, queues: list[Queue]) -> None:
        try:
            await self._asker.ask(queues[0], UnlockQueues(), LET_GO_S, body=self._body(queues))
        except ClientError as error:
            logger.debug("%s: locks are not released: %s", self._group, error)

    async def _ask(self, queues: list[Queue]) -> frozenset[Queue]:
        reply = await self._asker.ask(queues[0], LockQueues(), ASK_S, body=self._body(queues))
        try:
            locked = decode_body(QueuesLocked, reply.body)
        except MalformedBody as error:
            raise MalformedAnswer(f"the broker of {queues[0]}", str(error)) from error
        return frozenset(
            Queue(each.topic, each.broker_name, each.queue_id) for each in locked.queues
        )

    def _body(self, queues: list[Queue]) -> bytes:
        wanted = tuple(
            MessageQueue(topic=each.topic, broker_name=each.broker, queue_id=each.queue_id)
            for each in queues
        )
        asked = QueuesOfClient(client_id=self._client_id, consumer_group=self._group, mq_set=wanted)
        return encode_body(asked)

    def _by_broker(self, queues: Iterable[Queue]) -> Iterable[list[Queue]]:
        found: defaultdict[str, list[Queue]] = defaultdict(list)
        for queue in sorted(queues):
            found[queue.broker].append(queue)
        return found.values()
