"""Producers are asked what became of their transactions: page 08 §1.3. The clock is the desk's."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import trio
from attrs import define, field

from broker.machine.names import CHECKS_EXHAUSTED_TOPIC, HALF_TOPIC
from broker.machine.transactions import Half
from broker.serving import check_back
from broker.serving.check_back import CheckBack, CheckTimes
from dledger_py.actors import Child, Supervisor
from dledger_py.ledger.errors import LedgerError, NotLeader
from dledger_py.remoting.commands.clients import Heartbeat
from dledger_py.remoting.commands.heartbeats import HeartbeatData, ProducerData, encode_heartbeat
from dledger_py.remoting.commands.transactions import COMMIT, ROLLBACK, CheckTransactionState
from dledger_py.remoting.wire.message import decode_record
from dledger_py.remoting.wire.properties import decode as properties_of
from tests.broker.rooms_kit import BROKER, STORE_HOST, Connection, Desk
from tests.broker.transactions_kit import GROUP, position_of, prepared, stored, verdict

HOUR_MS = 3_600_000
TIMES = CheckTimes()


@define(eq=False)
class Asking:
    """A desk, somebody who asks, and a producer that is connected."""

    desk: Desk
    times: CheckTimes = TIMES
    refuse: LedgerError | None = None
    meanwhile: Callable[[], object] | None = None
    """What happens while a check is counted."""
    flushed: int = 0
    actor: CheckBack = field(init=False)

    def __attrs_post_init__(self) -> None:
        desk = self.desk
        self.actor = CheckBack(
            times=self.times,
            broker_name=BROKER,
            store_host=STORE_HOST,
            machine=desk.machine,
            leads=lambda: desk.gate.leads,
            disk_refuses=lambda: desk.disk.refusing,
            clients=desk.table,
            halves=desk.halves,
            reader=desk.ledger,
            commit=self._commit,
            run_in_thread=self._run_in_thread,
            flush=self._flush,
            rates=desk.rates,
            now_ms=lambda: desk.now_ms,
        )

    async def after(self, seconds: float) -> int:
        """Look once, so much later; the number of checks that were sent."""
        self.desk.now_ms += int(seconds * 1000)
        before = self.desk.rates.transaction_checks.total
        await self.actor.look()
        self.desk.ledger.settle()
        return self.desk.rates.transaction_checks.total - before

    def producer(self, client_id: str = "p1", group: str = GROUP) -> Connection:
        """One more, which has sent its heartbeat."""
        connection = self.desk.connect()
        data = HeartbeatData(
            client_id=client_id, producer_data_set=(ProducerData(group_name=group),)
        )
        self.desk.ask(Heartbeat(), encode_heartbeat(data), by=connection)
        return connection

    async def _commit(self, payload: bytes) -> Any:
        await trio.lowlevel.checkpoint()
        if self.refuse is not None:
            raise self.refuse
        if self.meanwhile is not None:
            self.meanwhile()
        return self.desk.ledger.apply(payload)

    async def _run_in_thread(self, read: Any, *args: Any, abandon_on_cancel: bool) -> Any:
        await trio.lowlevel.checkpoint()
        return read(*args)

    def _flush(self) -> None:
        self.flushed += 1


@pytest.fixture
def asking(tmp_path) -> Asking:
    return Asking(Desk(tmp_path))


async def test_a_producer_is_asked_with_what_its_answer_needs(asking) -> None:
    desk = asking.desk
    prepared(desk)
    reply = prepared(desk, b"pay", UNIQ_KEY="U2")
    connection = asking.producer()
    early = await asking.after(5.999)
    sent = await asking.after(0.001)
    check = connection.told[1]
    record = decode_record(connection.told_bodies[1])

    assert (0, 2) == (early, sent)
    assert check == CheckTransactionState(
        tran_state_table_offset=1,
        commit_log_offset=position_of(reply),
        msg_id="U2",
        transaction_id="U2",
        offset_msg_id=reply.msg_id,
        topic="orders",
        broker_name=BROKER,
    )
    assert ("orders", 1, b"pay", 1, position_of(reply)) == (
        record.topic,
        record.queue_id,
        record.body,
        record.queue_offset,
        record.physical_offset,
    )
    assert "1" == properties_of(record.properties)["TRANSACTION_CHECK_TIMES"]
    assert GROUP == properties_of(record.properties)["PGROUP"]
    assert 1 == asking.flushed


async def test_the_answer_to_a_check_ends_the_transaction(asking) -> None:
    desk = asking.desk
    prepared(desk)
    connection = asking.producer()
    await asking.after(6)
    (check,) = connection.told
    answer = verdict(
        prepared(desk, b"another"),
        COMMIT,
        tran_state_table_offset=check.tran_state_table_offset,
        commit_log_offset=check.commit_log_offset,
        from_transaction_check=True,
    )

    assert 0 == desk.ask(answer).code
    assert [b"pay"] == [record.body for record in stored(desk)]
    assert 1 == await asking.after(6), "only the other one is asked about"
    assert 0 == await asking.after(29.999)


async def test_the_pauses_between_checks_grow(asking) -> None:
    prepared(asking.desk)
    asking.producer()
    await asking.after(6)
    asked_at = [0] + [second for second in range(1, 2750) if await asking.after(1)]
    pauses = [after - before for before, after in pairwise(asked_at)]

    assert [30, 30, 30, 30, 30, 60, 120, 240, 300, 300, 300, 300, 300, 300] == pauses


async def test_after_the_last_check_the_message_is_kept_for_operators(asking) -> None:
    desk = asking.desk
    reply = prepared(desk)
    asking.producer()
    checks = [await asking.after(300) for _ in range(15)]
    await asking.after(299)
    waiting = len(desk.machine.transactions)
    await asking.after(1)
    (kept,) = stored(desk, CHECKS_EXHAUSTED_TOPIC, 0)
    late = desk.ask(verdict(reply))

    assert [1] * 15 == checks
    assert (1, 0) == (waiting, len(desk.machine.transactions))
    assert (b"pay", "orders") == (kept.body, properties_of(kept.properties)["REAL_TOPIC"])
    assert [] == stored(desk)
    assert (1, True) == (late.code, "it is expired" in late.remark)
    assert 0 == await asking.after(300)
    assert 1 == desk.rates.transactions_expired.total


async def test_without_a_producer_no_check_counts_but_age_does(asking) -> None:
    desk = asking.desk
    prepared(desk)
    asking.producer(group="others")
    for _ in range(71):
        assert 0 == await asking.after(3600)
    checks = desk.machine.transactions.state()[0][4]
    assert 1 == len(desk.machine.transactions)
    await asking.after(3600)

    assert 0 == checks
    assert [b"pay"] == [record.body for record in stored(desk, CHECKS_EXHAUSTED_TOPIC, 0)]


async def test_a_producer_that_comes_late_is_asked_soon(asking) -> None:
    prepared(asking.desk)
    await asking.after(6)
    asking.producer()

    assert 0 == await asking.after(29.999)
    assert 1 == await asking.after(0.001)


async def test_another_connection_is_asked_each_time_and_none_that_is_gone(asking) -> None:
    prepared(asking.desk)
    one, other, gone = (asking.producer(f"p{number}") for number in range(3))
    gone.close()
    for seconds in (6, 30, 30, 30):
        await asking.after(seconds)

    assert [2, 2, 0] == [len(each.told) for each in (one, other, gone)]


async def test_immunity_is_honoured(asking) -> None:
    prepared(asking.desk, CHECK_IMMUNITY_TIME_IN_SECONDS="60")
    asking.producer()

    assert 0 == await asking.after(6)
    assert 0 == await asking.after(53.999)
    assert 1 == await asking.after(0.001)
    assert 1 == await asking.after(30)


async def test_who_is_to_be_asked_is_known_without_reading_the_log_again(asking) -> None:
    """Halves of a group that is away may be many."""
    desk = asking.desk
    prepared(desk)
    await asking.after(6)
    desk.ledger.data = bytearray(len(desk.ledger.data))

    assert 0 == await asking.after(30)


async def test_what_only_the_disk_has_is_read_by_a_thread(asking) -> None:
    prepared(asking.desk)
    connection = asking.producer()
    asking.desk.ledger.cached = False
    await asking.after(6)

    assert 1 == len(connection.told)


async def test_a_check_that_was_not_counted_is_not_sent(asking) -> None:
    prepared(asking.desk)
    connection = asking.producer()
    asking.refuse = NotLeader(None)
    await asking.after(6)
    told = len(connection.told)
    asking.refuse = None

    assert (0, 0) == (told, asking.desk.machine.transactions.state()[0][4])
    assert 1 == await asking.after(30)


async def test_what_is_ended_while_its_check_is_counted_is_not_asked_about(asking) -> None:
    desk = asking.desk
    reply = prepared(desk)
    connection = asking.producer()
    desk.now_ms += 6_000
    asking.meanwhile = lambda: desk.ask(verdict(reply, ROLLBACK))
    await asking.actor.look()

    assert [] == connection.told
    assert {} == asking.actor._known


async def test_a_verdict_on_its_way_goes_before_expiry(asking) -> None:
    desk = asking.desk
    reply = prepared(desk)
    desk.now_ms += 72 * HOUR_MS
    desk.put(verdict(reply))
    await asking.actor.look()
    desk.turn()
    await asking.after(30)

    assert [b"pay"] == [record.body for record in stored(desk)]
    assert CHECKS_EXHAUSTED_TOPIC not in desk.machine.topics


async def test_what_ends_while_its_record_is_read_does_not_expire(asking) -> None:
    desk = asking.desk
    reply = prepared(desk)

    async def read_slowly(read: Any, *args: Any, abandon_on_cancel: bool) -> Any:
        desk.ledger.cached = True
        desk.ask(verdict(reply))
        await trio.lowlevel.checkpoint()
        return read(*args)

    asking.actor.run_in_thread = read_slowly
    desk.ledger.cached = False
    await asking.after(72 * 3600)

    assert [b"pay"] == [record.body for record in stored(desk)]
    assert CHECKS_EXHAUSTED_TOPIC not in desk.machine.topics


async def test_an_expiry_that_did_not_come_through_is_tried_again(asking) -> None:
    desk = asking.desk
    prepared(desk)
    desk.now_ms += 72 * HOUR_MS
    await asking.actor.look()
    desk.ledger.refuse(NotLeader(None))
    await asking.after(30)

    assert [b"pay"] == [record.body for record in stored(desk, CHECKS_EXHAUSTED_TOPIC, 0)]


async def test_one_look_does_a_bounded_amount_of_work(asking, monkeypatch) -> None:
    monkeypatch.setattr(check_back, "FOUND_MAX", 2)
    for _ in range(5):
        prepared(asking.desk)
    asking.producer()

    assert [2, 2, 1, 0] == [await asking.after(seconds) for seconds in (6, 1, 1, 1)]


async def test_one_look_holds_few_bytes(asking, monkeypatch) -> None:
    monkeypatch.setattr(check_back, "READ_BYTES_MAX", 500)
    for _ in range(3):
        prepared(asking.desk, bytes(450))
    asking.producer()

    assert [1, 1, 1, 0] == [await asking.after(seconds) for seconds in (6, 1, 1, 1)]


async def test_checks_are_counted_from_where_another_leader_left_off(asking) -> None:
    prepared(asking.desk)
    asking.producer()
    for _ in range(10):
        await asking.after(300)
    successor = Asking(asking.desk)

    assert [1] * 5 + [0] == [await successor.after(300) for _ in range(6)]
    assert 0 == len(asking.desk.machine.transactions)


async def test_it_looks_each_second_while_it_leads(asking, autojump_clock) -> None:
    desk = asking.desk
    prepared(desk)
    connection = asking.producer()
    desk.gate.leads = False
    supervisor = Supervisor("test", (Child("check back", lambda: asking.actor),))
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.serve)
        desk.now_ms += 6_000
        await trio.sleep(2)
        while_following = len(connection.told)
        desk.gate.leads = True
        desk.free_bytes = 50
        desk.disk.look()
        await trio.sleep(2)
        while_the_disk_is_full = len(connection.told)
        desk.free_bytes = 1000
        desk.disk.look()
        await trio.sleep(2)
        nursery.cancel_scope.cancel()

    assert (0, 0, 1) == (while_following, while_the_disk_is_full, len(connection.told))


async def test_who_leads_again_asks_again_and_once(asking, autojump_clock) -> None:
    desk = asking.desk
    prepared(desk)
    connection = asking.producer()
    supervisor = Supervisor("test", (Child("check back", lambda: asking.actor),))
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.serve)
        desk.now_ms += 6_000
        await trio.sleep(2)
        desk.gate.leads = False
        await trio.sleep(2)
        before = len(connection.told)
        desk.gate.leads = True
        desk.now_ms += 30_000
        await trio.sleep(2)
        nursery.cancel_scope.cancel()

    assert (1, 2) == (before, len(connection.told))


async def test_nothing_is_remembered_of_what_has_ended(asking) -> None:
    desk = asking.desk
    replies = [prepared(desk) for _ in range(3)]
    asking.producer()
    await asking.after(6)
    for reply in replies:
        desk.ask(verdict(reply, ROLLBACK))
    await asking.after(30)

    assert ([], {}) == (asking.actor._due, asking.actor._known)
    assert 3 == len(stored(desk, HALF_TOPIC, 0))


@pytest.mark.parametrize(
    "half, expected",
    [
        (Half(0, 1, 1000), 7_000),
        (Half(0, 1, 1000, checks=1, checked_ms=50_000), 80_000),
        (Half(0, 1, 1000, checks=6, checked_ms=50_000), 110_000),
        (Half(0, 1, 1000, checks=14, checked_ms=72 * HOUR_MS), 1000 + 72 * HOUR_MS),
    ],
)
def test_when_a_half_is_looked_at_again(half, expected) -> None:
    assert expected == TIMES.due_ms(half, 6_000)
