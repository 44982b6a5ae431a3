"""`dledger admin` on groups, producers and settings, against a pretended broker."""

import json
from typing import Any

import pytest

from dledger_py.remoting.commands.groups import DeleteGroup, GroupConfig
from dledger_py.remoting.commands.resets import CloneOffsets, ResetOffsets
from dledger_py.remoting.commands.topics import CreateTopic, DeleteTopic
from dledger_py.remoting.commands.transactions import ResumeCheck
from dledger_py.remoting.rooms import Refused
from dledger_py.remoting.wire.message import offset_message_id, pack_host
from tests.admin.fake_cluster import FakeCluster

POLICY = '{"type":"EXPONENTIAL"}'


def lines(text: str) -> list[str]:
    """Without alignment."""
    return [" ".join(line.split()) for line in text.splitlines()]


def parsed(text: str) -> Any:
    return json.loads("\n".join(line for line in text.splitlines() if "[info" not in line))


RESET = {"group": "billing", "topic": "Orders", "is_force": True}

CHANGES: dict[str, tuple[list[object], str]] = {
    "updateSubGroup -c DefaultCluster -g billing -r 3 -s false": (
        [
            GroupConfig(
                group_name="billing", retry_queue_nums=7, retry_max_times=3, consume_enable=False
            )
        ],
        "create subscription group to BROKER success.",
    ),
    f"updateSubGroup -b BROKER -g fresh -p {POLICY}": (
        [GroupConfig(group_name="fresh", group_retry_policy={"type": "EXPONENTIAL"})],
        "create subscription group to BROKER success.",
    ),
    "deleteSubGroup -c DefaultCluster -g billing": (
        [DeleteGroup(group_name="billing")],
        "delete subscription group from BROKER success.",
    ),
    "deleteSubGroup -b BROKER -g billing -r true": (
        [
            DeleteGroup(group_name="billing", clean_offset=True),
            DeleteTopic(topic="%RETRY%billing"),
            DeleteTopic(topic="%DLQ%billing"),
        ],
        "delete subscription group from BROKER success.",
    ),
    "resetOffsetByTime -g billing -t Orders -s 17": (
        [ResetOffsets(**RESET, timestamp=17)],
        "broker-a 1 5",
    ),
    "resetOffsetByTime -g billing -t Orders -s -1": (
        [ResetOffsets(**RESET, timestamp=-1)],
        "broker-a 0 4",
    ),
    "resetOffsetByTime -g billing -t Orders -q 1 -o 5 -b broker-a": (
        [ResetOffsets(**RESET, timestamp=-1, queue_id=1, offset=5)],
        "broker-a 1 5",
    ),
    "skipAccumulatedMessage -g billing -t Orders": (
        [ResetOffsets(**RESET, timestamp=-1)],
        "broker-a 0 4",
    ),
    "cloneGroupOffset -s billing -d audit -t Orders -o false": (
        [CloneOffsets(src_group="billing", dest_group="audit", topic="Orders")],
        "audit stands in Orders where billing does",
    ),
    "updateTopicPerm -c DefaultCluster -t Orders -p 4": (
        [CreateTopic(topic="Orders", read_queue_nums=3, write_queue_nums=2, perm=4)],
        "update topic perm to 4 in BROKER success.",
    ),
    "updateBrokerConfig -c DefaultCluster -k maxMessageSize -v 7": (
        [b"maxMessageSize=7\n"],
        "update broker config success, BROKER",
    ),
    "resumeTransaction -i ID": ([ResumeCheck(msg_id="ID")], "BROKER asks the producer of ID again"),
}


def words(command: str, fake: FakeCluster) -> list[str]:
    return [_named(word, fake) for word in command.split()]


def _named(text: str, fake: FakeCluster) -> str:
    place = offset_message_id(pack_host("127.0.0.1", fake.broker.port), 5)
    return text.replace("BROKER", fake.broker_address).replace("ID", place)


@pytest.mark.parametrize("command", CHANGES)
def test_a_change_reaches_the_broker_and_is_told(
    dledger: Any, fake: FakeCluster, command: str
) -> None:
    changes, said = CHANGES[command]
    ended = dledger("admin", *words(command, fake), "-n", fake.name_server)
    again = dledger("admin", *words(command, fake), "-n", fake.name_server, "--json")
    expected = [
        ResumeCheck(msg_id=_named("ID", fake)) if isinstance(each, ResumeCheck) else each
        for each in changes
    ]

    assert (0, "") == (ended.code, ended.err)
    assert _named(said, fake) in lines(ended.out)
    assert expected * 2 == fake.broker.changes
    assert parsed(again.out)


