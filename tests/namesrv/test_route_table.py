"""The route table as page after page of brokers' registrations changes it."""

import pytest
from attrs import evolve

from dledger_py.remoting.commands.registrations import RegisterBody
from dledger_py.remoting.commands.routes import QueueData, TopicRoute
from dledger_py.remoting.commands.topics import DataVersion, TopicConfig, TopicTable
from namesrv.records import Origin, Registered, Registration, RegistrationRefused, RoutePolicy
from namesrv.routes import DEFAULT_EXPIRY_MS, RouteTable
from namesrv.views import in_zone

N0, N1, N2 = "10.0.0.1:10911", "10.0.0.2:10911", "10.0.0.3:10911"


def topic(name: str, *, perm: int = 6, read: int = 4, write: int = 4) -> TopicConfig:
    return TopicConfig(topic_name=name, read_queue_nums=read, write_queue_nums=write, perm=perm)


def registration(
    address: str = N0,
    broker_id: int = 0,
    *,
    topics: tuple[TopicConfig, ...] = (topic("Orders"), topic("TBW102")),
    term: int = 1,
    counter: int = 0,
    cluster: str = "DefaultCluster",
    broker_name: str = "broker-a",
    acting: bool | None = None,
    timeout_ms: int | None = None,
    zone: str | None = None,
    origin: Origin | None = None,
) -> Registration:
    return Registration(
        cluster=cluster,
        broker_name=broker_name,
        broker_id=broker_id,
        address=address,
        ha_server_address="10.0.0.9:10912",
        heartbeat_timeout_ms=timeout_ms,
        enable_acting_master=acting,
        zone_name=zone,
        origin=origin,
        body=body(topics, DataVersion(state_version=term, counter=counter)),
    )


def body(topics: tuple[TopicConfig, ...], version: DataVersion) -> RegisterBody:
    table = {config.topic_name: config for config in topics}
    return RegisterBody(
        topic_config_serialize_wrapper=TopicTable(data_version=version, topic_config_table=table)
    )


class Registry:
    """A table and a shorthand: one connection per address unless told otherwise."""

    def __init__(self, **policy: bool) -> None:
        self.table = RouteTable(RoutePolicy(**policy))
        self.connections: dict[str, int] = {}

    def register(
        self, *args: object, now_ms: int = 0, connection: int | None = None, **kwargs: object
    ) -> Registered:
        message = registration(*args, **kwargs)  # type: ignore[arg-type]
        if connection is None:
            connection = self.connections.setdefault(message.address, len(self.connections) + 1)
        return self.table.register(message, connection=connection, now_ms=now_ms)

    def members(self, name: str = "broker-a") -> dict[int, str]:
        group = self.table.broker_group(name)
        return {} if group is None else dict(group.broker_addrs)

    def route(self, name: str = "Orders") -> TopicRoute:
        route = self.table.topic_route(name)
        assert route is not None
        return route

    def perm(self, name: str = "Orders") -> int:
        return self.route(name).queue_datas[0].perm


@pytest.fixture
def registry() -> Registry:
    return Registry()


# -- members -------------------------------------------------------------------------------------


def test_a_registered_broker_is_in_the_route_of_its_topics(registry: Registry) -> None:
    answer = registry.register()

    route = registry.table.topic_route("Orders")

    assert answer == Registered(newcomer=True)
    assert route is not None
    assert [queue.broker_name for queue in route.queue_datas] == ["broker-a"]
    assert [dict(broker.broker_addrs) for broker in route.broker_datas] == [{0: N0}]


def test_a_slave_learns_its_master(registry: Registry) -> None:
    registry.register(N0, 0)

    answer = registry.register(N1, 2)

    assert (answer.master_address, answer.ha_server_address) == (N0, "10.0.0.9:10912")


def test_a_slave_without_a_master_learns_nothing(registry: Registry) -> None:
    answer = registry.register(N1, 2)

    assert answer == Registered(newcomer=True)


def test_a_new_leader_loses_its_old_id(registry: Registry) -> None:
    registry.register(N0, 0, term=1)
    registry.register(N1, 2, term=1)

    registry.register(N1, 0, term=2)

    assert registry.members() == {0: N1}


