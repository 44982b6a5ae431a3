"""Transactional messages: sent as half first, and committed or rolled back by what came of a block.

    async with mq.transaction("Orders", body, tag="new"):
        await db.insert(order)

The laws.

* The half message is stored before the block begins; no consumer sees it before the commit.
* A verdict is remembered before it is told.  What the broker asks about transactions of this very
  client is answered from that memory, and not at all while the block runs; so a verdict that got
  lost is made good for as long as this client is connected, with or without a `check`.
* Nobody guesses.  About other transactions of the producer group (an earlier process began them)
  `check` decides.  Where there is none, or it fails, the answer is "unknown": it is asked again.
* A cancelled or failed block is rolled back, also while everything around it is being cancelled.

What is promised by the broker is in docs/transactions.md.
"""

import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from enum import Enum

import anyio
from attrs import define, evolve, field, frozen

from dledger_py.client import retry
from dledger_py.client._tasks import Starter
from dledger_py.client.asking import Asker
from dledger_py.client.connection import Connection
from dledger_py.client.errors import ClientError, CommitUncertain, SendUncertain
from dledger_py.client.membership import Membership
from dledger_py.client.messages import Message, Receipt, as_message
from dledger_py.client.producer import Producer, Sealed, receipt_of
from dledger_py.client.queues import Queue
from dledger_py.client.retry import Verdict
from dledger_py.client.tracing import Tracer
from dledger_py.remoting.commands.transactions import (
    COMMIT,
    ROLLBACK,
    UNKNOWN,
    CheckTransactionState,
    EndTransaction,
)
from dledger_py.remoting.wire import properties as property_text
from dledger_py.remoting.wire import schema
from dledger_py.remoting.wire.codes import ResponseCode
from dledger_py.remoting.wire.frame import Frame
from dledger_py.remoting.wire.message import (
    TRANSACTION_PREPARED,
    MalformedRecord,
    decode_record,
    parse_offset_message_id,
)

logger = logging.getLogger(__name__)

ROLL_BACK_S = 2.0
"""How long leaving a failed block may take; what is not told by then is told when asked."""

ENDED_MAX = 10_000
"""Verdicts remembered: some 2 MB.  The oldest are forgotten first; `check` decides about them."""

CHECKS_MAX = 64
"""Questions answered at a time; who is not answered asks again in 30 s."""

ANSWER_TIMEOUT_S = 3.0

REFUSALS_MAX = 3
"""Code 1 from a broker is "somebody lost leadership" or "no such half": the latter stays."""


class TransactionState(Enum):
    """What became of a transaction; what a `check` returns."""

    COMMIT = COMMIT
    ROLLBACK = ROLLBACK
    UNKNOWN = UNKNOWN
    """Not known yet: the broker asks again."""


TRACED = {
    TransactionState.COMMIT: "COMMIT_MESSAGE",
    TransactionState.ROLLBACK: "ROLLBACK_MESSAGE",
    TransactionState.UNKNOWN: "UNKNOW",
}
"""What a trace says; the protocol's spelling."""

Check = Callable[[Message], Awaitable[TransactionState]]
"""Finds out what became of the transaction that its half message belongs to."""


@define(eq=False)
class Transaction:
    """A transaction whose half message is stored; lives as long as its block."""

    receipt: Receipt
    """Of the half message; the committed one has the same `message_id` and another offset."""

    rolled_back: bool = field(default=False, init=False)

    @property
    def message_id(self) -> str:
        """The unique id: of the half message, and of the committed one."""
        return self.receipt.message_id

    def roll_back(self) -> None:
        """Roll back when the block ends, however it ends."""
        self.rolled_back = True


@frozen
class _Half:
    """Where a half message is, and how to end it."""

    queue: Queue
    unique_id: str
    offset_message_id: str
    end: EndTransaction


