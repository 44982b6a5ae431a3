"""Half messages that expired, and are made half once more."""

import pytest

from broker.machine.names import CHECKS_EXHAUSTED_TOPIC, HALF_TOPIC
from broker.serving.check_back import CheckTimes
from dledger_py.ledger.errors import NotLeader
from dledger_py.remoting.commands.transactions import ResumeCheck
from dledger_py.remoting.wire.message import Record, offset_message_id
from dledger_py.remoting.wire.properties import decode as properties_of
from tests.broker.rooms_kit import STORE_HOST, Desk
from tests.broker.test_check_back import Asking
from tests.broker.transactions_kit import prepared, stored, verdict


@pytest.fixture
def asking(tmp_path) -> Asking:
    return Asking(Desk(tmp_path), CheckTimes(checks_max=1))


async def expired(asking: Asking) -> Record:
    """What is left of a half message that nobody ended."""
    prepared(asking.desk)
    for _ in range(3):
        await asking.after(73 * 3600)
    (kept,) = stored(asking.desk, CHECKS_EXHAUSTED_TOPIC, 0)
    return kept


def resume(asking: Asking, message_id: str):
    return asking.desk.ask(ResumeCheck(msg_id=message_id))


async def test_its_producer_is_asked_again_and_it_can_be_committed(asking) -> None:
    desk = asking.desk
    kept = await expired(asking)
    answer = resume(asking, kept.offset_message_id)
    producer = asking.producer()
    pending = len(desk.machine.transactions)
    asked = await asking.after(6)
    check = producer.told[0]
    commit = verdict(
        prepared(desk, b"another"),
        tran_state_table_offset=check.tran_state_table_offset,
        commit_log_offset=check.commit_log_offset,
        from_transaction_check=True,
    )

    assert (0, 1, 1) == (answer.code, pending, asked)
    assert 0 == desk.ask(commit).code
    (record,) = stored(desk)
    assert (b"pay", "U1") == (record.body, properties_of(record.properties)["UNIQ_KEY"])
    assert 1 == len(stored(desk, CHECKS_EXHAUSTED_TOPIC, 0)), "the copy stays"


async def test_only_what_expired_is_resumed(asking) -> None:
    desk = asking.desk
    kept = await expired(asking)
    reply = prepared(desk, b"still half")
    (half, *_) = stored(desk, HALF_TOPIC, 0)
    ids = {
        half.offset_message_id: 29,
        reply.msg_id: 29,
        "rubbish": 29,
        offset_message_id(STORE_HOST, kept.physical_offset + 1): 1,
        offset_message_id(STORE_HOST, 2**62): 1,
    }
    pending = len(desk.machine.transactions)

    assert list(ids.values()) == [resume(asking, each).code for each in ids]
    assert pending == len(desk.machine.transactions)


async def test_who_does_not_lead_hands_it_on(asking) -> None:
    asking.desk.gate.leads = False

    assert resume(asking, "x") is None
    assert [323] == [frame.code for frame in asking.desk.gate.relayed]


async def test_it_is_refused_like_any_send(asking) -> None:
    desk = asking.desk
    kept = await expired(asking)
    desk.free_bytes = 1
    desk.disk.look()
    full = resume(asking, kept.offset_message_id)
    desk.free_bytes = 1000
    desk.disk.look()
    desk.put(ResumeCheck(msg_id=kept.offset_message_id))
    desk.batch.propose()
    desk.ledger.refuse(NotLeader(None))

    assert 14 == full.code == desk.client.answers[-1].code
    assert 0 == len(desk.machine.transactions)


async def test_what_is_on_its_way_counts_as_pending(asking) -> None:
    desk = asking.desk
    kept = await expired(asking)
    desk.halves.halves_max = 1
    desk.put(ResumeCheck(msg_id=kept.offset_message_id))
    desk.put(ResumeCheck(msg_id=kept.offset_message_id))
    desk.turn()

    assert [14, 0] == [answer.code for answer in desk.client.answers[-2:]]


async def test_a_cold_record_is_read_by_a_thread(asking) -> None:
    desk = asking.desk
    kept = await expired(asking)
    desk.ledger.cached = False
    assert resume(asking, kept.offset_message_id) is None
    desk.threads.run()
    desk.turn()

    assert 0 == desk.client.answers[-1].code
    assert 1 == len(desk.machine.transactions)