def test_a_deposed_leader_cannot_take_the_id_back(registry: Registry) -> None:
    registry.register(N0, 0, term=1)
    registry.register(N1, 0, term=2, topics=(topic("Orders", write=8), topic("TBW102")))

    answer = registry.register(N0, 0, term=1, counter=7)

    assert answer == Registered(accepted=False)
    assert registry.members() == {0: N1}
    assert registry.route().queue_datas[0].write_queue_nums == 8
    assert registry.table.data_version(cluster="DefaultCluster", address=N0) is None


def test_a_deposed_leader_comes_back_under_its_own_id(registry: Registry) -> None:
    registry.register(N0, 0, term=1)
    registry.register(N1, 0, term=2)

    registry.register(N0, 1, term=2)

    assert registry.members() == {0: N1, 1: N0}


def test_the_same_term_may_take_an_id_over(registry: Registry) -> None:
    registry.register(N0, 0, term=2)

    registry.register(N1, 0, term=2)

    assert registry.members() == {0: N1}


def founded(*folders: str, cluster: str = "dledger") -> Origin:
    return Origin(cluster=cluster, folders=frozenset(folders))


OURS = founded("a0", "a1", "a2")
UNSURE = founded()


@pytest.mark.parametrize(
    "stray, remark",
    [
        (founded("b0"), "which was founded apart from this one's"),
        (founded("a0", cluster="other"), "of cluster_id 'dledger', not 'other'"),
        (founded(cluster="other"), "of cluster_id 'dledger', not 'other'"),
        (UNSURE, "cannot tell yet"),
    ],
)
def test_a_broker_of_another_group_does_not_get_the_name(
    registry: Registry, stray: Origin, remark: str
) -> None:
    registry.register(N0, 0, term=1, origin=OURS)

    with pytest.raises(RegistrationRefused, match=remark) as refused:
        registry.register(N1, 0, term=9, origin=stray)

    assert N0 in str(refused.value)
    assert registry.members() == {0: N0}


@pytest.mark.parametrize(
    "origin",
    [founded("a0", "a1"), founded("a2", "a3"), None],
    ids=["behind", "a folder was replaced", "says nothing"],
)
def test_who_may_be_of_the_group_gets_the_name(registry: Registry, origin: Origin | None) -> None:
    registry.register(N0, 0, term=1, origin=OURS)

    registry.register(N1, 0, term=2, origin=origin)

    assert registry.members() == {0: N1}


def test_a_member_that_does_not_know_the_folders_yet_takes_no_others_place(
    registry: Registry,
) -> None:
    registry.register(N0, 1, origin=OURS)

    registry.register(N1, 2, origin=UNSURE)
    with pytest.raises(RegistrationRefused):
        registry.register(N2, 1, origin=UNSURE)

    assert registry.members() == {1: N0, 2: N1}


def test_founders_come_before_they_know_their_folders(registry: Registry) -> None:
    registry.register(N1, 2, origin=UNSURE)
    registry.register(N0, 0, origin=UNSURE)

    registry.register(N0, 0, origin=OURS)

    assert registry.members() == {0: N0, 2: N1}


def test_a_stray_that_was_let_in_goes_once_it_knows_its_folders(registry: Registry) -> None:
    registry.register(N0, 1, origin=OURS)
    registry.register(N1, 2, origin=UNSURE)

    with pytest.raises(RegistrationRefused):
        registry.register(N1, 0, origin=founded("b0", "b1"))

    assert registry.members() == {1: N0}


def test_a_stray_that_names_anothers_address_does_not_drive_it_out(registry: Registry) -> None:
    registry.register(N0, 0, origin=OURS)
    registry.register(N1, 2, origin=OURS)

    with pytest.raises(RegistrationRefused):
        registry.register(N1, 0, origin=founded("b0"), connection=9)

    assert registry.members() == {0: N0, 2: N1}


def test_the_name_is_free_with_the_last_member_of_a_group(registry: Registry) -> None:
    registry.register(N0, 0, origin=OURS)
    registry.table.forget_connection(registry.connections[N0])

    registry.register(N1, 0, origin=founded("b0"))

    assert registry.members() == {0: N1}


def test_an_emptied_broker_of_one_takes_its_own_place(registry: Registry) -> None:
    """Its old connection may not have been seen to end."""
    registry.register(N0, 0, origin=founded("a0"))

    registry.register(N0, 0, origin=founded("b0"), connection=9)

    assert registry.members() == {0: N0}


