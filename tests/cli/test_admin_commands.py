"""`dledger admin`: mqadmin's names, plain columns, JSON, and exit codes that tell the truth."""

import json
from typing import Any

import pytest

from dledger_py.remoting.commands.operations import ChangeMembers, TransferLeadership
from dledger_py.remoting.commands.topics import CreateTopic, DeleteTopic
from dledger_py.remoting.rooms import Refused
from tests.admin.fake_cluster import TOPICS, FakeCluster


def lines(text: str) -> list[str]:
    """Without alignment."""
    return [" ".join(line.split()) for line in text.splitlines()]


def test_cluster_list(dledger: Any, fake: FakeCluster) -> None:
    ended = dledger("admin", "clusterList", "-n", fake.name_server)

    assert lines(ended.out) == [
        "#Cluster Name #Broker Name #BID #Addr #Version #Role #Term #InTPS #OutTPS",
        f"DefaultCluster broker-a 0 {fake.broker_address} V5_3_3 leader 7 12.50 3.00",
        "DefaultCluster broker-a 2 127.0.0.1:1 down 0.00 0.00",
    ]
    assert ended.code == 1  # one member does not answer
    assert "127.0.0.1:1 cannot be reached" in ended.err


def test_cluster_list_with_more_statistics(dledger: Any, fake: FakeCluster) -> None:
    ended = dledger("admin", "clusterList", "-m", "-n", fake.name_server)

    assert "DefaultCluster broker-a 0 41 40" in lines(ended.out)


def test_cluster_list_as_json(dledger: Any, fake: FakeCluster) -> None:
    ended = dledger("admin", "clusterList", "--json", "--namesrvAddr", fake.name_server)

    leader, dead = json.loads(
        "\n".join(line for line in ended.out.splitlines() if "[info" not in line)
    )
    assert leader == {
        "cluster": "DefaultCluster",
        "brokerName": "broker-a",
        "brokerId": 0,
        "address": fake.broker_address,
        "version": "V5_3_3",
        "role": "leader",
        "term": 7,
        "putTps": 12.5,
        "getTps": 3.0,
        "failure": None,
    }
    assert "cannot be reached" in dead["failure"]


def test_raft_status(dledger: Any, fake: FakeCluster) -> None:
    ended = dledger("admin", "raftStatus", "-n", fake.name_server)

    assert lines(ended.out) == [
        "#Broker Name #Node #Addr #Role #Member #Term #Last #Durable #Committed #Applied"
        " #Snapshot #Lag",
        f"broker-a n0 {fake.broker_address} leader voter 7 120 119 118 117 90 0",
        "broker-a 127.0.0.1:1 down",
    ]
    assert ended.code == 1


def test_raft_status_as_json(dledger: Any, fake: FakeCluster) -> None:
    ended = dledger("admin", "raftStatus", "--json", "-n", fake.name_server)

    leader, dead = json.loads(
        "\n".join(line for line in ended.out.splitlines() if "[info" not in line)
    )
    assert (leader["node"], leader["durableIndex"], leader["lag"]) == ("n0", 119, 0)
    assert (leader["membership"], leader["snapshotIndex"]) == ("voter", 90)
    assert (dead["role"], dead["lastIndex"]) == ("down", None)


def test_transfer_leader(dledger: Any, fake: FakeCluster) -> None:
    ended = dledger("admin", "transferLeader", "-t", "n1", "-n", fake.name_server)

    assert (ended.code, ended.out.strip()) == (0, "n1 leads broker-a")
    assert [TransferLeadership(transferee_id="n1")] == fake.broker.changes


def test_transfer_leader_of_a_group_that_is_not_there(dledger: Any, fake: FakeCluster) -> None:
    ended = dledger("admin", "transferLeader", "-t", "n1", "-b", "broker-z", "-n", fake.name_server)

    assert ended.code == 1
    assert "no group 'broker-z'" in ended.err