@pytest.mark.parametrize("command", CHANGES)
def test_a_refused_change_says_why(dledger: Any, fake: FakeCluster, command: str) -> None:
    fake.broker.refuse = Refused("not today", code=16)
    ended = dledger("admin", *words(command, fake), "-n", fake.name_server)

    assert (1, "") == (ended.code, ended.out)
    assert "16: not today" in ended.err


QUESTIONS = {
    "getConsumerConfig -g billing": {"retryQueueNums 7", 'groupRetryPolicy {"type": "CUSTOMIZED"}'},
    "consumerConnection -g billing": {"c-1 10.0.0.9:1 JAVA 479", "MessageModel: CLUSTERING"},
    "consumerStatus -g billing": {"c-1", '"mqTable": {'},
    "consumerStatus -g billing -i c-1": {"c-1", '"mqTable": {'},
    "producerConnection -g pg -t Orders": {"p-1 10.0.0.8:1 GO 431"},
    "producer -b BROKER": {"pg p-1 10.0.0.8:1 GO 431"},
    "getBrokerConfig -b BROKER": {"maxMessageSize 4"},
    "getBrokerConfig -c DefaultCluster": {"maxMessageSize 4"},
}


@pytest.mark.parametrize("command", QUESTIONS)
def test_a_question_is_answered(dledger: Any, fake: FakeCluster, command: str) -> None:
    ended = dledger("admin", *words(command, fake), "-n", fake.name_server)
    again = dledger("admin", *words(command, fake), "-n", fake.name_server, "--json")

    assert (0, "") == (ended.code, ended.err)
    assert QUESTIONS[command] <= set(lines(ended.out))
    assert parsed(again.out)


FAILURES = {
    "getConsumerConfig -g nobody": (1, "no broker knows consumer group 'nobody'"),
    "consumerConnection -g nobody": (1, "no consumer of group 'nobody' is online"),
    "consumerStatus -g nobody": (1, "no consumer of group 'nobody' is online"),
    "consumerStatus -g billing -i c-9": (1, "no client 'c-9' of group 'billing' is online"),
    "producerConnection -g nobody -t Orders": (1, "no producer of group nobody"),
    "resetOffsetByTime -g billing -t Nobody -s 0": (1, "'Nobody'"),
    "resetOffsetByTime -g billing -t Orders -s 0 -b broker-z": (1, "'broker-z'"),
    "resetOffsetByTime -g billing -t Orders": (2, "either -s or -o"),
    "resetOffsetByTime -g billing -t Orders -o 5": (2, "-q says which"),
    "resetOffsetByTime -g billing -t Orders -s soon": (2, "'soon'"),
    "updateSubGroup -g billing": (2, "either -b or -c"),
    "updateSubGroup -c Other -g billing": (1, "there is DefaultCluster"),
    "updateSubGroup -c DefaultCluster -g billing -p [1]": (2, "an object is expected"),
    "updateSubGroup -c DefaultCluster -g billing -p {": (2, "is not JSON"),
    "wipeWritePerm -b broker-z": (1, "no name server knows a broker group 'broker-z'"),
    "resumeTransaction -i rubbish": (1, "offset message id"),
    "updateBrokerConfig -c DefaultCluster -k a=b -v 1": (2, "a key has no '='"),
}


@pytest.mark.parametrize("command", FAILURES)
def test_what_cannot_be_is_told(dledger: Any, fake: FakeCluster, command: str) -> None:
    code, said = FAILURES[command]
    ended = dledger("admin", *words(command, fake), "-n", fake.name_server)

    assert (code, "") == (ended.code, ended.out)
    assert said in ended.err
    assert (code == 1) == ended.err.startswith("dledger: ")
    assert [] == fake.broker.changes


def test_write_permissions(dledger: Any, fake: FakeCluster) -> None:
    wiped = dledger("admin", "wipeWritePerm", "-b", "broker-a", "-n", fake.name_server)
    added = dledger("admin", "addWritePerm", "-b", "broker-a", "-n", fake.name_server, "--json")

    assert "no more sends are routed to broker-a: 5 topics" in wiped.out
    assert {"brokerName": "broker-a", "topics": 5} == parsed(added.out)
