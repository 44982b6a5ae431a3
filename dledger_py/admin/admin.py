"""Admin: every operator question as one typed method.

    admin = Admin("127.0.0.1:9876")
    for member in await admin.cluster_list():
        print(member.broker_name, member.broker_id, member.role)

Laws:
- Name servers are asked in turn until one answers; what is changed on name servers is changed on
  all of them, for they do not talk to each other.
- Brokers are asked side by side, each over a connection of its own that ends with the answer:
  operators ask seldom, and one broker that hangs must not hold up the others.
- A question goes to a group's leader, or to any member if it has none at the moment.
- Errors are the client's: `Unreachable` and `ResponseError` are definite, `Indefinite` is not.

Runs under trio and asyncio. Which codes a question needs is RocketMQ's mqadmin's choice.
"""

from typing import TypeVar

from attrs import field, frozen

from dledger_py.admin.asking import (
    decoded,
    groups_of,
    leader_of,
    masters_of,
    side_by_side,
    speaker_of,
)
from dledger_py.admin.records import (
    BrokerState,
    GroupProgress,
    MemberState,
    QueueLag,
    QueueState,
    RaftState,
    UnknownName,
    raft_states,
)
from dledger_py.client.connection import HeaderT, Reply, open_connection, parse_address
from dledger_py.client.errors import ClientError, NoRoute, ResponseError
from dledger_py.client.routes import parse_name_servers
from dledger_py.remoting.commands.groups import GetAllGroups, GroupTable
from dledger_py.remoting.commands.operations import (
    ChangeMembers,
    GetBrokerRuntime,
    GetConsumerConnections,
    GetConsumeStats,
    GetTopicStats,
    QueryTopicGroups,
    TransferLeadership,
)
from dledger_py.remoting.commands.routes import BrokerData, ClusterInfo, TopicList, TopicRoute
from dledger_py.remoting.commands.routing import (
    AddWritePerm,
    DeleteTopicRoute,
    GetAllTopicNames,
    GetClusterInfo,
    GetRoute,
    GetTopicsOfCluster,
    WipeWritePerm,
)
from dledger_py.remoting.commands.statistics import (
    ConsumerConnections,
    ConsumeStats,
    GroupList,
    KeyValueTable,
    TopicStats,
)
from dledger_py.remoting.commands.topics import CreateTopic, DeleteTopic, GetTopic, TopicConfig
from dledger_py.remoting.wire.codes import ResponseCode
from dledger_py.remoting.wire.schema import Request

TIMEOUT_S = 5.0
"""One answer's time; mqadmin's."""

RETRY_PREFIX = "%RETRY%"

ValueT = TypeVar("ValueT")