@pytest.mark.parametrize(
    "command,requests,said",
    [
        (
            ["addMember", "-m", "n3", "-a", "10.0.0.4:1"],
            [ChangeMembers(change="add", node="n3", address="10.0.0.4:1")],
            "n3 gets the log of broker-a as a learner",
        ),
        (
            ["addMember", "-m", "n3", "-a", "10.0.0.4:1", "--learner"],
            [ChangeMembers(change="add", node="n3", address="10.0.0.4:1", stays_learner=True)],
            "n3 gets the log of broker-a as a learner",
        ),
        (
            ["removeMember", "-m", "n0", "-b", "broker-a"],
            [ChangeMembers(change="remove", node="n0")],
            "n0 is no member of broker-a any more",
        ),
        (
            ["replaceMember", "-m", "n3"],
            [
                ChangeMembers(change="remove", node="n3", only_silent=True),
                ChangeMembers(change="add", node="n3", address="10.0.0.4:1"),
            ],
            "n3 begins anew as a learner of broker-a",
        ),
        (
            ["replaceMember", "-m", "n3", "-a", "10.0.0.9:1", "--force"],
            [
                ChangeMembers(change="remove", node="n3"),
                ChangeMembers(change="add", node="n3", address="10.0.0.9:1"),
            ],
            "n3 begins anew as a learner of broker-a",
        ),
    ],
)
def test_members_come_and_go(
    dledger: Any, fake: FakeCluster, command: list[str], requests: list[ChangeMembers], said: str
) -> None:
    ended = dledger("admin", *command, "-n", fake.name_server)

    assert (ended.code, ended.out.strip()) == (0, said)
    assert requests == fake.broker.changes


def test_a_change_of_members_that_is_refused(dledger: Any, fake: FakeCluster) -> None:
    fake.broker.refuse = Refused("the members were not changed: n3 is a member already")
    ended = dledger("admin", "addMember", "-m", "n3", "-a", "h:1", "-n", fake.name_server)
    unknown = dledger("admin", "replaceMember", "-m", "n7", "-n", fake.name_server)

    assert ended.code == 1
    assert "n3 is a member already" in ended.err
    assert unknown.code == 1
    assert "where does 'n7' listen" in unknown.err


def test_topic_list(dledger: Any, fake: FakeCluster) -> None:
    ended = dledger("admin", "topicList", "-n", fake.name_server)

    assert (ended.code, tuple(lines(ended.out))) == (0, TOPICS)


def test_topic_list_by_cluster(dledger: Any, fake: FakeCluster) -> None:
    ended = dledger("admin", "topicList", "-c", "-n", fake.name_server)

    assert lines(ended.out)[0] == "#Cluster Name #Topic #Consumer Group"
    assert "DefaultCluster Orders billing" in lines(ended.out)


def test_topic_route(dledger: Any, fake: FakeCluster) -> None:
    ended = dledger("admin", "topicRoute", "-t", "Orders", "-n", fake.name_server)

    assert lines(ended.out) == [
        "#Cluster #Broker Name #Read #Write #Perm #Addresses",
        f"DefaultCluster broker-a 4 16 6 0={fake.broker_address} 2=127.0.0.1:1",
    ]


def test_topic_route_as_json(dledger: Any, fake: FakeCluster) -> None:
    ended = dledger("admin", "topicRoute", "-t", "Orders", "--json", "-n", fake.name_server)

    assert json.loads(ended.out)["queueDatas"][0]["readQueueNums"] == 4


def test_topic_status(dledger: Any, fake: FakeCluster) -> None:
    ended = dledger("admin", "topicStatus", "-t", "Orders", "-n", fake.name_server)

    header, first, second = lines(ended.out)
    assert header == "#Broker Name #QID #Min Offset #Max Offset #Last Updated"
    assert first.startswith("broker-a 0 0 10 2023-11-1")
    assert first.endswith(",123")
    assert second.startswith("broker-a 1 0 11 ")


def test_update_topic(dledger: Any, fake: FakeCluster) -> None:
    ended = dledger(
        *("admin", "updateTopic", "-n", fake.name_server, "-c", "DefaultCluster", "-t", "New"),
        *("-r", "2", "-w", "3", "-p", "4", "-o", "true", "-a", "+message.type=FIFO"),
    )

    assert (ended.code, lines(ended.out)) == (
        0,
        [f"create topic to {fake.broker_address} success."],
    )
    assert fake.broker.changes == [
        CreateTopic(
            topic="New",
            default_topic="TBW102",
            read_queue_nums=2,
            write_queue_nums=3,
            perm=4,
            order=True,
            attributes="+message.type=FIFO",
        )
    ]


