"""Pulls with SQL92 expressions, asked of the room itself: page 04 §5-7, and waiting."""

import pytest

from broker.filters.sql import SqlFilter
from dledger_py.ledger.reopening import Reopen
from dledger_py.remoting.commands.pulling import CARRIES_SUBSCRIPTION, MAY_SUSPEND, PullMessage
from dledger_py.remoting.commands.sending import SendMessage
from dledger_py.remoting.commands.topics import CreateTopic
from dledger_py.remoting.wire.message import BatchItem, decode_records, encode_batch_body
from dledger_py.remoting.wire.properties import encode
from tests.broker.rooms_kit import Desk, header

GROUP = "TOOLS_CONSUMER"


@pytest.fixture
def desk(tmp_path) -> Desk:
    desk = Desk(tmp_path)
    request = CreateTopic(topic="orders", read_queue_nums=2, write_queue_nums=4, perm=6)
    assert desk.ask(request).code == 0
    return desk


def pull(offset: int = 0, expression: str | None = "*", **fields) -> PullMessage:
    given = {
        "consumer_group": GROUP,
        "topic": "orders",
        "queue_id": 0,
        "queue_offset": offset,
        "max_msg_nums": 32,
        "sys_flag": CARRIES_SUBSCRIPTION,
        "subscription": expression,
        "suspend_timeout_millis": 15_000,
    }
    return PullMessage(**(given | fields))


def places(answer) -> tuple[int, int, int]:
    found = header(PullMessage, answer)
    return found.next_begin_offset, found.min_offset, found.max_offset


def send_with(desk: Desk, *messages: str, queue_id: int = 0, body: bytes = b"x") -> None:
    """Messages with properties written as `a=x,n=5`."""
    for text in messages:
        properties = dict(pair.split("=") for pair in text.split(",") if pair)
        request = SendMessage(
            producer_group="p", topic="orders", queue_id=queue_id, properties=encode(properties)
        )
        desk.put(request, body)
    desk.turn()


def sql(expression: str | None, offset: int = 0, **fields) -> PullMessage:
    return pull(offset, expression, expression_type="SQL92", **fields)


def waiting_sql(expression: str, offset: int = 0, **fields) -> PullMessage:
    return sql(expression, offset, sys_flag=CARRIES_SUBSCRIPTION | MAY_SUSPEND, **fields)


def offsets(answer) -> list[int]:
    return [record.queue_offset for record in decode_records(answer.body)]


@pytest.mark.parametrize(
    "expression, found",
    [
        ("TRUE", [0, 1, 2, 3]),
        ("n > 1", [1, 2]),
        ("n > 1 AND region IN ('eu', 'us')", [2]),
        ("region IS NULL", [0, 1]),
        ("TAGS = 'TagB'", [3]),
        ("KEYS CONTAINS 'k'", [0]),
        ("UNIQ_KEY IS NOT NULL", [0, 1, 2, 3]),  # the broker gave them one
        ("missing = 'x'", []),
    ],
)
def test_an_expression_chooses_messages_by_their_properties(desk, expression, found) -> None:
    send_with(desk, "n=1,KEYS=k1", "n=2", "n=3,region=eu", "n=x,region=us,TAGS=TagB")
    answer = desk.ask(sql(expression))

    assert (0 if found else 20) == answer.code
    assert found == offsets(answer)
    assert (4, 0, 4) == places(answer)


def test_what_an_expression_chose_is_whole(desk) -> None:
    send_with(desk, "n=1", "n=2", "n=3")
    plain = decode_records(desk.ask(pull()).body)
    chosen = decode_records(desk.ask(sql("n <> 2")).body)

    assert [plain[0], plain[2]] == chosen


def test_an_expression_goes_on_behind_what_it_found(desk) -> None:
    send_with(desk, *["n=1", "n=2"] * 10)
    answer = desk.ask(sql("n = 2", max_msg_nums=3))

    assert [1, 3, 5] == offsets(answer)
    assert 6 == header(PullMessage, answer).next_begin_offset


