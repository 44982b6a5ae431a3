"""Asking producers what became of transactions they have not ended.

While this member leads, it looks once a second which half messages are due: first when they are
older than `timeout_ms`, or than the producer asked for (CHECK_IMMUNITY_TIME_IN_SECONDS), and then
again after pauses that grow. One live connection of the producer's group is asked, each time
another; where none is connected, it waits and counts nothing. What was asked too often or is too
old expires: a copy goes to a topic for such, and the half is pending no more.

Laws
- A check is counted by an entry of the log before it is sent: however often leaders change, nobody
  is asked more than `checks_max` times.
- A half is not stored again for its checks, as RocketMQ does: all of them name the same place.
- While the disk is nearly full nobody is asked, as what they would answer is not taken.

What is remembered here is soft: when to look at which half again, and whose it is.

Elsewhere: the answer, which is an ordinary END_TRANSACTION (`broker.rooms.transactions`).

Source: protocol page 08 §1.3; TransactionalMessageServiceImpl.java.
"""

from collections.abc import Awaitable, Callable
from heapq import heappop, heappush
from typing import Any, Final, Never

import structlog
import trio
from attrs import define, field, frozen

from broker.machine.codec import encode_command
from broker.machine.commands import CheckedTransactions, EnsureTopics
from broker.machine.end_transaction import Verdict
from broker.machine.machine import Machine
from broker.machine.transactions import Half
from broker.serving.client_table import Client, ClientTable
from broker.serving.half_messages import HalfMessages
from broker.serving.half_records import (
    EXPIRED_TOPIC,
    check_body,
    expired_message,
    immunity_ms,
    read_half,
    real_queue,
)
from broker.serving.rates import Rates
from broker.store.message_reader import LogReader
from dledger_py.actors import Inbox
from dledger_py.ledger.errors import LedgerError
from dledger_py.remoting.commands.transactions import CheckTransactionState
from dledger_py.remoting.wire import properties as props
from dledger_py.remoting.wire.message import Record, offset_message_id

log = structlog.get_logger()

LOOK_S: Final = 1.0
LOOKED_AT_MAX: Final = 5_000  # halves in one look: some 10 ms of the loop
FOUND_MAX: Final = 500  # halves to ask about, or to end, in one look
READ_BYTES_MAX: Final = 4 * 1024 * 1024  # records held at once by a look, but for the last

EVEN_PAUSES: Final = 5
"""Checks with the same pause behind them; then each pause is twice the one before."""
PAUSE_GROWTH_MAX: Final = 10


@frozen(kw_only=True)
class CheckTimes:
    """When producers are asked, in milliseconds since the half message was stored."""

    timeout_ms: int = 6_000
    interval_ms: int = 30_000
    checks_max: int = 15
    age_max_ms: int = 72 * 3_600_000

    def pause_ms(self, checks: int) -> int:
        """How long to wait for an answer to the last of so many checks."""
        growth: int = 2 ** max(0, checks - EVEN_PAUSES)
        return self.interval_ms * min(growth, PAUSE_GROWTH_MAX)

    def due_ms(self, half: Half, immunity_ms: int) -> int:
        """When the half is to be looked at again, on the clock that stamped it."""
        due_ms = half.stamped_ms + immunity_ms
        if half.checks:
            due_ms = half.checked_ms + self.pause_ms(half.checks)
        return min(due_ms, half.stamped_ms + self.age_max_ms)

    def is_over(self, half: Half, now_ms: int) -> bool:
        """Whether nobody is to be asked any more."""
        return half.checks >= self.checks_max or now_ms - half.stamped_ms >= self.age_max_ms


@frozen
class _Known:
    """What the record of a half said that was read once."""

    group: str
    immunity_ms: int


