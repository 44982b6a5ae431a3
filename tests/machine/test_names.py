"""Names, attributes and settings: tables of what is legal."""

import pytest

from broker.machine import names
from broker.machine.attributes import InvalidAttributes, parse_changes
from broker.machine.groups import standard_groups
from broker.machine.topics import (
    TopicConfig,
    dead_letter_topic,
    retry_topic,
    standard_topics,
    topic_from_template,
)


@pytest.mark.parametrize(
    "name", ["orders", "A-b_9", "%RETRY%shop", "a|b", "x" * 127, "%RETRY%" + "x" * 248]
)
def test_legal_topic_names(name: str) -> None:
    assert names.topic_fault(name) is None


@pytest.mark.parametrize(
    "name",
    ["", "a.b", "a/b", "a b", "ü", "a\n", "..", "x" * 128, "%DLQ%" + "x" * 251, "a+b", "\u0664"],
)
def test_illegal_topic_names(name: str) -> None:
    assert names.topic_fault(name) is not None


def test_a_group_leaves_room_for_its_retry_topic() -> None:
    longest = "g" * 120

    assert names.group_fault(longest) is None
    assert names.group_fault(longest + "g") is not None
    assert 127 == len(names.retry_topic_name(longest))


@pytest.mark.parametrize(
    "name, closed",
    [
        ("orders", False),
        ("TBW102", False),
        ("BenchmarkTest", False),
        ("SELF_TEST_TOPIC", True),
        ("SCHEDULE_TOPIC_XXXX", True),
        ("RMQ_SYS_TRANS_HALF_TOPIC", True),
        ("RMQ_SYS_TRANS_OP_HALF_TOPIC", True),
        ("TRANS_CHECK_MAX_TIME_TOPIC", True),
        ("OFFSET_MOVED_EVENT", True),
    ],
)
def test_topics_only_the_broker_writes(name: str, closed: bool) -> None:
    assert closed is not names.producers_may_send(name)


def test_every_standard_topic_is_a_system_topic() -> None:
    for topic in standard_topics("cluster", "broker"):
        assert names.is_system_topic(topic.name, cluster="cluster", broker="broker")
    assert not names.is_system_topic("orders", cluster="cluster", broker="broker")
    assert not names.is_system_topic("%RETRY%g", cluster="cluster", broker="broker")


def test_standard_topics_may_share_the_clusters_name() -> None:
    topics = {topic.name: topic for topic in standard_topics("one", "one", auto_create=False)}

    assert "TBW102" not in topics
    assert 16 == topics["one"].read_queues


def test_every_standard_name_is_legal() -> None:
    assert {None} == {names.topic_fault(t.name) for t in standard_topics("c-1", "b_1")}
    assert {None} == {names.group_fault(g.name) for g in standard_groups()}
    assert all(names.is_system_group(group.name) for group in standard_groups())


def test_a_topic_made_from_a_template_is_none_itself() -> None:
    template = TopicConfig(name="TBW102", read_queues=8, write_queues=8, perm=7)

    made = topic_from_template("orders", template, 4)
    assert ("orders", 4, 4, 6) == (made.name, made.read_queues, made.write_queues, made.perm)
    assert 8 == topic_from_template("orders", template, 16).write_queues
    assert 1 == topic_from_template("orders", template, 0).write_queues


def test_topics_of_a_group() -> None:
    assert ("%RETRY%g", 2) == (retry_topic("g", 2).name, retry_topic("g", 2).read_queues)
    assert ("%DLQ%g", 6) == (dead_letter_topic("g").name, dead_letter_topic("g").perm)


@pytest.mark.parametrize(
    "text, changes",
    [
        ("", ()),
        ("+message.type=FIFO", (("message.type", "FIFO"),)),
        (" +a = b , -c ,", (("a", "b"), ("c", None))),
        ("+a=b=c", (("a", "b=c"),)),
    ],
)
def test_attribute_changes_are_read(text: str, changes: tuple[object, ...]) -> None:
    assert changes == parse_changes(text)


@pytest.mark.parametrize("text", ["a=b", "+a", "-a=b", "+=b", "+a=", "-", "+a=b,-a"])
def test_odd_attribute_changes_are_refused(text: str) -> None:
    with pytest.raises(InvalidAttributes):
        parse_changes(text)