@pytest.mark.parametrize(
    "topic, given, queues",
    [
        ("New", (), (8, 8)),
        ("Orders", (), (3, 2)),  # as the broker has it
        ("Orders", ("-w", "0"), (3, 0)),
        ("Orders", ("-r", "0", "-w", "65536"), (0, 65_536)),
    ],
)
def test_what_update_topic_is_not_given_stays(
    dledger: Any, fake: FakeCluster, topic: str, given: tuple[str, ...], queues: tuple[int, int]
) -> None:
    ended = dledger(
        "admin", "updateTopic", "-b", fake.broker_address, "-t", topic, "-a", "+k=v", *given
    )

    assert 0 == ended.code, ended.err
    (change,) = fake.broker.changes
    assert queues == (change.read_queue_nums, change.write_queue_nums)
    assert (6, False, "+k=v") == (change.perm, change.order, change.attributes)


def test_delete_topic(dledger: Any, fake: FakeCluster) -> None:
    ended = dledger(
        "admin", "deleteTopic", "-n", fake.name_server, "-c", "DefaultCluster", "-t", "Orders"
    )

    assert ended.code == 0
    assert "delete topic [Orders] from cluster [DefaultCluster] success." in lines(ended.out)
    assert fake.broker.changes == [DeleteTopic(topic="Orders")]


def test_broker_status(dledger: Any, fake: FakeCluster) -> None:
    ended = dledger("admin", "brokerStatus", "-b", fake.broker_address)

    assert ended.code == 0
    assert lines(ended.out)[:2] == [fake.broker_address, "#Key #Value"]
    assert "raftTerm 7" in lines(ended.out)


def test_consumer_progress_of_a_group(dledger: Any, fake: FakeCluster) -> None:
    ended = dledger("admin", "consumerProgress", "-g", "billing", "-n", fake.name_server)

    found = lines(ended.out)
    assert found[0].startswith("#Topic #Broker Name #QID #Broker Offset #Consumer Offset #Diff")
    assert found[1].startswith("Orders broker-a 0 10 7 3 2 ")
    assert found[-2:] == ["Consume Diff Total: 3", "Consume Inflight Total: 2"]


def test_consumer_progress_of_all_groups(dledger: Any, fake: FakeCluster) -> None:
    ended = dledger("admin", "consumerProgress", "-n", fake.name_server)

    assert lines(ended.out) == [
        "#Group #Count #Model #TPS #Diff Total",
        "billing 1 CLUSTERING 1.50 3",
    ]


# -- exit codes ----------------------------------------------------------------------------------


def test_a_refusal_is_one_line_and_code_1(dledger: Any, fake: FakeCluster) -> None:
    fake.broker.refuse = Refused("no such thing", code=29)

    ended = dledger("admin", "updateTopic", "-b", fake.broker_address, "-t", "T")

    assert (ended.code, ended.err) == (1, "dledger: answered with code 29: no such thing\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["brokerStatus"],
        ["updateTopic", "-t", "T"],
        ["updateTopicPerm", "-t", "T", "-p", "6"],
        ["getBrokerConfig"],
        ["updateSubGroup", "-g", "billing"],
        ["producer"],
    ],
)
def test_the_name_of_a_group_is_no_address(dledger: Any, arguments: list[str]) -> None:
    ended = dledger("admin", *arguments, "-b", "broker-a")

    assert ended.code == 2
    assert "'--brokerAddr': address 'broker-a': host:port is expected" in ended.err


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["topicStatus", "-t", "Nobody"], "no route for topic 'Nobody'"),
        (["clusterList", "-c", "Other"], "no cluster 'Other' is registered: there is DefaultClust"),
        (["consumerProgress", "-g", "who"], "no broker knows consumer group 'who'"),
    ],
)
def test_an_unknown_name_is_code_1(
    dledger: Any, fake: FakeCluster, arguments: list[str], words: str
) -> None:
    ended = dledger("admin", *arguments, "-n", fake.name_server)

    assert ended.code == 1
    assert words in ended.err
    assert "Traceback" not in ended.err


def test_an_unreachable_name_server_is_code_3(dledger: Any) -> None:
    ended = dledger("admin", "topicList", "-n", "127.0.0.1:1")

    assert ended.code == 3
    assert ended.err.startswith("dledger: 127.0.0.1:1 cannot be reached")
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["topicRoute"],
        ["updateTopic", "-t", "T"],
        ["updateTopic", "-t", "T", "-b", "1:1", "-c", "c"],
        ["updateTopic", "-t", "T", "-b", "h:1", "-p", "9"],
        ["brokerStatus"],
        ["topicList", "-n", "nonsense"],
        ["noSuchCommand"],
    ],
)
def test_wrong_usage_is_code_2(dledger: Any, arguments: list[str]) -> None:
    ended = dledger("admin", *arguments)

    assert (ended.code, ended.out) == (2, "")
    assert "Error: " in ended.err
