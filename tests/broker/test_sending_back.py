"""A consumer sends back what it could not handle."""

import pytest

from broker.machine.codec import encode_command
from broker.machine.commands import DeleteTopic
from broker.machine.timer_wheel import LEVELS_MS
from broker.rooms.delaying import RecallHandle
from dledger_py.ledger.errors import NotLeader
from dledger_py.remoting.commands.groups import CreateGroup, CreateGroups
from dledger_py.remoting.commands.send_back import SendBack
from dledger_py.remoting.commands.sending import RecallMessage, SendMessage
from dledger_py.remoting.commands.topics import CreateTopic
from dledger_py.remoting.wire.message import (
    TRANSACTION_COMMIT,
    Record,
    parse_offset_message_id,
    tags_code,
)
from dledger_py.remoting.wire.properties import decode as properties_of
from dledger_py.remoting.wire.properties import encode as properties_text
from tests.broker.rooms_kit import BROKER, Desk
from tests.broker.test_delays import go_on, stored
from tests.broker.transactions_kit import prepared, verdict

RETRY, DEAD = "%RETRY%shop", "%DLQ%shop"


@pytest.fixture
def desk(tmp_path) -> Desk:
    desk = Desk(tmp_path)
    desk.ask(CreateTopic(topic="orders", read_queue_nums=4, write_queue_nums=4, perm=6))
    group(desk)
    return desk


def group(desk: Desk, **settings) -> None:
    given = {"retryMaxTimes": 16, "retryQueueNums": 1} | settings
    text = ",".join(f'"{key}":{value}' for key, value in given.items())
    answer = desk.ask(CreateGroup(), b'{"groupName":"shop",%s}' % text.encode())
    assert 0 == answer.code


def consumed(desk: Desk, *, times: int = 0, **properties: str) -> Record:
    """A message as a consumer has it."""
    text = properties_text({"UNIQ_KEY": "U1", "TAGS": "TagA", "KEYS": "k"} | properties)
    request = SendMessage(
        topic="orders",
        queue_id=1,
        producer_group="pg",
        properties=text,
        flag=9,
        sys_flag=1,
        reconsume_times=times,
    )
    assert 0 == desk.ask(request, b"body").code
    return stored(desk)[-1]


def send_back(desk: Desk, record: Record, level: int = 0, *, version: int = 479, **fields):
    request = SendBack(offset=record.physical_offset, delay_level=level, group="shop", **fields)
    return desk.ask(request, version=version)


def waits_ms(desk: Desk) -> int:
    """How long until the message is there again."""
    began = desk.now_ms
    before = desk.machine.queues.next_offset(RETRY, 0)
    while desk.machine.queues.next_offset(RETRY, 0) == before:
        desk.now_ms = desk.deliveries._heap[0][0]
        go_on(desk)
    return desk.now_ms - began


def test_it_comes_again_after_a_while_as_it_was(desk) -> None:
    first = consumed(desk)
    answer = send_back(desk, first)
    waited = waits_ms(desk)
    (again,) = stored(desk, RETRY, 0)

    assert (0, 10_000) == (answer.code, waited)
    assert (first.body, first.flag, first.born_timestamp_ms, first.born_host, 1) == (
        again.body,
        again.flag,
        again.born_timestamp_ms,
        again.born_host,
        again.sys_flag,
    )
    assert 1 == again.reconsume_times
    found = properties_of(again.properties)
    assert {"RETRY_TOPIC": "orders", "UNIQ_KEY": "U1", "KEYS": "k"}.items() <= found.items()
    host, port, position = parse_offset_message_id(found["ORIGIN_MESSAGE_ID"])
    assert ("10.0.0.1", 10911, first.physical_offset) == (host, port, position)
    assert tags_code("TagA") == int.from_bytes(desk.queues.range(RETRY, 0, 0, 1)[-8:], signed=True)