def test_a_fence_falls_with_the_member_that_raised_it(registry: Registry) -> None:
    registry.register(N1, 0, term=9)
    registry.register(N2, 3, term=9)
    registry.table.forget_connection(registry.connections[N1])

    registry.register(N0, 0, term=1)

    assert registry.members() == {0: N0, 3: N2}


def test_the_end_of_a_deposed_leaders_connection_leaves_the_new_one_alone(
    registry: Registry,
) -> None:
    registry.register(N0, 0, term=1)
    registry.register(N1, 0, term=2)

    registry.table.forget_connection(registry.connections[N0])

    assert registry.members() == {0: N1}


# -- the rule of exactly one topic ---------------------------------------------------------------


@pytest.mark.parametrize(
    "count, accepted",
    [(0, True), (1, False), (2, True), (3, True)],
)
def test_a_first_registration_with_exactly_one_topic_is_refused(
    registry: Registry, count: int, accepted: bool
) -> None:
    topics = tuple(topic(f"T{n}") for n in range(count))

    if accepted:
        registry.register(topics=topics)
    else:
        with pytest.raises(RegistrationRefused, match="register broker failed"):
            registry.register(topics=topics)

    assert bool(registry.members()) == accepted


def test_a_refused_registration_leaves_no_trace(registry: Registry) -> None:
    with pytest.raises(RegistrationRefused):
        registry.register(topics=(topic("Only"),))

    assert registry.table == RouteTable()


def test_one_topic_is_an_update_once_the_id_is_registered(registry: Registry) -> None:
    registry.register()

    registry.register(topics=(topic("Payments"),), counter=1)

    assert set(registry.table.topics()) == {"Orders", "TBW102", "Payments"}


def test_one_topic_from_a_new_id_of_a_known_group_is_refused(registry: Registry) -> None:
    registry.register(N0, 0)

    with pytest.raises(RegistrationRefused):
        registry.register(N1, 2, topics=(topic("Orders"),))

    assert registry.members() == {0: N0}


# -- topics --------------------------------------------------------------------------------------


def test_topics_missing_from_a_later_table_are_kept(registry: Registry) -> None:
    registry.register(topics=(topic("A"), topic("B")))

    registry.register(topics=(topic("A"), topic("C")), counter=1)

    assert set(registry.table.topics()) == {"A", "B", "C"}


def test_topics_missing_from_a_later_table_are_dropped_where_the_policy_says_so() -> None:
    registry = Registry(delete_topic_with_broker_registration=True)
    registry.register(topics=(topic("A"), topic("B")))

    registry.register(topics=(topic("A"), topic("C")), counter=1)

    assert set(registry.table.topics()) == {"A", "C"}


def test_a_known_topic_changes_only_with_the_data_version(registry: Registry) -> None:
    registry.register(topics=(topic("A"), topic("B")))

    registry.register(topics=(topic("A", perm=4), topic("B")))
    before = registry.perm("A")
    registry.register(topics=(topic("A", perm=4), topic("B")), counter=1)

    assert (before, registry.perm("A")) == (6, 4)


@pytest.mark.parametrize(
    "change",
    [{"state_version": 2}, {"timestamp": 1}, {"counter": 1}],
)
def test_each_part_of_a_data_version_counts(change: dict[str, int]) -> None:
    first = registration(topics=(topic("A"), topic("B")))
    table = RouteTable()
    table.register(first, connection=1, now_ms=0)
    changed = body((topic("A", perm=4),), evolve(first.version, **change))

    table.register(evolve(first, body=changed), connection=1, now_ms=1)

    route = table.topic_route("A")
    assert route is not None
    assert route.queue_datas[0].perm == 4


def test_an_unknown_topic_is_added_even_with_an_equal_data_version(registry: Registry) -> None:
    registry.register(topics=(topic("A"), topic("B")))

    registry.register(topics=(topic("A"), topic("B"), topic("C")))

    assert registry.perm("C") == 6


def test_a_slaves_topics_do_not_count(registry: Registry) -> None:
    registry.register(N0, 0)

    registry.register(N1, 2, topics=(topic("Orders", perm=2), topic("Other")), counter=5)

    assert registry.perm("Orders") == 6
    assert "Other" not in registry.table.topics()


def test_an_old_slave_brings_no_topics_even_when_alone(registry: Registry) -> None:
    registry.register(N1, 2, acting=None)

    assert registry.table.topics() == ()


def test_the_smallest_slave_brings_topics_where_it_says_anything_of_acting(
    registry: Registry,
) -> None:
    registry.register(N1, 2, acting=False)

    assert set(registry.table.topics()) == {"Orders", "TBW102"}
    assert registry.perm() == 6