class Transactions:
    """The transactions of one client, and the answers to questions about them."""

    def __init__(
        self,
        tasks: Starter,
        producer: Producer,
        asker: Asker,
        membership: Membership,
        group: str,
        check: Check | None,
        tracer: Tracer | None,
    ) -> None:
        self._tasks = tasks
        self._producer = producer
        self._asker = asker
        self._membership = membership
        self._group = group
        self._check = check
        self._tracer = tracer
        self._open: set[str] = set()
        self._ended: OrderedDict[str, TransactionState] = OrderedDict()
        self._checking: set[str] = set()
        self._warned = False

    def properties(self) -> dict[str, str]:
        """What makes a message half."""
        return {
            property_text.TRANSACTION_PREPARED: "true",
            property_text.PRODUCER_GROUP: self._group,
        }

    # --- a transaction of ours -------------------------------------------------------------------

    @asynccontextmanager
    async def open(self, sealed: Sealed, timeout_s: float) -> AsyncIterator[Transaction]:
        """See `Client.transaction`."""
        if self._check is None and not self._warned:
            self._warned = True
            logger.warning(
                "transactions of %s have no check=: one whose process dies before its end is "
                "neither committed nor rolled back",
                self._group,
            )
        self._membership.be_known_everywhere()
        sealed = evolve(sealed, sys_flag=TRANSACTION_PREPARED)
        unique_id = sealed.unique_id
        self._open.add(unique_id)
        try:
            half = await self._prepare(sealed, timeout_s)
        except BaseException:  # the half may have been stored; the block never began
            self._verdict(unique_id, TransactionState.ROLLBACK)
            raise
        receipt, where = half
        transaction = Transaction(receipt)
        try:
            yield transaction
        except BaseException:
            await self._roll_back(where)
            raise
        if transaction.rolled_back:
            await self._roll_back(where)
        else:
            await self._commit(where, timeout_s)

    async def _prepare(self, sealed: Sealed, timeout_s: float) -> tuple[Receipt, _Half]:
        frame, queue = await self._producer.send(sealed, timeout_s)
        receipt = receipt_of(sealed, frame, queue)
        try:
            position = parse_offset_message_id(receipt.offset_message_id)[2]
        except MalformedRecord as error:
            raise SendUncertain(sealed.topic, sealed.unique_id, str(error)) from error
        end = EndTransaction(
            producer_group=self._group,
            tran_state_table_offset=receipt.queue_offset,
            commit_log_offset=position,
            commit_or_rollback=UNKNOWN,
            msg_id=sealed.unique_id,
            transaction_id=sealed.unique_id,
            topic=sealed.topic,
            broker_name=queue.broker,
        )
        half = _Half(queue, sealed.unique_id, receipt.offset_message_id, end)
        if receipt.status:  # a half that may vanish again is not built upon; nor do Java and Go
            await self._roll_back(half)
            why = f"it is stored, but not as safely as asked for (status {receipt.status})"
            raise SendUncertain(sealed.topic, sealed.unique_id, why)
        return receipt, half

    async def _commit(self, half: _Half, timeout_s: float) -> None:
        try:
            await self._end(half, TransactionState.COMMIT, timeout_s)
        except ClientError as error:
            raise CommitUncertain(half.queue.topic, half.unique_id, str(error)) from error

    async def _roll_back(self, half: _Half) -> None:
        with anyio.move_on_after(ROLL_BACK_S, shield=True):
            try:
                await self._end(half, TransactionState.ROLLBACK, ROLL_BACK_S)
            except ClientError as error:
                logger.warning(
                    "transaction %s: the roll-back was not heard, and will be told when asked: %s",
                    half.unique_id,
                    error,
                )

    async def _end(self, half: _Half, state: TransactionState, timeout_s: float) -> None:
        self._verdict(half.unique_id, state)
        refusals = 0

        def judge(code: int) -> Verdict:
            nonlocal refusals
            refusals += code == ResponseCode.SYSTEM_ERROR
            return Verdict.GIVE_UP if refusals >= REFUSALS_MAX else retry.judge_read(code)

        request = evolve(half.end, commit_or_rollback=state.value)
        await self._asker.ask(half.queue, request, timeout_s, judge=judge)
        if self._tracer is not None:
            where = (half.queue.topic, half.unique_id)
            self._tracer.ended(*where, TRACED[state], half.offset_message_id, asked=False)

    def _verdict(self, unique_id: str, state: TransactionState) -> None:
        self._open.discard(unique_id)
        self._ended[unique_id] = state
        while len(self._ended) > ENDED_MAX:
            self._ended.popitem(last=False)

    # --- being asked -----------------------------------------------------------------------------

    def asked(self, connection: Connection, frame: Frame) -> None:
        """The broker behind *connection* asks what became of a transaction."""
        if len(self._checking) >= CHECKS_MAX:
            logger.warning("too many transactions are asked about at once; one is left for later")
            return
        try:
            question = schema.decode(CheckTransactionState, frame.fields)
            record = decode_record(frame.body)
        except (schema.MalformedHeader, MalformedRecord) as error:
            logger.warning("%s asked what cannot be read: %s", connection.address, error)
            return
        broker = question.broker_name or connection.address
        message = as_message(record, Queue(record.topic, broker, record.queue_id))
        unique_id = message.message_id
        group = message.properties.get(property_text.PRODUCER_GROUP)
        if group != self._group or unique_id in self._checking:
            return
        self._checking.add(unique_id)
        self._tasks.start_soon(
            self._answer, connection, question, message, name=f"what became of {unique_id}"
        )

    async def _answer(
        self, connection: Connection, question: CheckTransactionState, message: Message
    ) -> None:
        unique_id = message.message_id
        try:
            state = await self._state(message)
            if state is TransactionState.UNKNOWN:
                return
            end = EndTransaction(
                producer_group=self._group,
                tran_state_table_offset=question.tran_state_table_offset,
                commit_log_offset=question.commit_log_offset,
                commit_or_rollback=state.value,
                from_transaction_check=True,
                msg_id=unique_id,
                transaction_id=question.transaction_id or unique_id,
                topic=message.topic,
                broker_name=question.broker_name,
            )
            await connection.call(end, timeout_s=ANSWER_TIMEOUT_S)
            if self._tracer is not None:
                where = (message.topic, unique_id)
                offset_id = message.offset_message_id
                self._tracer.ended(*where, TRACED[state], offset_id, asked=True)
        except ClientError as error:
            logger.info("transaction %s: the answer was not taken: %s", unique_id, error)
        finally:
            self._checking.discard(unique_id)

    async def _state(self, message: Message) -> TransactionState:
        unique_id = message.message_id
        if unique_id in self._open:
            return TransactionState.UNKNOWN
        if (known := self._ended.get(unique_id)) is not None:
            return known
        if self._check is None:
            logger.warning("nobody can say what became of transaction %s: no check=", unique_id)
            return TransactionState.UNKNOWN
        try:
            state: object = await self._check(message)
        except Exception:  # the user's own code; what it raises must not end the client
            logger.exception("the check of transaction %s failed", unique_id)
            return TransactionState.UNKNOWN
        if not isinstance(state, TransactionState):
            logger.error(
                "the check of transaction %s returned %r: a TransactionState is expected",
                unique_id,
                state,
            )
            return TransactionState.UNKNOWN
        return state
