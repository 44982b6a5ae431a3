"""Producers, consumers and an offset keeper on one topic, all through the public client.

With one broker group, producers name the queues in turn. With several, the client chooses, so that
it can turn to another group while one has no leader.

Every client records the attempt before it acts and the outcome after it, so that a history can tell
what was promised from what was only tried.
"""

from collections.abc import Sequence
from itertools import count

import structlog
import trio
from attrs import define

from chaos.checkers.history import (
    Acknowledged,
    OffsetCommitted,
    OffsetRead,
    Received,
    Refused,
    Sent,
    Stored,
    Unknown,
)
from chaos.recorder import Recorder, now_ns
from chaos.workloads.reading import read_to_end
from dledger_py.client import Client, ClientError, SendRefused, SendUncertain, connect

log = structlog.get_logger()

PAUSE_S = 0.002  # between two sends of one producer: some hundred sends a second in all
OFFSET_PAUSE_S = 0.05
KEEPER_GROUP = "offset-keeper"


@define(eq=False, kw_only=True)
class Workload:
    """What every client of one run shares."""

    name_server: str
    client: Client
    topic: str
    group: str
    brokers: Sequence[str]
    """The groups that have the topic."""
    queues: int
    """Of the topic, in each group."""
    recorder: Recorder
    body_bytes: int = 1024

    async def produce(self, name: str, stopped: trio.Event) -> None:
        """Send one message after the other, to the queues in turn, until `stopped`."""
        for number in count():
            if stopped.is_set():
                return
            await self.send(name, number)
            await trio.sleep(PAUSE_S)

    async def send(
        self, producer: str, number: int, *, timeout_s: float | None = None
    ) -> ClientError | None:
        """One send, written down. Returns the error it ended with, if it did."""
        value = f"{producer}-{number:06d}"
        self.recorder.add(Sent(at_ns=now_ns(), producer=producer, value=value))
        body = value.encode().ljust(self.body_bytes, b".")
        queue = number % self.queues if len(self.brokers) == 1 else None
        try:
            receipt = await self.client.send(self.topic, body, queue=queue, timeout_s=timeout_s)
        except SendUncertain as error:
            self.recorder.add(Unknown(at_ns=now_ns(), producer=producer, value=value))
            return error
        except SendRefused as error:
            self.recorder.add(Refused(at_ns=now_ns(), producer=producer, value=value))
            return error
        self.recorder.add(
            Acknowledged(
                at_ns=now_ns(),
                producer=producer,
                value=value,
                broker=receipt.broker,
                queue_id=receipt.queue_id,
                offset=receipt.queue_offset,
            )
        )
        return None

    async def consume(self, name: str) -> None:
        """Be a member of the group until cancelled, with a client of its own."""
        async with (
            connect(self.name_server) as client,
            client.consumer(self.group, {self.topic: "*"}, from_="first") as messages,
        ):
            async for message in messages:
                async with message.ack_on_success():
                    self.recorder.add(
                        Received(
                            at_ns=now_ns(),
                            consumer=name,
                            value=value_of(message.body),
                            broker=message.queue.broker,
                            queue_id=message.queue.queue_id,
                            offset=message.queue_offset,
                        )
                    )

    async def keep_offsets(self, stopped: trio.Event) -> None:
        """Commit growing offsets for a group of nobody else's, and read each back."""
        offset = 0
        known: set[str] = set()
        while not stopped.is_set():
            offset += 1
            broker, queue_id = self._places()[offset % len(self._places())]
            try:
                if broker not in known:  # as a consumer would make the group known
                    await self.client.pull(
                        self.topic, queue_id, 0, broker=broker, group=KEEPER_GROUP
                    )
                    known.add(broker)
                await self.client.commit_offset(
                    KEEPER_GROUP, self.topic, queue_id, offset, broker=broker
                )
                self.recorder.add(
                    OffsetCommitted(
                        at_ns=now_ns(),
                        group=KEEPER_GROUP,
                        broker=broker,
                        queue_id=queue_id,
                        offset=offset,
                    )
                )
                began_ns = now_ns()
                read = await self.client.committed_offset(
                    KEEPER_GROUP, self.topic, queue_id, broker=broker
                )
                self.recorder.add(
                    OffsetRead(
                        began_ns=began_ns,
                        at_ns=now_ns(),
                        group=KEEPER_GROUP,
                        broker=broker,
                        queue_id=queue_id,
                        offset=read,
                    )
                )
            except ClientError as error:
                known.discard(broker)
                log.info("chaos.offset_unknown", reason=str(error))
            await trio.sleep(OFFSET_PAUSE_S)

    async def inspect(self) -> None:
        """Read every queue from its first offset to its end."""
        for broker, queue_id in self._places():
            async for message in read_to_end(self.client, self.topic, broker, queue_id):
                self.recorder.add(
                    Stored(
                        value=value_of(message.body),
                        broker=broker,
                        queue_id=queue_id,
                        offset=message.queue_offset,
                    )
                )

    def _places(self) -> list[tuple[str, int]]:
        """Every queue: its broker and number."""
        return [(broker, queue_id) for broker in self.brokers for queue_id in range(self.queues)]


def value_of(body: bytes) -> str:
    """The value a message stands for."""
    return body.rstrip(b".").decode()