@frozen
class Admin:
    """Questions and changes; it holds no connection, so there is nothing to close."""

    name_servers: tuple[str, ...] = field(converter=parse_name_servers)
    timeout_s: float = TIMEOUT_S

    # -- clusters and brokers ----------------------------------------------------------------------

    async def cluster_info(self) -> ClusterInfo:
        """Which brokers are registered."""
        reply = await self.ask_name_server(GetClusterInfo())
        return decoded(ClusterInfo, reply.body, self.name_servers[0])

    async def cluster_list(self, *, cluster: str | None = None) -> tuple[MemberState, ...]:
        """Every member of every group, with its own figures; those who do not answer, too."""
        groups = groups_of(await self.cluster_info(), cluster)
        members = [
            (group, broker_id, address)
            for group in groups
            for broker_id, address in sorted(group.broker_addrs.items())
        ]
        return await side_by_side(members, self._member_state)

    async def raft_status(self, *, cluster: str | None = None) -> tuple[RaftState, ...]:
        """Where every member stands in its group's log; those who do not answer, too."""
        return raft_states(await self.cluster_list(cluster=cluster))

    async def transfer_leader(self, node: str, *, broker_name: str | None = None) -> str:
        """Let the member *node* lead its group; the group's name.

        *broker_name* is needed where there are several groups.

        **Raises** UnknownName, or ResponseError if leadership was not handed over.
        """
        group = await self._group(broker_name)
        await self.ask(leader_of(group), TransferLeadership(transferee_id=node))
        return group.broker_name

    async def add_member(
        self,
        node: str,
        address: str,
        *,
        broker_name: str | None = None,
        stays_learner: bool = False,
    ) -> str:
        """Let the member *node*, which listens for its peers at *address*, into a group, whose name
        is returned.

        It gets the log as a learner and a vote once it has caught up, unless *stays_learner*.

        **Raises** UnknownName, or ResponseError if it was not let in.
        """
        group = await self._group(broker_name)
        await self.ask(
            leader_of(group),
            ChangeMembers(change="add", node=node, address=address, stays_learner=stays_learner),
        )
        return group.broker_name

    async def remove_member(self, node: str, *, broker_name: str | None = None) -> str:
        """Take the member *node* out of its group, whose name is returned.

        **Raises** UnknownName, or ResponseError if it stays.
        """
        group = await self._group(broker_name)
        await self.ask(leader_of(group), ChangeMembers(change="remove", node=node))
        return group.broker_name

    async def replace_member(
        self,
        node: str,
        *,
        address: str | None = None,
        broker_name: str | None = None,
        force: bool = False,
    ) -> str:
        """Have a member whose data folder was lost begin anew, in its group, whose name is
        returned: it is removed and added again, at *address* or where it was. With *force* also
        one that has its folder: it loses its vote, and is sent the whole log again.

        **Raises** UnknownName, or ResponseError if it was not removed or not let in again.
        """
        group = await self._group(broker_name)
        leader = leader_of(group)
        if address is None:
            table = (await self.broker_status(broker_address=leader))[0].table
            address = dict(
                each.split("=", 1) for each in table.get("raftAddresses", "").split(",") if each
            ).get(node)
        if address is None:
            raise UnknownName(f"where does {node!r} listen for its peers? The group does not know")
        removal = ChangeMembers(change="remove", node=node, only_silent=not force)
        await self.ask(leader, removal)
        await self.ask(leader, ChangeMembers(change="add", node=node, address=address))
        return group.broker_name

    async def _group(self, broker_name: str | None) -> BrokerData:
        """The group of this name, or the only one. **Raises** UnknownName."""
        groups = [
            group
            for group in groups_of(await self.cluster_info(), None)
            if broker_name in (None, group.broker_name)
        ]
        if len(groups) != 1:
            names = ", ".join(sorted(group.broker_name for group in groups))
            raise UnknownName(
                f"which broker group? there are {names}" if groups else f"no group {broker_name!r}"
            )
        return groups[0]

    async def broker_status(
        self, *, broker_address: str | None = None, cluster: str | None = None
    ) -> tuple[BrokerState, ...]:
        """The runtime table of one broker, or of a cluster's leaders.

        **Raises** whatever the first broker that did not answer failed with.
        """
        if broker_address is not None:
            addresses = [broker_address]
        else:
            groups = groups_of(await self.cluster_info(), cluster)
            addresses = [address for group in groups for address in masters_of(group)]
        return await side_by_side(addresses, self._broker_state)

    async def wipe_write_perm(self, broker_name: str) -> int:
        """Route no more sends to a group; how many topics that concerns."""
        replies = await self.ask_every_name_server(WipeWritePerm(broker_name=broker_name))
        return max(reply.header.wipe_topic_count for reply in replies)

    async def add_write_perm(self, broker_name: str) -> int:
        """Route sends to a group again; how many topics that concerns."""
        replies = await self.ask_every_name_server(AddWritePerm(broker_name=broker_name))
        return max(reply.header.add_topic_count for reply in replies)

    # -- topics ------------------------------------------------------------------------------------

    async def topic_list(self, *, cluster: str | None = None) -> tuple[str, ...]:
        """All topics, those of consumer groups and of the system included."""
        request: Request[None] = GetAllTopicNames()
        if cluster is not None:
            groups_of(await self.cluster_info(), cluster)
            request = GetTopicsOfCluster(cluster=cluster)
        reply = await self.ask_name_server(request)
        return decoded(TopicList, reply.body, self.name_servers[0]).topic_list

    async def topic_groups(self) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
        """(cluster, topic, consumer groups) of every topic of every cluster."""
        found = []
        for cluster in sorted((await self.cluster_info()).cluster_addr_table):
            topics = sorted(await self.topic_list(cluster=cluster))
            groups = await side_by_side(topics, self._groups_of_topic)
            found += [(cluster, *each) for each in zip(topics, groups, strict=True)]
        return tuple(found)

    async def topic_route(self, topic: str) -> TopicRoute:
        """Where a topic's queues are. **Raises** NoRoute if nowhere."""
        try:
            reply = await self.ask_name_server(
                GetRoute(topic=topic, accept_standard_json_only=True)
            )
        except ResponseError as error:
            if error.code == ResponseCode.TOPIC_NOT_EXIST:
                raise NoRoute(topic, "it does not exist") from error
            raise
        return decoded(TopicRoute, reply.body, self.name_servers[0])

    async def topic_status(self, topic: str) -> tuple[QueueState, ...]:
        """Every queue's offsets, by broker and number."""
        route = await self.topic_route(topic)
        addresses = [speaker_of(group) for group in route.broker_datas]

        async def ask(address: str) -> TopicStats:
            reply = await self.ask(address, GetTopicStats(topic=topic))
            return decoded(TopicStats, reply.body, address)

        found = await side_by_side(addresses, ask)
        return tuple(
            QueueState(
                broker_name=queue.broker_name,
                queue_id=queue.queue_id,
                min_offset=offsets.min_offset,
                max_offset=offsets.max_offset,
                last_update_ms=offsets.last_update_timestamp,
            )
            for stats in found
            for queue, offsets in sorted(stats.offset_table.items(), key=lambda item: item[0])
        )

    async def update_topic(
        self,
        topic: str,
        *,
        cluster: str | None = None,
        broker_address: str | None = None,
        read_queues: int | None = None,
        write_queues: int | None = None,
        perm: int | None = None,
        order: bool | None = None,
        attributes: str = "",
    ) -> tuple[str, ...]:
        """Make a topic or change it, on one broker or on a cluster's leaders; which ones did.

        What is not told stays as it is, unlike with mqadmin; a new topic gets 8 queues for either
        purpose, permission 6, and no order.
        """
        addresses = await self.masters(cluster, broker_address)

        async def change(address: str) -> None:
            known = await self._topic_at(address, topic)
            config = known or TopicConfig(topic_name=topic, read_queue_nums=8, write_queue_nums=8)
            request = CreateTopic(
                topic=topic,
                default_topic="TBW102",
                read_queue_nums=_first_told(read_queues, config.read_queue_nums),
                write_queue_nums=_first_told(write_queues, config.write_queue_nums),
                perm=_first_told(perm, config.perm),
                topic_filter_type=config.topic_filter_type,
                topic_sys_flag=config.topic_sys_flag,
                order=_first_told(order, config.order),
                attributes=attributes,
            )
            await self.ask(address, request)

        await side_by_side(addresses, change)
        return addresses

    async def update_topic_perm(
        self,
        topic: str,
        perm: int,
        *,
        cluster: str | None = None,
        broker_address: str | None = None,
    ) -> tuple[str, ...]:
        """Change what may be done with a topic, and nothing else of it; which brokers did.

        **Raises** ResponseError, with code 17 where there is no such topic.
        """
        addresses = await self.masters(cluster, broker_address)

        async def change(address: str) -> None:
            reply = await self.ask(address, GetTopic(topic=topic))
            config = decoded(TopicConfig, reply.body, address)
            request = CreateTopic(
                topic=topic,
                read_queue_nums=config.read_queue_nums,
                write_queue_nums=config.write_queue_nums,
                perm=perm,
                topic_filter_type=config.topic_filter_type,
                topic_sys_flag=config.topic_sys_flag,
                order=config.order,
            )
            await self.ask(address, request)

        await side_by_side(addresses, change)
        return addresses

    async def delete_topic(self, topic: str, *, cluster: str) -> tuple[str, ...]:
        """Remove a topic from a cluster's brokers, then from every name server."""
        addresses = await self.tell_masters(DeleteTopic(topic=topic), cluster, None)
        await self.ask_every_name_server(DeleteTopicRoute(topic=topic, cluster_name=cluster))
        return addresses

    # -- groups ------------------------------------------------------------------------------------

    async def consumer_groups(self) -> tuple[str, ...]:
        """The groups that have a retry topic, which a group gets with its first consumer.

        `%RETRY%a_b` is that of a group `a_b`, or of what group `a` popped of topic `b`: brokers
        are asked for their groups where it may be either.
        """
        topics = set(await self.topic_list())
        found: set[str] = set()
        unclear: dict[str, list[str]] = {}
        for topic in topics:
            if not topic.startswith(RETRY_PREFIX):
                continue
            name = topic.removeprefix(RETRY_PREFIX)
            owners = [
                name[:at]
                for at, letter in enumerate(name)
                if letter == "_" and at and name[at + 1 :] in topics
            ]
            if owners:
                unclear[name] = owners
            else:
                found.add(name)
        if unclear:
            known = await self._groups_of_brokers()
            for name, owners in unclear.items():
                found.update(known.intersection([name] if name in known else owners))
        return tuple(sorted(found))

    async def consumer_progress(
        self, group: str, *, topic: str | None = None, cluster: str | None = None
    ) -> GroupProgress:
        """How far a group is, in all its topics or in one.

        Every broker group is asked, not only those of the retry topic's route, so that a group
        whose consumers were never online is found, too.
        """
        groups = groups_of(await self.cluster_info(), cluster)
        addresses = [speaker_of(each) for each in groups]

        async def ask(address: str) -> ConsumeStats:
            request = GetConsumeStats(consumer_group=group, topic=topic)
            return decoded(ConsumeStats, (await self.ask(address, request)).body, address)

        found = await side_by_side(addresses, ask)
        connections = await side_by_side(addresses, lambda a: self._consumers(a, group))
        queues = [item for stats in found for item in stats.offset_table.items()]
        online = {client.client_id for each in connections for client in each.connection_set}
        if not queues and not online:
            raise UnknownName(f"no broker knows consumer group {group!r}")
        return GroupProgress(
            group=group,
            queues=tuple(
                QueueLag(
                    topic=queue.topic,
                    broker_name=queue.broker_name,
                    queue_id=queue.queue_id,
                    broker_offset=progress.broker_offset,
                    consumer_offset=progress.consumer_offset,
                    pull_offset=progress.pull_offset,
                    last_ms=progress.last_timestamp,
                )
                for queue, progress in sorted(queues, key=lambda item: item[0])
            ),
            consume_tps=sum(stats.consume_tps for stats in found),
            online=len(online),
            model=connections[0].message_model.name if online else "",
        )

    # -- asking ------------------------------------------------------------------------------------

    async def _groups_of_brokers(self) -> set[str]:
        async def ask(address: str) -> GroupTable:
            return decoded(GroupTable, (await self.ask(address, GetAllGroups())).body, address)

        groups = groups_of(await self.cluster_info(), None)
        found = await side_by_side([speaker_of(each) for each in groups], ask)
        return {name for table in found for name in table.subscription_group_table}

    async def _topic_at(self, address: str, topic: str) -> TopicConfig | None:
        """What this broker knows of the topic; None if there is none."""
        try:
            reply = await self.ask(address, GetTopic(topic=topic))
        except ResponseError as error:
            if error.code == ResponseCode.TOPIC_NOT_EXIST:
                return None
            raise
        return decoded(TopicConfig, reply.body, address)

    async def _member_state(self, member: tuple[BrokerData, int, str]) -> MemberState:
        group, broker_id, address = member
        table: dict[str, str] = {}
        failure = None
        try:
            table = dict((await self._broker_state(address)).table)
        except ClientError as error:
            failure = str(error)
        return MemberState(
            cluster=group.cluster,
            broker_name=group.broker_name,
            broker_id=broker_id,
            address=address,
            runtime=table,
            failure=failure,
        )

    async def _broker_state(self, address: str) -> BrokerState:
        reply = await self.ask(address, GetBrokerRuntime())
        table = decoded(KeyValueTable, reply.body, address).table
        return BrokerState(address=address, table=table)

    async def _groups_of_topic(self, topic: str) -> tuple[str, ...]:
        try:
            route = await self.topic_route(topic)
        except NoRoute:  # deleted since it was listed
            return ()
        names: set[str] = set()
        for group in route.broker_datas:
            reply = await self.ask(speaker_of(group), QueryTopicGroups(topic=topic))
            names.update(decoded(GroupList, reply.body, speaker_of(group)).group_list)
        return tuple(sorted(names))

    async def _consumers(self, address: str, group: str) -> ConsumerConnections:
        try:
            reply = await self.ask(address, GetConsumerConnections(consumer_group=group))
        except ResponseError as error:
            if error.code == ResponseCode.CONSUMER_NOT_ONLINE:
                return ConsumerConnections()
            raise
        return decoded(ConsumerConnections, reply.body, address)

    async def tell_masters(
        self,
        request: Request[None],
        cluster: str | None,
        broker_address: str | None,
        body: bytes = b"",
    ) -> tuple[str, ...]:
        """Tell one broker, or each group of a cluster, of a change; who was told. One member per
        group suffices: they replicate it."""
        addresses = await self.masters(cluster, broker_address)
        await side_by_side(addresses, lambda address: self.ask(address, request, body))
        return addresses

    async def masters(self, cluster: str | None, broker_address: str | None) -> tuple[str, ...]:
        """Whom to tell of a change: this broker, or one member of each group of the cluster."""
        if broker_address is not None:
            return (broker_address,)
        if cluster is None:
            raise ValueError("cluster or broker_address is needed")
        groups = groups_of(await self.cluster_info(), cluster)
        return tuple(speaker_of(group) for group in groups)

    async def ask_name_server(self, request: Request[HeaderT]) -> Reply[HeaderT]:
        """The first answer of any name server, in their order."""
        failure: ClientError | None = None
        for address in self.name_servers:
            try:
                return await self.ask(address, request)
            except ResponseError:
                raise
            except ClientError as error:
                failure = failure or error
        assert failure is not None, "there is at least one name server"
        raise failure

    async def ask_every_name_server(self, request: Request[HeaderT]) -> tuple[Reply[HeaderT], ...]:
        """The answers of all name servers."""
        return await side_by_side(self.name_servers, lambda address: self.ask(address, request))

    async def ask(
        self, address: str, request: Request[HeaderT], body: bytes = b""
    ) -> Reply[HeaderT]:
        """One question to one server."""
        host, port = parse_address(address)
        async with open_connection(host, port, connect_timeout_s=self.timeout_s) as connection:
            return await connection.call(request, body, timeout_s=self.timeout_s)


def _first_told(told: ValueT | None, known: ValueT) -> ValueT:
    return known if told is None else told
