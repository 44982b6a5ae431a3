"""Topics for one kind of message, and attributes of topics that are kept or refused."""

import pytest

from dledger_py.remoting.commands.json_bodies import encode_body
from dledger_py.remoting.commands.sending import SendMessage
from dledger_py.remoting.commands.topics import CreateTopic, CreateTopics, TopicConfig, TopicConfigs
from dledger_py.remoting.wire.message import BatchItem, encode_batch_body
from dledger_py.remoting.wire.properties import encode
from tests.broker.rooms_kit import Desk

MESSAGES = {
    "NORMAL": {"KEYS": "k"},
    "FIFO": {"__SHARDINGKEY": "k"},
    "DELAY": {"DELAY": "3"},
    "TRANSACTION": {"TRAN_MSG": "true", "PGROUP": "pg"},
}
"""The properties of one message of each kind."""

ALSO_DELAY = ({"TIMER_DELAY_SEC": "1"}, {"TIMER_DELAY_MS": "1"}, {"TIMER_DELIVER_MS": "1"})


def create(name: str, attributes: str = "") -> CreateTopic:
    return CreateTopic(
        topic=name, read_queue_nums=4, write_queue_nums=4, perm=6, attributes=attributes
    )


def send(name: str, properties: dict[str, str], *, batch: bool = False) -> SendMessage:
    given = {"UNIQ_KEY": "U1"} | properties
    return SendMessage(
        producer_group="pg", topic=name, queue_id=0, batch=batch, properties=encode(given)
    )


@pytest.fixture
def desk(tmp_path) -> Desk:
    desk = Desk(tmp_path, checks_types=True, mixed=True)
    for kind in (*MESSAGES, "MIXED", "UNSPECIFIED"):
        assert 0 == desk.ask(create(f"for-{kind}", f"+message.type={kind}")).code
    desk.ask(create("plain"))
    return desk


@pytest.mark.parametrize("code", [10, 310])
@pytest.mark.parametrize("kind", MESSAGES)
@pytest.mark.parametrize("wanted", [*MESSAGES, "MIXED", "UNSPECIFIED"])
def test_a_topic_takes_its_kind_of_message(desk, wanted: str, kind: str, code: int) -> None:
    answer = desk.ask(send(f"for-{wanted}", MESSAGES[kind]), b"x", code=code)

    assert (0 if wanted in (kind, "MIXED") else 13) == answer.code
    if answer.code:
        assert f"expected type is {wanted}, but actual type is {kind}" in answer.remark


@pytest.mark.parametrize("properties", ALSO_DELAY, ids=str)
def test_every_way_to_be_for_later_is_a_delay(desk, properties: dict[str, str]) -> None:
    assert 0 == desk.ask(send("for-DELAY", properties), b"x", code=310).code
    assert 13 == desk.ask(send("for-NORMAL", properties), b"x", code=310).code


def test_a_topic_that_says_nothing_takes_normal_messages(desk) -> None:
    """One that a send makes does not say anything either."""
    for topic in ("plain", "made-on-use"):
        first = SendMessage(
            producer_group="pg", topic=topic, queue_id=0, default_topic="TBW102", properties=""
        )
        assert 0 == desk.ask(first, b"x").code
        assert 13 == desk.ask(send(topic, MESSAGES["FIFO"]), b"x", code=310).code


def test_every_message_of_a_batch_is_looked_at(desk) -> None:
    sharded = BatchItem(0, b"x", encode(MESSAGES["FIFO"]).encode())
    plain = BatchItem(0, b"x", b"")

    assert 0 == desk.ask(send("for-FIFO", {}), encode_batch_body([sharded]), code=320).code
    for topic, items in (("for-FIFO", [sharded, plain]), ("for-NORMAL", [plain, sharded])):
        assert 13 == desk.ask(send(topic, {}), encode_batch_body(items), code=320).code
    assert 0 == desk.ask(send("for-MIXED", {}), encode_batch_body([plain, sharded]), code=320).code


@pytest.mark.parametrize("kind", ["NORMAL", "FIFO", "DELAY"])
def test_what_comes_back_from_consumers_is_taken_whatever_it_is(desk, kind: str) -> None:
    assert 0 == desk.ask(send("%RETRY%shop", MESSAGES[kind]), b"x", code=310).code


@pytest.mark.parametrize("kind", MESSAGES)
def test_nothing_is_checked_unless_that_is_wanted(tmp_path, kind: str) -> None:
    desk = Desk(tmp_path)
    desk.ask(create("orders", "+message.type=FIFO"))

    assert 0 == desk.ask(send("orders", MESSAGES[kind]), b"x", code=310).code


REFUSED = {
    "+message.type=MIXED": (29, "not enabled"),
    "+message.type=HUGE": (1, "expected one of"),
    "+queue.type=BatchCQ": (3, "whole batches"),
    "+cleanup.policy=COMPACTION": (3, "newest message of each key"),
    "+reserve.time=3600": (3, "retention_hours"),
    "+lite.topic.expiration=60": (1, "unknown"),
}
KEPT = ("+queue.type=SimpleCQ", "+cleanup.policy=DELETE", "+reserve.time=-1", "+message.type=DELAY")


@pytest.mark.parametrize("attributes", [*REFUSED, *KEPT])
def test_an_attribute_is_honoured_or_refused(tmp_path, attributes: str) -> None:
    """Alike when several topics are made at once."""
    desk = Desk(tmp_path)
    code, remark = REFUSED.get(attributes, (0, ""))
    key, _, value = attributes.partition("=")
    several = TopicConfigs(
        topic_config_list=(TopicConfig(topic_name="more", attributes={key: value}),)
    )
    for answer in (
        desk.ask(create("one", attributes)),
        desk.ask(CreateTopics(), encode_body(several)),
    ):
        assert code == answer.code
        assert remark in (answer.remark or "")
    assert (code == 0) == ("one" in desk.machine.topics) == ("more" in desk.machine.topics)