def test_it_waits_longer_each_time_and_is_a_dead_letter_in_the_end(desk) -> None:
    record = consumed(desk)
    waited = []
    for _ in range(16):
        send_back(desk, record)
        waited.append(waits_ms(desk))
        record = stored(desk, RETRY, 0)[-1]
    send_back(desk, record)
    (dead,) = stored(desk, DEAD, 0)

    assert list(LEVELS_MS[2:]) == waited
    assert (b"body", 17, "orders") == (
        dead.body,
        dead.reconsume_times,
        properties_of(dead.properties)["RETRY_TOPIC"],
    )
    first_id = properties_of(stored(desk, RETRY, 0)[0].properties)["ORIGIN_MESSAGE_ID"]
    assert first_id == properties_of(dead.properties)["ORIGIN_MESSAGE_ID"]


@pytest.mark.parametrize(
    "level, fields, version, ends",
    [
        (5, {}, 479, 60_000),
        (99, {}, 479, LEVELS_MS[-1]),
        (-1, {}, 479, DEAD),
        (0, {"max_reconsume_times": 0}, 479, DEAD),
        (0, {"max_reconsume_times": 0}, 121, DEAD),
        (0, {"max_reconsume_times": 0}, 120, 10_000),  # so old a client does not mean it
        (0, {"max_reconsume_times": 1}, 479, 10_000),
    ],
)
def test_where_it_goes(desk, level, fields, version, ends) -> None:
    answer = send_back(desk, consumed(desk), level, version=version, **fields)

    assert 0 == answer.code
    if ends == DEAD:
        assert 1 == len(stored(desk, DEAD, 0))
    else:
        assert ends == waits_ms(desk)


def test_one_that_came_as_often_as_can_be_counted_is_a_dead_letter(desk) -> None:
    answer = send_back(desk, consumed(desk, times=2**31 - 1), max_reconsume_times=2**31 - 1)
    (dead,) = stored(desk, DEAD, 0)

    assert (0, 2**31 - 1) == (answer.code, dead.reconsume_times)


@pytest.mark.parametrize("times", [-1, -3, -9])
def test_one_that_claims_to_have_come_less_than_never_waits_as_the_first_time(desk, times) -> None:
    answer = send_back(desk, consumed(desk, times=times))

    assert (0, 10_000) == (answer.code, waits_ms(desk))


def test_a_group_that_retries_less_has_dead_letters_sooner(desk) -> None:
    group(desk, retryMaxTimes=0)
    send_back(desk, consumed(desk))

    assert 1 == len(stored(desk, DEAD, 0))


def test_a_group_that_wants_nothing_twice_gets_nothing_twice(desk) -> None:
    group(desk, retryQueueNums=0)
    messages = desk.machine.queues.totals().messages
    answer = send_back(desk, consumed(desk))

    assert (0, messages + 1) == (answer.code, desk.machine.queues.totals().messages)


def test_the_queues_of_the_retry_topic_are_all_used(desk) -> None:
    group(desk, retryQueueNums=4)
    record = consumed(desk)
    for _ in range(64):
        send_back(desk, record)
    go_on(desk, 10_000)

    assert (0, 1, 2, 3) == desk.machine.queues.written(RETRY)


def test_a_retry_topic_has_fewer_queues_than_the_group_wants_now(desk) -> None:
    record = consumed(desk)
    group(desk, retryQueueNums=8)
    desk.ask(CreateTopic(topic=RETRY, read_queue_nums=1, write_queue_nums=1, perm=6))
    for _ in range(32):
        assert 0 == send_back(desk, record).code
    go_on(desk, 10_000)

    assert 32 == desk.machine.queues.next_offset(RETRY, 0)


def test_it_says_by_which_level_it_was_delayed(desk) -> None:
    record = consumed(desk, DELAY="0")
    send_back(desk, record, 99)
    send_back(desk, record, -1)
    waits_ms(desk)
    again, dead = stored(desk, RETRY, 0)[0], stored(desk, DEAD, 0)[0]

    assert ["18", "0"] == [properties_of(each.properties)["DELAY"] for each in (again, dead)]


def test_what_was_committed_once_is_no_transaction_any_more(desk) -> None:
    desk.ask(verdict(prepared(desk)))
    (committed,) = stored(desk)
    send_back(desk, committed)
    waits_ms(desk)

    assert TRANSACTION_COMMIT == committed.sys_flag
    assert 0 == stored(desk, RETRY, 0)[0].sys_flag


