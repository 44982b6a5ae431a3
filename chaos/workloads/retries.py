"""A consumer that cannot handle some messages: it gives them back, some of them again and again."""

from itertools import count

import trio
from attrs import define

from chaos.checkers.history import Outcome, SentBack
from chaos.checkers.retries import GROUP, RETRY_TOPIC, TOPIC
from chaos.workloads.attempts import Attempts, now_ms
from chaos.workloads.reading import found
from dledger_py.client import Client, ClientError, Message
from dledger_py.remoting.commands.send_back import SendBack
from dledger_py.remoting.wire.message import parse_offset_message_id

QUEUES = 2
PAUSE_S = 0.1
AGAIN_S = 0.05
TRIES_MAX = 1_000  # far beyond every election
WAIT_S = 0.5
LEVEL = 1
LEVEL_MS = 1_000
TIMES_MAX = 2
"""How often a message may come back that is never handled, before it is a dead letter."""

FATES = ("handled", "once", "twice", "dropped", "hopeless", "handled")
"""In turns. `dropped` is given up at once; `hopeless` comes back too often."""


@define(eq=False, kw_only=True)
class Retries:
    """The producer and the consumer."""

    attempts: Attempts
    client: Client

    async def produce(self, stopped: trio.Event) -> None:
        """Send messages, in whose values stands what becomes of them, until `stopped`."""
        brokers = self.attempts.brokers
        for number in count():
            if stopped.is_set():
                return
            broker = brokers[number % len(brokers)]
            value = f"{FATES[number % len(FATES)]}-{number:06d}"
            await self.attempts.send(TOPIC, broker, number % QUEUES, value)
            await trio.sleep(PAUSE_S)

    async def consume(self) -> None:
        """Be the group: follow its topic and its retry topic until cancelled."""
        async with trio.open_nursery() as readers:
            for broker in self.attempts.brokers:
                readers.start_soon(self._read, RETRY_TOPIC, broker, 0)
                for queue_id in range(QUEUES):
                    readers.start_soon(self._read, TOPIC, broker, queue_id)

    async def _read(self, topic: str, broker: str, queue_id: int) -> None:
        offset = 0
        while True:
            try:
                result = await self.client.pull(
                    topic, queue_id, offset, broker=broker, group=GROUP, wait_s=WAIT_S
                )
            except ClientError:  # no leader now, or no retry topic yet
                await trio.sleep(AGAIN_S)
                continue
            for message in result.messages:
                self.attempts.recorder.add(found(message))
                await self._handle(message)
            offset = max(offset, result.next_offset)  # a member that lags names an earlier one

    async def _handle(self, message: Message) -> None:
        """Give it back, until that is acknowledged, if it is one that is to be given back."""
        fate = message.body.decode().partition("-")[0]
        back = {"once": 1, "twice": 2, "dropped": 1, "hopeless": TIMES_MAX + 1}.get(fate, 0)
        if message.reconsume_times >= back:
            return
        for _ in range(TRIES_MAX):
            if await self._send_back(message, give_up=fate == "dropped") is Outcome.DONE:
                return
            await trio.sleep(AGAIN_S)

    async def _send_back(self, message: Message, *, give_up: bool) -> Outcome:
        _host, _port, position = parse_offset_message_id(message.offset_message_id)
        dead = give_up or message.reconsume_times >= TIMES_MAX
        request = SendBack(
            offset=position,
            group=GROUP,
            delay_level=-1 if give_up else LEVEL,
            origin_msg_id=message.message_id,
            origin_topic=TOPIC,
            max_reconsume_times=TIMES_MAX,
            broker_name=message.queue.broker,
        )
        earliest_ms = now_ms() + (0 if dead else LEVEL_MS)
        ending = await self.attempts.call(TOPIC, message.queue.broker, request)
        self.attempts.recorder.add(
            SentBack(
                value=message.body.decode(),
                times=message.reconsume_times,
                dead=dead,
                earliest_ms=earliest_ms,
                outcome=ending.outcome,
            )
        )
        return ending.outcome