def test_an_acting_masters_topics_are_read_only(registry: Registry) -> None:
    registry.register(N1, 2, acting=True)

    assert registry.perm() == 4


def test_a_larger_slave_brings_no_topics(registry: Registry) -> None:
    registry.register(N1, 2, acting=False, topics=())

    registry.register(N2, 3, acting=False)

    assert registry.table.topics() == ()


def test_a_takeover_brings_the_new_leaders_topics_although_its_version_is_known(
    registry: Registry,
) -> None:
    registry.register(N0, 0, term=1)
    registry.register(N1, 2, term=2)

    registry.register(N1, 0, term=2, topics=(topic("Orders", write=16), topic("TBW102")))

    assert registry.route().queue_datas[0].write_queue_nums == 16


# -- going away ----------------------------------------------------------------------------------


def test_topics_vanish_with_the_last_member(registry: Registry) -> None:
    registry.register(N0, 0)
    registry.register(N1, 2)
    registry.register(
        "10.0.1.1:10911", 0, broker_name="broker-b", topics=(topic("A"), topic("Orders"))
    )

    registry.table.forget_connection(registry.connections[N0])
    kept = registry.table.topic_route("TBW102")
    registry.table.forget_connection(registry.connections[N1])

    assert kept is not None
    assert dict(kept.broker_datas[0].broker_addrs) == {2: N1}
    assert set(registry.table.topics()) == {"A", "Orders"}
    assert [group.broker_name for group in registry.table.broker_groups()] == ["broker-b"]


def test_a_closed_connection_takes_all_its_brokers_along(registry: Registry) -> None:
    registry.register(N0, 0, connection=5)
    registry.register(N1, 0, broker_name="broker-b", connection=5)
    registry.register(N2, 0, broker_name="broker-c", connection=6)

    gone = registry.table.forget_connection(5)

    assert [one.broker_name for one in gone] == ["broker-a", "broker-b"]
    assert [group.broker_name for group in registry.table.broker_groups()] == ["broker-c"]


def test_the_end_of_an_old_connection_leaves_a_broker_alone_that_came_back(
    registry: Registry,
) -> None:
    registry.register(N0, 0, connection=5)
    registry.register(N0, 0, connection=6)

    assert registry.table.forget_connection(5) == ()
    assert registry.members() == {0: N0}


@pytest.mark.parametrize(
    "timeout_ms, expiry_ms",
    [(None, DEFAULT_EXPIRY_MS), (10_000, 10_000), (0, DEFAULT_EXPIRY_MS)],
)
def test_a_silent_member_expires(timeout_ms: int | None, expiry_ms: int) -> None:
    registry = Registry()
    registry.register(timeout_ms=timeout_ms, now_ms=1000)

    assert registry.table.expire(now_ms=1000 + expiry_ms) == ()
    (gone,) = registry.table.expire(now_ms=1001 + expiry_ms)
    assert (gone.address, gone.connection) == (N0, 1)
    assert registry.members() == {}


def test_a_sign_of_life_puts_expiry_off(registry: Registry) -> None:
    registry.register(now_ms=0)

    assert registry.table.refresh(cluster="DefaultCluster", address=N0, now_ms=60_000)
    assert not registry.table.refresh(cluster="DefaultCluster", address=N1, now_ms=60_000)
    assert registry.table.expire(now_ms=120_001) == ()
    assert len(registry.table.expire(now_ms=180_001)) == 1


def test_unregistering_goes_by_the_address(registry: Registry) -> None:
    registry.register(N0, 0, term=1)
    registry.register(N1, 0, term=2)

    registry.table.unregister(cluster="DefaultCluster", broker_name="broker-a", address=N0)
    kept = registry.members()
    registry.table.unregister(cluster="DefaultCluster", broker_name="broker-a", address=N1)

    assert kept == {0: N1}
    assert registry.members() == {}


def test_a_group_left_with_slaves_becomes_read_only_where_a_slave_may_act(
    registry: Registry,
) -> None:
    registry.register(N0, 0, acting=True)
    registry.register(N1, 2, acting=True)

    registry.table.forget_connection(registry.connections[N0])

    assert registry.perm() == 4


def test_a_group_left_with_slaves_stays_as_it_is_otherwise(registry: Registry) -> None:
    registry.register(N0, 0)
    registry.register(N1, 2)

    registry.table.forget_connection(registry.connections[N0])

    assert registry.perm() == 6