def test_a_dead_letter_is_found_by_its_tag_and_by_when_it_was_given_up(desk) -> None:
    record = consumed(desk)
    desk.now_ms += 5
    send_back(desk, record, -1)

    assert desk.now_ms == stored(desk, DEAD, 0)[0].store_timestamp_ms
    assert tags_code("TagA") == int.from_bytes(desk.queues.range(DEAD, 0, 0, 1)[-8:], signed=True)


def test_a_dead_letter_whose_topic_goes_meanwhile_is_not_acknowledged(desk) -> None:
    record = consumed(desk)
    send_back(desk, record, -1)
    desk.put(SendBack(offset=record.physical_offset, delay_level=-1, group="shop"))
    desk.batch.propose()
    desk.ledger.apply(encode_command(DeleteTopic(stamped_ms=1, name=DEAD)))
    desk.turn()

    assert 17 == desk.client.answers[-1].code


def test_a_disk_that_is_nearly_full_takes_nothing_back(desk) -> None:
    record = consumed(desk)
    desk.free_bytes = 1
    desk.disk.look()

    assert 14 == send_back(desk, record).code


def test_a_time_of_its_own_is_of_the_past(desk) -> None:
    consumed_at = str(desk.now_ms - 5)
    send_back(desk, consumed(desk, TIMER_DELIVER_MS=consumed_at))
    waits_ms(desk)

    (again,) = stored(desk, RETRY, 0)
    assert not [key for key in properties_of(again.properties) if key.startswith("TIMER")]


def test_a_cold_message_is_read_aside(desk) -> None:
    record = consumed(desk)
    desk.ledger.cached = False
    waiting = send_back(desk, record)
    desk.threads.run()
    desk.turn()

    assert (None, 0) == (waiting, desk.client.answers[-1].code)
    assert 1 == desk.machine.queues.next_offset("SCHEDULE_TOPIC_XXXX", 2)


@pytest.mark.parametrize("offset", [-1, 7, 10**12])
def test_what_is_no_message_cannot_be_sent_back(desk, offset) -> None:
    messages = desk.machine.queues.totals().messages
    answer = desk.ask(SendBack(offset=offset, delay_level=0, group="shop"))

    assert (1, f"look message by offset failed, {offset}") == (answer.code, answer.remark)
    assert messages == desk.machine.queues.totals().messages


def test_a_group_that_is_not_there_sends_nothing_back(desk) -> None:
    offset = consumed(desk).physical_offset

    assert 26 == desk.ask(SendBack(offset=offset, delay_level=0, group="nobody")).code


@pytest.mark.parametrize("queues, perm", [(1, 4), (0, 6)])
def test_a_retry_topic_that_may_not_be_written_takes_nothing(desk, queues, perm) -> None:
    record = consumed(desk)
    desk.ask(CreateTopic(topic=RETRY, read_queue_nums=1, write_queue_nums=queues, perm=perm))

    assert 16 == send_back(desk, record).code


def test_properties_that_would_grow_too_large_are_refused(desk) -> None:
    record = consumed(desk, big="x" * 32_600)

    assert 13 == send_back(desk, record).code


def test_what_is_not_committed_is_not_acknowledged(desk) -> None:
    record = consumed(desk)
    desk.put(SendBack(offset=record.physical_offset, delay_level=0, group="shop"))
    desk.batch.propose()
    before = len(desk.client.answers)
    desk.ledger.refuse(NotLeader(None))

    assert 14 == desk.client.answers[before].code


def test_the_leader_takes_them(desk) -> None:
    record = consumed(desk)
    desk.gate.leads = False

    assert send_back(desk, record) is None
    assert [36] == [frame.code for frame in desk.gate.relayed]


