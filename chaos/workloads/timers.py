"""Messages for later, by level and by time, and recalls up to the last moment."""

from itertools import count
from random import Random

import trio
from attrs import define, field

from chaos.checkers.history import Outcome, Recalled, Timed
from chaos.checkers.timers import TOPIC
from chaos.workloads.attempts import Attempts, now_ms
from dledger_py.remoting.commands.sending import RecallMessage
from dledger_py.remoting.wire import properties as props

QUEUES = 2
PAUSE_S = 0.02
LEVELS_MS = {1: 1_000, 2: 5_000}
NEAR_MS = (200, 4_000)
FAR_MS = (21_000, 26_000)
"""More than 20 s ahead a message waits in an outer ring of the wheel, and is moved inwards once."""
TRIES_MAX = 100  # far beyond every election
RECALLED = 0.25  # of those that can be
LAST_MOMENT_MS = 40


@define(eq=False, kw_only=True)
class Timers:
    """The producer; it sends one message after the other."""

    attempts: Attempts
    far: bool
    """Whether some messages are timed so far ahead that they are moved inwards."""
    dice: Random = field(factory=lambda: Random(7))

    async def run(self, stopped: trio.Event) -> None:
        """Send until `stopped`, and end when the last recall has."""
        async with trio.open_nursery() as recalling:
            for number in count():
                if stopped.is_set():
                    return
                await self._send(number, recalling)
                await trio.sleep(PAUSE_S)

    async def _send(self, number: int, recalling: trio.Nursery) -> None:
        brokers = self.attempts.brokers
        broker = brokers[number % len(brokers)]
        timed, wish = self._timed(f"timed-{number:06d}", broker, number)
        self.attempts.recorder.add(timed)
        unique_id = self.attempts.ids.make()
        for _ in range(TRIES_MAX):
            ending = await self.attempts.send(
                TOPIC, broker, timed.queue_id, timed.value, unique_id=unique_id, properties=wish
            )
            if ending.outcome is not Outcome.UNKNOWN:
                break
            await trio.sleep(PAUSE_S)
        if ending.reply is None:
            return
        handle = ending.reply.header.recall_handle
        if handle is not None and self.dice.random() < RECALLED:
            recalling.start_soon(self._recall, timed, broker, handle)

    def _timed(self, value: str, broker: str, number: int) -> tuple[Timed, dict[str, str]]:
        """What is promised, and how it is asked for."""
        now = now_ms()
        level, exact = 0, False
        match number % 6:
            case 0 | 1 as kind:
                level = kind + 1
                after_ms, wish = LEVELS_MS[level], {props.DELAY: str(level)}
            case 2:
                after_ms = 1_000 * self.dice.randint(1, 4)
                wish = {props.TIMER_DELAY_SEC: str(after_ms // 1_000)}
            case 3:
                after_ms = self.dice.randint(*NEAR_MS)
                wish = {props.TIMER_DELAY_MS: str(after_ms)}
            case kind:
                after_ms = self.dice.randint(*(FAR_MS if self.far and kind == 4 else NEAR_MS))
                wish, exact = {props.TIMER_DELIVER_MS: str(now + after_ms)}, True
        timed = Timed(
            value=value,
            broker=broker,
            queue_id=self.dice.randrange(QUEUES),
            earliest_ms=now + after_ms,
            level=level,
            exact=exact,
        )
        return timed, wish

    async def _recall(self, timed: Timed, broker: str, handle: str) -> None:
        """Some time before it is due: often in the very last moment, sometimes too late."""
        left_ms = timed.earliest_ms - now_ms()
        before_ms = self.dice.choice((LAST_MOMENT_MS, left_ms)) * self.dice.random()
        await trio.sleep(max(0, left_ms - before_ms) / 1000)
        request = RecallMessage(topic=TOPIC, recall_handle=handle, broker_name=broker)
        ending = await self.attempts.call(TOPIC, broker, request)
        self.attempts.recorder.add(Recalled(value=timed.value, outcome=ending.outcome))