def test_an_expression_that_matches_nothing_is_passed_in_steps(desk) -> None:
    send_with(desk, *["n=1"] * 900)
    first = desk.ask(sql("n = 2"))
    second = desk.ask(sql("n = 2", 800))

    assert (20, 800) == (first.code, header(PullMessage, first).next_begin_offset)
    assert (20, 900) == (second.code, header(PullMessage, second).next_begin_offset)


def test_an_expression_looks_at_so_many_bytes_for_each_pull(desk) -> None:
    send_with(desk, *["n=1"] * 6, body=bytes(300_000))
    answer = desk.ask(sql("n = 2"))

    assert (20, 3) == (answer.code, header(PullMessage, answer).next_begin_offset)


def test_what_an_expression_chose_fits_an_answer(desk) -> None:
    send_with(desk, *["n=2"] * 6, body=bytes(100_000))
    answer = desk.ask(sql("n = 2"))

    assert [0, 1] == offsets(answer)
    assert 2 == header(PullMessage, answer).next_begin_offset
    send_with(desk, "n=3", body=bytes(300_000))
    assert [6] == offsets(desk.ask(sql("n = 3")))  # a larger one goes alone


def test_filtering_ends_when_it_has_held_the_loop_for_long_enough(desk, monkeypatch) -> None:
    send_with(desk, *["n=1"] * 100)
    matches = SqlFilter.matches

    def slow(self, properties):
        desk.ticks_ms += 1
        return matches(self, properties)

    monkeypatch.setattr(SqlFilter, "matches", slow)
    answer = desk.ask(sql("n = 2"))

    assert (20, 5) == (answer.code, header(PullMessage, answer).next_begin_offset)


def test_a_damaged_message_is_not_passed_over_as_one_that_does_not_match(desk) -> None:
    send_with(desk, "n=1", body=b"as it was stored")
    desk.ledger.data[desk.ledger.data.index(b"as it was")] = 0

    with pytest.raises(Reopen):
        desk.ask(sql("n = 2"))


def test_an_expression_reads_what_is_on_the_disk_only_elsewhere(desk) -> None:
    send_with(desk, "n=1", "n=2")
    desk.ledger.cached = False

    assert desk.ask(sql("n = 2")) is None
    assert desk.ask(sql("n = 3"), by=(other := desk.connect())) is None
    desk.threads.run()
    assert [1] == offsets(desk.client.answers[-1])
    assert (20, (2, 0, 2)) == (other.answers[-1].code, places(other.answers[-1]))


@pytest.mark.parametrize("expression", ["a =", "", None, "a > 'x'", "5", "("])
def test_an_expression_that_is_none_is_refused_with_the_place(desk, expression) -> None:
    answer = desk.ask(sql(expression))

    assert 23 == answer.code
    assert "line 1, column " in answer.remark


def test_heartbeats_bring_expressions_too(desk) -> None:
    send_with(desk, "n=1", "n=2")
    desk.beat(GROUP, "orders", "n = 2", expression_type="SQL92", version=5)

    # Go's clients say TAG and nothing else in the pulls of such a subscription.
    assert [1] == offsets(desk.ask(pull(0, "", sys_flag=0, expression_type="TAG", sub_version=0)))
    assert 25 == desk.ask(pull(sys_flag=0, sub_version=6)).code  # nobody looks at them again
    desk.beat(GROUP, "orders", "n = 1", expression_type="SQL92", version=6)
    assert [0] == offsets(desk.ask(pull(sys_flag=0, sub_version=6)))


def test_an_expression_of_a_heartbeat_that_is_none_is_told_to_pulls(desk) -> None:
    assert 0 == desk.beat(GROUP, "orders", "n = ", expression_type="SQL92").code
    answer = desk.ask(pull(sys_flag=0))

    assert 27 == answer.code
    assert "line 1, column 5" in answer.remark