def test_a_renamed_broker_leaves_its_old_group(registry: Registry) -> None:
    registry.register(N0, 0, broker_name="old")

    registry.register(N0, 0, broker_name="new")

    assert [group.broker_name for group in registry.table.broker_groups()] == ["new"]


# -- routes --------------------------------------------------------------------------------------


def test_an_unknown_topic_has_no_route(registry: Registry) -> None:
    registry.register()

    assert registry.table.topic_route("Unknown") is None


def test_the_smallest_slave_is_shown_as_master_where_the_policy_says_so() -> None:
    registry = Registry(support_acting_master=True)
    registry.register(N0, 0, acting=True)
    registry.register(N2, 3, acting=True)
    registry.register(N1, 2, acting=True)
    registry.table.forget_connection(registry.connections[N0])

    route = registry.route()

    assert dict(route.broker_datas[0].broker_addrs) == {0: N1, 3: N2}


def test_nobody_acts_as_master_by_default(registry: Registry) -> None:
    registry.register(N1, 2, acting=True)

    route = registry.route()

    assert dict(route.broker_datas[0].broker_addrs) == {2: N1}


def test_a_zone_sees_its_own_groups_and_those_without_a_master(registry: Registry) -> None:
    registry.register(N0, 0, broker_name="near", zone="Z1")
    registry.register(N1, 0, broker_name="far", zone="z2")
    registry.register(N2, 3, broker_name="orphan", zone="z2", acting=False)
    route = registry.table.topic_route("Orders")
    assert route is not None

    near = in_zone(route, "z1")

    assert [broker.broker_name for broker in near.broker_datas] == ["near", "orphan"]
    assert [queue.broker_name for queue in near.queue_datas] == ["near", "orphan"]


def test_system_topics_are_the_names_of_clusters_and_brokers(registry: Registry) -> None:
    registry.register()

    assert registry.table.system_topics() == (("DefaultCluster", "broker-a"), N0)


def test_topics_of_a_cluster(registry: Registry) -> None:
    registry.register(topics=(topic("A"), topic("B")))
    registry.register(
        N1, 0, cluster="Other", broker_name="broker-x", topics=(topic("A"), topic("C"))
    )

    assert registry.table.topics_of_cluster("Other") == ("A", "C")
    assert registry.table.topics_of_cluster("None") == ()


# -- operators -----------------------------------------------------------------------------------


def test_write_permission_is_taken_and_given_back(registry: Registry) -> None:
    registry.register(topics=(topic("A", perm=7), topic("B")))

    assert registry.table.wipe_write_perm("broker-a") == 2
    wiped = (registry.perm("A"), registry.perm("B"))
    assert registry.table.add_write_perm("broker-a") == 2
    assert registry.table.add_write_perm("unknown") == 0
    assert wiped == (5, 4)
    assert (registry.perm("A"), registry.perm("B")) == (6, 6)


def test_wiped_permission_lasts_until_the_data_version_changes(registry: Registry) -> None:
    registry.register()
    registry.table.wipe_write_perm("broker-a")

    registry.register()
    same = registry.perm()
    registry.register(counter=1)

    assert (same, registry.perm()) == (4, 6)


def test_a_topic_is_deleted_everywhere_or_in_one_cluster(registry: Registry) -> None:
    registry.register()
    registry.register(N1, 0, cluster="Other", broker_name="broker-x")

    registry.table.delete_topic("Orders", cluster="Other")
    route = registry.table.topic_route("Orders")
    registry.table.delete_topic("Orders")
    registry.table.delete_topic("Orders")

    assert route is not None
    assert [queue.broker_name for queue in route.queue_datas] == ["broker-a"]
    assert registry.table.topic_route("Orders") is None


def test_registered_queues_count_only_on_groups_that_exist(registry: Registry) -> None:
    registry.register()
    queues = [
        QueueData(broker_name=name, read_queue_nums=1, write_queue_nums=1, perm=6)
        for name in ("broker-a", "ghost")
    ]

    registry.table.register_topic("New", queues)
    registry.table.register_topic("Ghostly", queues[1:])

    route = registry.table.topic_route("New")
    assert route is not None
    assert [queue.broker_name for queue in route.queue_datas] == ["broker-a"]
    assert "Ghostly" not in registry.table.topics()