POLICIES = {
    '{"type":"CUSTOMIZED"}': (10_000, 30_000, 60_000),
    '{"type":"EXPONENTIAL"}': (10_000, 30_000, 60_000),
    '{"type":"CUSTOMIZED","customizedRetryPolicy":{"next":[1,2,700,5000]}}': (700, 5000, 5000),
    '{"type":"CUSTOMIZED","customizedRetryPolicy":{"next":[42]}}': (42, 42, 42),
    '{"type":"EXPONENTIAL","exponentialRetryPolicy":{"initial":300,"multiplier":3,"max":2000}}': (
        *(300, 900, 2000),
    ),
    '{"type":"EXPONENTIAL","exponentialRetryPolicy":{"initial":300000}}': (
        *(300_000, 600_000, 1_200_000),
    ),
}


@pytest.mark.parametrize("policy", POLICIES)
def test_a_groups_policy_says_when_it_comes_again(desk, policy: str) -> None:
    """As with RocketMQ's policies, the third pause of a list is the first that is taken."""
    group(desk, groupRetryPolicy=policy)
    record, waited = consumed(desk), []
    for _ in POLICIES[policy]:
        assert 0 == send_back(desk, record).code
        waited.append(waits_ms(desk))
        record = stored(desk, RETRY, 0)[-1]

    assert list(POLICIES[policy]) == waited
    assert len(waited) == record.reconsume_times


def test_a_policy_of_no_pause_is_heeded(desk) -> None:
    group(desk, groupRetryPolicy='{"type":"CUSTOMIZED","customizedRetryPolicy":{"next":[0]}}')
    send_back(desk, consumed(desk))

    assert 1 == len(stored(desk, RETRY, 0))


def test_a_consumer_that_asks_for_a_level_gets_it(desk) -> None:
    group(desk, groupRetryPolicy='{"type":"CUSTOMIZED","customizedRetryPolicy":{"next":[42]}}')
    send_back(desk, consumed(desk), level=1)

    assert LEVELS_MS[0] == waits_ms(desk)


@pytest.mark.parametrize(
    "policy, remark",
    [
        ('{"type":"LINEAR"}', "LINEAR"),
        ('"CUSTOMIZED"', "object"),
        ('{"customizedRetryPolicy":[1]}', "no object"),
        ('{"customizedRetryPolicy":{}}', "list"),
        ('{"customizedRetryPolicy":{"next":[]}}', "list"),
        ('{"customizedRetryPolicy":{"next":[-1]}}', "next -1"),
        ('{"customizedRetryPolicy":{"next":["1"]}}', "next '1'"),
        ('{"customizedRetryPolicy":{"next":[99999999999]}}', "next 99999999999"),
        ('{"type":"EXPONENTIAL","exponentialRetryPolicy":{"multiplier":0}}', "multiplier 0"),
        ('{"type":"EXPONENTIAL","exponentialRetryPolicy":{"initial":1.5}}', "initial 1.5"),
        ('{"type":"EXPONENTIAL","exponentialRetryPolicy":{"max":true}}', "max True"),
    ],
)
def test_a_policy_that_is_none_is_refused(desk, policy: str, remark: str) -> None:
    body = f'{{"groupName":"shop","groupRetryPolicy":{policy}}}'
    answer = desk.ask(CreateGroup(), body.encode())
    several = desk.ask(CreateGroups(), f'{{"groupConfigList":[{body}]}}'.encode())

    assert answer.code == several.code in (1, 29)  # 1: of the body as such
    assert remark in answer.remark
    assert remark in several.remark


def test_groups_have_no_attributes(desk) -> None:
    answer = desk.ask(CreateGroup(), b'{"groupName":"shop","attributes":{"+colour":"red"}}')

    assert (1, True) == (answer.code, "colour" in answer.remark)


def test_a_retry_at_a_time_of_its_own_cannot_be_recalled(desk) -> None:
    """Whoever could make a handle for it would take it from its group."""
    group(desk, groupRetryPolicy='{"type":"CUSTOMIZED","customizedRetryPolicy":{"next":[42]}}')
    send_back(desk, consumed(desk))
    handle = RecallHandle(
        topic=RETRY, broker_name=BROKER, deliver_ms=desk.now_ms + 42, unique_id="U1"
    )
    answer = desk.ask(RecallMessage(topic=RETRY, recall_handle=handle.encode()))
    waits_ms(desk)

    assert (604, True) == (answer.code, "try again" in answer.remark)
    assert 1 == len(stored(desk, RETRY, 0))