def test_a_follower_filters_as_well(desk) -> None:
    send_with(desk, "n=1", "n=2")
    desk.gate.leads = False

    assert [1] == offsets(desk.ask(sql("n = 2")))
    assert desk.ask(waiting_sql("n = 2", 2)) is None


def test_a_held_expression_waits_for_a_message_that_matches(desk) -> None:
    consumer = desk.connect()
    desk.ask(waiting_sql("n = 2"), by=consumer)
    send_with(desk, "n=1", "n=1")
    send_with(desk, "n=1")
    before = desk.polls.statistics()
    send_with(desk, "n=3", "n=2", "n=2")
    (answer,) = consumer.answers

    assert (1, 0) == (before.held, before.woken)
    assert (0, [4, 5]) == (answer.code, offsets(answer))
    assert (6, 0, 6) == places(answer)
    assert 0 == desk.polls.statistics().held


def test_a_held_expression_looks_at_each_message_once(desk, monkeypatch) -> None:
    desk.ask(waiting_sql("n = 2"), by=desk.connect())
    looked = []
    matches = SqlFilter.matches

    def noting(self, properties):
        looked.append(properties["n"])
        return matches(self, properties)

    monkeypatch.setattr(SqlFilter, "matches", noting)
    for n in range(10, 20):
        send_with(desk, f"n={n}")

    assert [str(n) for n in range(10, 20)] == looked


def test_a_held_expression_whose_time_is_up_tells_how_far_it_has_looked(desk) -> None:
    consumer, idle = desk.connect(), desk.connect()
    desk.ask(waiting_sql("n = 2"), by=consumer)
    desk.ask(waiting_sql("n = 2", queue_id=1), by=idle)
    send_with(desk, "n=1", "n=1")
    desk.polls.expire(15_000)

    assert (20, (2, 0, 2)) == (consumer.answers[-1].code, places(consumer.answers[-1]))
    assert (19, (0, 0, 0)) == (idle.answers[-1].code, places(idle.answers[-1]))


def test_more_than_one_look_takes_in_ends_the_wait(desk) -> None:
    consumer = desk.connect()
    desk.ask(waiting_sql("n = 2"), by=consumer)
    items = [BatchItem(0, b"x", encode({"n": n}).encode()) for n in "1" * 800 + "2"]
    request = SendMessage(producer_group="p", topic="orders", queue_id=0, batch=True)
    desk.ask(request, encode_batch_body(items))

    assert [800] == offsets(consumer.answers[-1])


def test_a_held_expression_is_woken_by_what_it_would_have_to_wait_for(desk) -> None:
    consumer = desk.connect()
    desk.ask(waiting_sql("n = 2"), by=consumer)
    desk.ledger.cached = False
    send_with(desk, "n=2")
    before = len(consumer.answers)
    desk.threads.run()

    assert 0 == before
    assert [0] == offsets(consumer.answers[-1])


def test_another_expression_meanwhile_looks_at_all_of_it_again(desk) -> None:
    consumer = desk.connect()
    desk.beat(GROUP, "orders", "n = 2", expression_type="SQL92", version=1)
    desk.ask(pull(sys_flag=MAY_SUSPEND), by=consumer)
    send_with(desk, "n=1")
    desk.beat(GROUP, "orders", "n = 1", expression_type="SQL92", version=2)
    desk.polls.expire(15_000)

    assert [0] == offsets(consumer.answers[-1])


def test_a_change_of_role_answers_held_expressions(desk) -> None:
    consumer = desk.connect()
    desk.ask(waiting_sql("n = 2"), by=consumer)
    send_with(desk, "n=1")
    desk.polls.wake_all()

    assert (20, 1) == (
        consumer.answers[-1].code,
        header(PullMessage, consumer.answers[-1]).next_begin_offset,
    )
    assert 0 == desk.polls.statistics().held
