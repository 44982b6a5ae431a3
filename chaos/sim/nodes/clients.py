"""Clients of a simulated cluster: the public client library, on machines of their own.

Every client records the attempt before it acts and the outcome after it, in `chaos.checkers`'
terms, and tells the story, so that outcomes are part of the trace.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from random import Random
from typing import TypeVar

import trio
from attrs import define, field

from chaos.checkers.history import (
    Acknowledged,
    Event,
    OffsetCommitted,
    OffsetRead,
    Received,
    Refused,
    Sent,
    Stored,
    Unknown,
)
from chaos.recorder import Recorder
from chaos.sim.nodes.host import Machine, Process, surroundings
from chaos.sim.nodes.members import CLIENT_PORT, NAME_SERVER, address_of, only_cancelled
from chaos.sim.nodes.scheduling import TASKS
from chaos.sim.nodes.story import Story, Violation
from dledger_py.client import Client, ClientError, SendRefused, SendUncertain, connect
from dledger_py.client.connection import open_connection
from dledger_py.remoting.commands.operations import ChangeMembers, TransferLeadership
from dledger_py.remoting.wire.schema import Request

TOPIC = "Sim"
GROUP = "sim-consumers"
KEEPER_GROUP = "sim-keeper"
QUEUES = 3
KEEPER_PAUSE_S = 0.5
RETRY_S = 0.5

AnswerT = TypeVar("AnswerT")


@define(eq=False)
class Clients:
    """One client machine with its producers, consumer and offset keeper."""

    machine: Machine
    recorder: Recorder
    story: Story
    random: Random
    pause_s: float
    """Mean time between two sends of one producer."""
    producers: int
    stopped: bool = False
    acknowledged: int = 0
    sending: int = 0
    """Messages that are on their way, or tried again."""
    _process: Process = field(init=False)
    _offset: int = 0

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled."""
        self._process = process = self.machine.boot()
        TASKS.set(process.tasks)
        try:
            with process.scope:
                task_status.started()
                while True:
                    try:
                        async with self.connected() as client, trio.open_nursery() as nursery:
                            for number in range(self.producers):
                                nursery.start_soon(self._produce, client, number)
                            nursery.start_soon(self._consume, client)
                            nursery.start_soon(self._keep_offsets, client)
                    except ClientError:
                        await trio.sleep(RETRY_S)
        except BaseException as error:
            if process.alive or only_cancelled(error):
                raise
        finally:
            process.die()

    def die(self) -> None:
        self._process.die()

    def connected(self) -> AbstractAsyncContextManager[Client]:
        """A client of this machine."""
        where = f"{NAME_SERVER[0]}:{NAME_SERVER[1]}"
        around = surroundings(self._process)
        return connect(where, client_id=self.machine.name, surroundings=around)

    async def _produce(self, client: Client, number: int) -> None:
        name = f"{self.machine.name}p{number}"
        count = 0
        while not self.stopped:
            value = f"{name}-{count:06d}"
            self._add(Sent(at_ns=self._now(), producer=name, value=value))
            body = value.encode().ljust(self.random.choice((20, 100, 100, 3000)), b".")
            queue = count % QUEUES
            count += 1
            self.sending += 1
            try:
                receipt = await client.send(TOPIC, body, queue=queue)
            except SendUncertain:
                self._add(Unknown(at_ns=self._now(), producer=name, value=value))
            except SendRefused:
                self._add(Refused(at_ns=self._now(), producer=name, value=value))
            else:
                self.acknowledged += 1
                self._add(
                    Acknowledged(
                        at_ns=self._now(),
                        producer=name,
                        value=value,
                        queue_id=receipt.queue_id,
                        offset=receipt.queue_offset,
                    )
                )
            finally:
                self.sending -= 1
            await trio.sleep(self.random.expovariate(1 / self.pause_s))

    async def _consume(self, client: Client) -> None:
        name = f"{self.machine.name}c"
        while True:
            try:
                async with client.consumer(GROUP, {TOPIC: "*"}, from_="first") as messages:
                    async for message in messages:
                        async with message.ack_on_success():
                            self._add(
                                Received(
                                    at_ns=self._now(),
                                    consumer=name,
                                    value=value_of(message.body),
                                    queue_id=message.queue.queue_id,
                                    offset=message.queue_offset,
                                )
                            )
            except ClientError as error:
                self.story.add(name, f"consumer ended: {error}")
                await trio.sleep(RETRY_S)

    async def _keep_offsets(self, client: Client) -> None:
        """Commit growing offsets for a group of this machine's own, and read each back."""
        group = f"{KEEPER_GROUP}-{self.machine.name}"
        known = False
        while not self.stopped:
            self._offset += 1
            queue_id = self._offset % QUEUES
            place = (TOPIC, queue_id)
            try:
                if not known:  # offsets of a group that nobody ever pulled for are refused
                    await client.pull(*place, 0, group=group)
                    known = True
                await client.commit_offset(group, *place, self._offset)
                self._add(
                    OffsetCommitted(
                        at_ns=self._now(), group=group, queue_id=queue_id, offset=self._offset
                    )
                )
                began_ns = self._now()
                read = await client.committed_offset(group, *place)
                self._add(
                    OffsetRead(
                        began_ns=began_ns,
                        at_ns=self._now(),
                        group=group,
                        queue_id=queue_id,
                        offset=read,
                    )
                )
            except ClientError as error:
                known = False
                self.story.add(self.machine.name, f"offset unknown: {error}")
            await trio.sleep(self.random.expovariate(1 / KEEPER_PAUSE_S))

    async def inspect(self) -> None:
        """Read every queue from its first offset to its end. **Raises** Violation."""
        TASKS.set(self._process.tasks)
        async with self.connected() as client:
            for queue_id in range(QUEUES):
                offset = await self._answer(client.min_offset, TOPIC, queue_id)
                end = await self._answer(client.max_offset, TOPIC, queue_id)
                while offset < end:
                    result = await self._answer(client.pull, TOPIC, queue_id, offset)
                    for message in result.messages:
                        self._add(
                            Stored(
                                value=value_of(message.body),
                                queue_id=queue_id,
                                offset=message.queue_offset,
                            )
                        )
                    if result.next_offset <= offset:
                        raise Violation(f"queue {queue_id} stands still at {offset} of {end}")
                    offset = result.next_offset

    async def _answer(self, ask: Callable[..., Awaitable[AnswerT]], *question: object) -> AnswerT:
        """Ask until there is one: a member may find rot at this very moment."""
        while True:
            try:
                return await ask(*question)
            except ClientError as error:
                self.story.add(self.machine.name, f"not read: {error}")
                await trio.sleep(RETRY_S)

    async def transfer(self, leader: str, to: str) -> None:
        """Ask the leader to hand over."""
        await self._ask(leader, TransferLeadership(transferee_id=to), f"hand over to {to}")

    async def change(self, leader: str, change: str, node: str, address: str) -> None:
        """Ask the leader to `add` a member, who listens there, or to `remove` one."""
        request = ChangeMembers(change=change, node=node, address=address)
        await self._ask(leader, request, f"{change} {node}")

    async def _ask(self, leader: str, request: Request[None], what: str) -> None:
        """What comes of it is told, not judged."""
        around = surroundings(self._process)
        outcome = "done"
        try:
            async with open_connection(
                address_of(leader), CLIENT_PORT, dial=around.dial
            ) as connection:
                await connection.call(request)
        except ClientError as error:
            outcome = str(error)
        self.story.add(self.machine.name, f"{leader} was to {what}: {outcome}")

    def _add(self, event: Event) -> None:
        self.recorder.add(event)
        self.story.add(self.machine.name, _brief(event))

    def _now(self) -> int:
        return int(trio.current_time() * 1e9)


def value_of(body: bytes) -> str:
    """The value a message stands for."""
    return body.rstrip(b".").decode()


def _brief(event: Event) -> str:
    match event:
        case Sent() | Unknown() | Refused():
            return f"{type(event).__name__} {event.value}"
        case Acknowledged() | Received() | Stored():
            return f"{type(event).__name__} {event.value} {event.queue_id}/{event.offset}"
        case OffsetCommitted() | OffsetRead():
            return f"{type(event).__name__} {event.queue_id} {event.offset}"
        case _:
            return type(event).__name__