@define(eq=False, kw_only=True)
class CheckBack:
    """Actor: looks, while this member leads, and asks."""

    times: CheckTimes
    broker_name: str
    store_host: bytes
    machine: Machine
    leads: Callable[[], bool]
    disk_refuses: Callable[[], bool]
    clients: ClientTable
    halves: HalfMessages
    reader: LogReader
    commit: Callable[[bytes], Awaitable[Any]]
    run_in_thread: Callable[..., Awaitable[Any]]
    flush: Callable[[], None]
    """Send what was asked: it happens outside of the server's turns."""
    rates: Rates
    now_ms: Callable[[], int]
    _due: list[tuple[int, int]] = field(factory=list, init=False)
    """(when, log position) of each pending half that was seen: a heap."""
    _seen_to: int = field(default=-1, init=False)
    """The log position of the newest half that was seen."""
    _known: dict[int, _Known] = field(factory=dict, init=False)
    _turn: int = field(default=0, init=False)

    async def run(self, inbox: Inbox[Never]) -> None:
        """**Raises** FailStop if the log cannot be read."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look_from_time_to_time)
            inbox.ready()
            await inbox.wait_closed()
            nursery.cancel_scope.cancel()

    async def _look_from_time_to_time(self) -> None:
        while True:
            await trio.sleep(LOOK_S)
            if not self.leads():
                self._forget()
            elif not self.disk_refuses():
                await self.look()

    def _forget(self) -> None:
        self._due.clear()
        self._known.clear()
        self._seen_to = -1

    async def look(self) -> None:
        """Ask about the halves that are due, as far as the limits of one look allow."""
        self._see_new()
        now_ms = self.now_ms()
        asked: list[tuple[int, Record]] = []
        found = read_bytes = 0
        for _ in range(LOOKED_AT_MAX):
            if found >= FOUND_MAX or read_bytes >= READ_BYTES_MAX:
                break
            position = self._next(now_ms)
            if position is None:
                break
            half = self.machine.transactions.get(position)
            if half is None:
                self._known.pop(position, None)
                continue
            record = None
            known = self._known.get(position)
            if known is None:
                record = await self._read(position, half)
                known = self._learn(position, record)
            due_ms = self.times.due_ms(half, known.immunity_ms)
            over = self.times.is_over(half, now_ms)
            if due_ms > now_ms:
                self._later(position, due_ms)
            elif not over and not self.clients.producers(known.group):
                self._later(position, now_ms + self.times.interval_ms)
            else:
                record = record or await self._read(position, half)
                found += 1
                read_bytes += half.size
                if over:
                    self._expire(position, record)
                else:
                    asked.append((position, record))
        if asked:
            await self._ask(asked)

    def _see_new(self) -> None:
        newest = self._seen_to
        for position, half in self.machine.transactions.newest_first():
            if position <= self._seen_to:
                break
            newest = max(newest, position)
            self._later(position, self.times.due_ms(half, self.times.timeout_ms))
        self._seen_to = newest

    def _later(self, position: int, due_ms: int) -> None:
        heappush(self._due, (due_ms, position))

    def _next(self, now_ms: int) -> int | None:
        if not self._due or self._due[0][0] > now_ms:
            return None
        return heappop(self._due)[1]

    async def _read(self, position: int, half: Half) -> Record:
        try:
            return read_half(self.reader, position, half, nowait=True)
        except BlockingIOError:
            record: Record = await self.run_in_thread(
                read_half, self.reader, position, half, abandon_on_cancel=True
            )
            return record

    def _learn(self, position: int, record: Record) -> _Known:
        properties = props.decode(record.properties)
        known = self._known[position] = _Known(
            group=properties.get(props.PRODUCER_GROUP, ""),
            immunity_ms=immunity_ms(properties, self.times.timeout_ms),
        )
        return known

    # --- asking ----------------------------------------------------------------------------------

    async def _ask(self, asked: list[tuple[int, Record]]) -> None:
        """Count the checks, then send them."""
        stamped_ms = self.now_ms()
        positions = tuple(position for position, _record in asked)
        try:
            await self.commit(
                encode_command(CheckedTransactions(stamped_ms=stamped_ms, halves=positions))
            )
        except LedgerError as error:
            log.info("transactions.check_put_off", reason=str(error))
            for position in positions:
                self._later(position, stamped_ms + self.times.interval_ms)
            return
        for position, record in asked:
            half = self.machine.transactions.get(position)
            known = self._known.get(position)
            if half is None or known is None:  # it has just ended, or this member's lead
                self._known.pop(position, None)
                continue
            self._later(position, self.times.due_ms(half, known.immunity_ms))
            client = self._one_of(self.clients.producers(known.group))
            if client is not None:
                self.rates.transaction_checks.total += 1
                client.connection.request(
                    self._check(position, half, record), check_body(record, position, half)
                )
        self.flush()

    def _one_of(self, clients: tuple[Client, ...]) -> Client | None:
        """Another one each time: the last may be the one that does not answer."""
        self._turn += 1
        return clients[self._turn % len(clients)] if clients else None

    def _check(self, position: int, half: Half, record: Record) -> CheckTransactionState:
        properties = props.decode(record.properties)
        unique_id = properties.get(props.UNIQ_KEY)
        return CheckTransactionState(
            tran_state_table_offset=half.queue_offset,
            commit_log_offset=position,
            msg_id=unique_id,
            transaction_id=unique_id,
            offset_msg_id=offset_message_id(record.store_host, position),
            topic=real_queue(properties)[0],
            broker_name=self.broker_name,
        )

    # --- expiry ----------------------------------------------------------------------------------

    def _expire(self, position: int, record: Record) -> None:
        """Keep a copy where operators find it, and be done with the half."""
        now_ms = self.now_ms()
        if self.machine.transactions.get(position) is None:  # ended while its record was read
            self._known.pop(position, None)
            return
        if self.halves.ending(position) is not None:
            self._later(position, now_ms + self.times.interval_ms)
            return
        if EXPIRED_TOPIC.name not in self.machine.topics:
            topics = EnsureTopics(stamped_ms=now_ms, topics=(EXPIRED_TOPIC,))
            self.halves.ledger.propose(encode_command(topics), _never_mind)

        def done(error: Exception | None) -> None:
            if error is not None:
                self._later(position, now_ms + self.times.interval_ms)
                return
            self._known.pop(position, None)
            properties = props.decode(record.properties)
            log.warning(
                "transactions.expired",
                topic=real_queue(properties)[0],
                producer_group=properties.get(props.PRODUCER_GROUP),
                unique_id=properties.get(props.UNIQ_KEY),
                position=position,
            )

        message = expired_message(record, now_ms, self.store_host)
        self.halves.end(position, Verdict.EXPIRED, message, done)


def _never_mind(_outcome: object) -> None:
    """If the topic could not be made, the half behind it cannot end, and tries again."""
