"""A producer of transactions: it ends some at once and leaves others to the check-back.

What becomes of a transaction is in its value, so that a check can be answered for a half message
of which nobody heard whether it was stored.
"""

from itertools import count

import trio
from attrs import define, field

from chaos.checkers.history import Checked, Ended, Outcome
from chaos.checkers.transactions import TOPIC
from chaos.workloads.attempts import Attempts, now_ms
from dledger_py.client.connection import Connection
from dledger_py.remoting.commands.transactions import (
    COMMIT,
    ROLLBACK,
    CheckTransactionState,
    EndTransaction,
)
from dledger_py.remoting.wire import properties as props
from dledger_py.remoting.wire.frame import Frame
from dledger_py.remoting.wire.message import (
    TRANSACTION_PREPARED,
    decode_record,
    parse_offset_message_id,
)
from dledger_py.remoting.wire.schema import decode_request

QUEUES = 2
PAUSE_S = 0.05
GROUP = "chaos-transactions"

FATES = (
    *("commit", "commit", "commit-later", "commit-twice"),
    *("rollback", "rollback-twice"),
    *("checked-commit", "checked-rollback", "checked-late", "mute"),
)
"""In turns. `-twice`: the same word again, then the other one, which must not count. `-later`: it
is for later as well. `checked-late`: only the second check is answered. `mute`: none is."""


@define(eq=False, kw_only=True)
class Transactions:
    """The producer, and who answers for it when it is asked."""

    attempts: Attempts
    checks: trio.MemoryReceiveChannel[Frame]
    """Where `taken_by` puts what brokers ask."""
    _asked: dict[str, int] = field(factory=dict)

    async def produce(self, stopped: trio.Event) -> None:
        """Send half messages, and end those that are to be ended, until `stopped`."""
        for number in count():
            if stopped.is_set():
                return
            await self._one(number)
            await trio.sleep(PAUSE_S)

    async def answer_checks(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as answering:
            async for frame in self.checks:
                answering.start_soon(self._answer, frame)

    async def _one(self, number: int) -> None:
        fate = FATES[number % len(FATES)]
        brokers = self.attempts.brokers
        broker = brokers[number % len(brokers)]
        value = f"{fate}-{number:06d}"
        wish = {props.TRANSACTION_PREPARED: "true", props.PRODUCER_GROUP: GROUP}
        if fate == "commit-later":
            wish[props.DELAY] = "1"
        ending = await self.attempts.send(
            TOPIC,
            broker,
            number % QUEUES,
            value,
            sys_flag=TRANSACTION_PREPARED,
            producer_group=GROUP,
            properties=wish,
        )
        if ending.reply is None or fate.startswith(("checked", "mute")):
            return
        half = ending.reply.header
        commit = fate.startswith("commit")
        words = (commit, commit, not commit) if fate.endswith("twice") else (commit,)
        for word in words:
            outcome = await self._end(
                value,
                broker,
                half.queue_offset,
                parse_offset_message_id(half.msg_id)[2],
                commit=word,
                by_check=False,
            )
            if outcome is not Outcome.DONE:
                return  # it will be asked; the other word might be the first to arrive

    async def _answer(self, frame: Frame) -> None:
        check = decode_request(frame.code, frame.fields)
        assert isinstance(check, CheckTransactionState)
        half = decode_record(frame.body)
        value = half.body.decode()
        number = int(half.property(props.TRANSACTION_CHECK_TIMES) or 0)
        age_ms = now_ms() - half.store_timestamp_ms
        self.attempts.recorder.add(Checked(value=value, number=number, age_ms=age_ms))
        self._asked[value] = asked = self._asked.get(value, 0) + 1
        if value.startswith("mute") or (value.startswith("checked-late") and asked == 1):
            return
        assert check.broker_name is not None
        await self._end(
            value,
            check.broker_name,
            check.tran_state_table_offset,
            check.commit_log_offset,
            commit="rollback" not in value,
            by_check=True,
        )

    async def _end(
        self,
        value: str,
        broker: str,
        queue_offset: int,
        position: int,
        *,
        commit: bool,
        by_check: bool,
    ) -> Outcome:
        request = EndTransaction(
            producer_group=GROUP,
            tran_state_table_offset=queue_offset,
            commit_log_offset=position,
            commit_or_rollback=COMMIT if commit else ROLLBACK,
            from_transaction_check=by_check,
            broker_name=broker,
        )
        ending = await self.attempts.call(TOPIC, broker, request)
        self.attempts.recorder.add(
            Ended(value=value, commit=commit, by_check=by_check, outcome=ending.outcome)
        )
        return ending.outcome


def taken_by(checks: trio.MemorySendChannel[Frame], _connection: Connection, frame: Frame) -> None:
    """What to do with a request of a broker: keep the checks."""
    if frame.code == CheckTransactionState.code:
        checks.send_nowait(frame)
