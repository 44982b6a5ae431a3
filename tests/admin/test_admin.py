"""Operators' questions, asked of a real name server and a pretended broker."""

from pathlib import Path

import pytest
import trio

from dledger_py.admin import Admin, QueueLag, QueueState, UnknownName
from dledger_py.admin.records import MemberState, raft_states
from dledger_py.client.errors import CallTimedOut, NoRoute, ResponseError, Unreachable
from dledger_py.remoting.commands.topics import CreateTopic, DeleteTopic
from dledger_py.remoting.rooms import Refused
from tests.admin.fake_cluster import POP_TOPICS, TOPICS, fake_cluster


async def test_every_member_is_listed_and_a_dead_one_with_the_reason(tmp_path: Path) -> None:
    async with fake_cluster(tmp_path) as fake:
        leader, dead = await Admin(fake.name_server).cluster_list()

    assert (leader.broker_name, leader.broker_id, leader.address) == (
        "broker-a",
        0,
        fake.broker_address,
    )
    assert (leader.role, leader.term, leader.version) == ("leader", 7, "V5_3_3")
    assert (leader.put_per_s, leader.get_per_s, leader.failure) == (12.5, 3.0, None)
    assert (dead.broker_id, dead.role, dead.term, dead.put_per_s) == (2, "slave", None, 0.0)
    assert "127.0.0.1:1 cannot be reached" in str(dead.failure)


async def test_a_broker_that_hangs_is_a_failure_like_others(tmp_path: Path) -> None:
    async with fake_cluster(tmp_path) as fake:
        fake.broker.answers = False

        leader, _ = await Admin(fake.name_server, 0.2).cluster_list()
        with pytest.raises(CallTimedOut):
            await Admin(fake.name_server, 0.2).broker_status(cluster="DefaultCluster")

    assert "did not answer in time" in str(leader.failure)


async def test_topics_are_listed_by_name_server_and_by_cluster(tmp_path: Path) -> None:
    async with fake_cluster(tmp_path) as fake:
        admin = Admin(fake.name_server)

        assert await admin.topic_list() == TOPICS
        assert await admin.topic_list(cluster="DefaultCluster") == TOPICS
        groups = {topic: names for _, topic, names in await admin.topic_groups()}
        with pytest.raises(UnknownName, match="there is DefaultCluster"):
            await admin.topic_list(cluster="Other")

    assert groups["Orders"] == ("billing",)
    assert groups["TBW102"] == ()


async def test_a_topics_queues_come_in_order(tmp_path: Path) -> None:
    async with fake_cluster(tmp_path) as fake:
        queues = await Admin(fake.name_server).topic_status("Orders")

    assert queues == tuple(
        QueueState(
            broker_name="broker-a",
            queue_id=number,
            min_offset=0,
            max_offset=10 + number,
            last_update_ms=1_700_000_000_123,
        )
        for number in (0, 1)
    )


async def test_an_unknown_topic_has_no_route(tmp_path: Path) -> None:
    async with fake_cluster(tmp_path) as fake:
        with pytest.raises(NoRoute, match="'Nobody'"):
            await Admin(fake.name_server).topic_status("Nobody")


async def test_a_topic_is_made_on_the_leaders(tmp_path: Path) -> None:
    async with fake_cluster(tmp_path) as fake:
        where = await Admin(fake.name_server).update_topic(
            "New", cluster="DefaultCluster", read_queues=2, write_queues=3, perm=4
        )

    assert where == (fake.broker_address,)
    assert fake.broker.changes == [
        CreateTopic(
            topic="New", default_topic="TBW102", read_queue_nums=2, write_queue_nums=3, perm=4
        )
    ]


async def test_a_refusal_of_the_broker_is_the_answer(tmp_path: Path) -> None:
    async with fake_cluster(tmp_path) as fake:
        fake.broker.refuse = Refused("the name is no name", code=29)

        with pytest.raises(ResponseError, match="29: the name is no name"):
            await Admin(fake.name_server).update_topic("N ew", broker_address=fake.broker_address)


async def test_a_deleted_topic_is_gone_from_brokers_and_name_servers(tmp_path: Path) -> None:
    async with fake_cluster(tmp_path) as fake:
        admin = Admin(fake.name_server)

        await admin.delete_topic("Orders", cluster="DefaultCluster")
        with pytest.raises(NoRoute):
            await admin.topic_route("Orders")

    assert fake.broker.changes == [DeleteTopic(topic="Orders")]


async def test_write_permission_is_taken_and_given_back(tmp_path: Path) -> None:
    async with fake_cluster(tmp_path) as fake:
        admin = Admin(fake.name_server)

        counts = (await admin.wipe_write_perm("broker-a"), await admin.add_write_perm("broker-a"))

    assert counts == (len(TOPICS), len(TOPICS))


async def test_what_a_group_popped_and_is_to_get_again_is_no_group(tmp_path: Path) -> None:
    async with fake_cluster(tmp_path, TOPICS + POP_TOPICS) as fake:
        groups = await Admin(fake.name_server).consumer_groups()

    assert ("billing", "left-over", "my_Orders", "popping") == groups


async def test_progress_of_a_group(tmp_path: Path) -> None:
    async with fake_cluster(tmp_path) as fake:
        admin = Admin(fake.name_server)

        groups = await admin.consumer_groups()
        progress = await admin.consumer_progress("billing")
        of_other_topic = await admin.consumer_progress("billing", topic="Other")
        with pytest.raises(UnknownName, match="'left-over'"):
            await admin.consumer_progress("left-over")

    lag = QueueLag(
        topic="Orders",
        broker_name="broker-a",
        queue_id=0,
        broker_offset=10,
        consumer_offset=7,
        pull_offset=9,
        last_ms=1,
    )
    assert groups == ("billing", "left-over")
    assert progress.queues == (lag,)
    assert (progress.lag, progress.inflight, progress.online) == (3, 2, 1)
    assert (progress.model, progress.consume_tps) == ("CLUSTERING", 1.5)
    assert of_other_topic.queues == ()


async def test_another_name_server_is_asked_when_one_is_down(tmp_path: Path) -> None:
    async with fake_cluster(tmp_path) as fake:
        admin = Admin(f"127.0.0.1:1;{fake.name_server}")

        assert await admin.topic_list() == TOPICS
        with pytest.raises(Unreachable):  # a change must reach all of them
            await admin.delete_topic("Orders", cluster="DefaultCluster")


async def test_no_name_server_is_unreachable() -> None:
    with trio.fail_after(5), pytest.raises(Unreachable):
        await Admin("127.0.0.1:1").cluster_list()


async def test_a_change_says_where() -> None:
    with pytest.raises(ValueError, match="cluster or broker_address"):
        await Admin("127.0.0.1:1").update_topic("T")


def test_lag_is_counted_against_the_leader_of_the_same_group() -> None:
    def member(broker: str, broker_id: int, **runtime: str) -> MemberState:
        return MemberState(
            cluster="c",
            broker_name=broker,
            broker_id=broker_id,
            address=f"127.0.0.1:{broker_id}",
            runtime=runtime,
        )

    states = raft_states(
        [
            member("a", 0, raftRole="leader", raftLastIndex="10"),
            member("a", 2, raftRole="follower", raftLastIndex="7"),
            member("a", 3, raftRole="follower", raftLastIndex="11"),
            member("b", 1, raftRole="follower", raftLastIndex="5"),
            member("old", 0),
        ]
    )

    assert [0, 3, 0, None, None] == [state.lag for state in states]
