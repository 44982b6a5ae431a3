"""The route table: which broker groups are there, who leads them, and which topics they hold.

Pure: no clock, no I/O; time comes in as `now_ms`. One owner mutates it, between two awaits.

Laws:
- Within a group an address has one id and an id has one address.
- An id can be taken from a live member only by a `DataVersion.state_version` at least as high. Our
  brokers register with state_version = term, hence a deposed leader cannot take id 0 back.
- A refused registration changes nothing, except that who is found to be of another group is
  forgotten. (Java's adds the cluster and an empty group first.)
- A group's name belongs to the group that has a live member under it, as far as members say which
  group they are of (`Origin`); the brokers of RocketMQ do not.
- A topic exists as long as a registered group holds it; a topic missing from a later registration
  stays.
- Whatever was registered through a connection is forgotten with it.

Elsewhere: bytes (`remoting.commands`), entries kept for others (`kv`), request codes (`rooms`), the
clock (`app`).

Source: RocketMQ `namesrv/routeinfo/RouteInfoManager.java`.
"""

from collections.abc import Callable, Iterable, Mapping

from attrs import define, evolve, field

from dledger_py.remoting.commands.routes import BrokerData, QueueData, TopicRoute
from dledger_py.remoting.commands.topics import PERM_READ, PERM_WRITE, DataVersion, TopicConfig
from namesrv.records import (
    MASTER_ID,
    ConnectionId,
    Gone,
    Origin,
    Registered,
    Registration,
    RegistrationRefused,
    RoutePolicy,
    RouteStatistics,
)
from namesrv.views import with_acting_master

DEFAULT_EXPIRY_MS = 120_000
"""A member that says nothing for so long is gone; brokers register every 30 s (Java: the same)."""

MAX_EXPIRY_MS = 3_600_000
"""What a header may ask for; so that a typing error does not keep a dead member for ever."""

GROUPS_MAX = 4096
"""Broker groups of one name server; real installations have tens."""

TOPICS_MAX = 200_000
"""Topics of one name server; Java's stays usable to some 50,000."""

SYNC_MEMBER_GROUP_PREFIX = "rmq_sys_SYNC_BROKER_MEMBER_"
"""Topics by which the members of a group find each other: shown without acting masters."""


@define
class _Group:
    cluster: str
    broker_name: str
    addresses: dict[int, str] = field(factory=dict)
    enable_acting_master: bool = False
    zone_name: str | None = None

    def id_of(self, address: str) -> int | None:
        return next((id_ for id_, held in self.addresses.items() if held == address), None)

    def shown(self) -> BrokerData:
        return BrokerData(
            cluster=self.cluster,
            broker_name=self.broker_name,
            broker_addrs=dict(sorted(self.addresses.items())),
            enable_acting_master=self.enable_acting_master,
            zone_name=self.zone_name,
        )


@define
class _Member:
    """A live address. It may hold no id any more: after another member has taken it."""

    broker_name: str
    heard_ms: int
    expiry_ms: int
    version: DataVersion
    connection: ConnectionId
    ha_server_address: str
    filter_servers: tuple[str, ...]
    origin: Origin | None


_MemberKey = tuple[str, str]  # (cluster, address)


@define
class RouteTable:
    """All that is registered. Not thread-safe: one task owns it."""

    policy: RoutePolicy = RoutePolicy()
    """May be replaced at any time; it decides on what comes next."""
    _groups: dict[str, _Group] = field(factory=dict, init=False)
    _topics: dict[str, dict[str, QueueData]] = field(factory=dict, init=False)
    _members: dict[_MemberKey, _Member] = field(factory=dict, init=False)

    # -- what brokers say ------------------------------------------------------------------------

    def register(
        self, registration: Registration, *, connection: ConnectionId, now_ms: int
    ) -> Registered:
        """Take a registration, or ignore it because a newer one holds the id.

        Raises:
            RegistrationRefused: the name belongs to another group, exactly one topic from an id
                that is not registered (an update that overtook the first full table), or there is
                no room.
        """
        key = (registration.cluster, registration.address)
        if registration.origin is not None:
            self._check_origin(registration, registration.origin, connection)
        group = self._groups.get(registration.broker_name)
        holder = group.addresses.get(registration.broker_id) if group else None
        if group and self._is_fenced(holder, registration):
            self._release_other_ids(group, registration)
            self._members.pop(key, None)
            return Registered(accepted=False)
        self._check_admission(registration, group)
        self._leave_other_group(key, registration.broker_name)
        group = self._groups.setdefault(
            registration.broker_name, _Group(registration.cluster, registration.broker_name)
        )
        self._release_other_ids(group, registration)
        group.enable_acting_master = bool(registration.enable_acting_master)
        group.zone_name = registration.zone_name
        group.addresses[registration.broker_id] = registration.address
        if self._brings_topics(group, registration):
            known = self._members.get(key)
            unchanged = (
                holder == registration.address
                and known is not None
                and known.version == registration.version
            )
            self._take_topics(group, registration, keep_known=unchanged)
        self._members[key] = _Member(
            broker_name=registration.broker_name,
            heard_ms=now_ms,
            expiry_ms=_expiry_ms(registration.heartbeat_timeout_ms),
            version=registration.version,
            connection=connection,
            ha_server_address=registration.ha_server_address,
            filter_servers=registration.body.filter_server_list,
            origin=registration.origin,
        )
        return self._answer(group, registration, newcomer=holder != registration.address)

    def unregister(self, *, cluster: str, broker_name: str, address: str) -> Gone | None:
        """Forget one member by its address; None if it was not known as live."""
        member = self._members.pop((cluster, address), None)
        group = self._groups.get(broker_name)
        if group is not None:
            id_ = group.id_of(address)
            if id_ is not None:
                del group.addresses[id_]
            self._tidy_group(group)
        if member is None:
            return None
        return Gone(
            cluster=cluster, broker_name=broker_name, address=address, connection=member.connection
        )

    def forget_connection(self, connection: ConnectionId) -> tuple[Gone, ...]:
        """A connection ended: everyone it spoke for is gone at once, without waiting for expiry."""
        return self._forget(lambda member: member.connection == connection)

    def expire(self, *, now_ms: int) -> tuple[Gone, ...]:
        """Forget who has been silent for too long; the caller closes their connections."""
        return self._forget(lambda member: now_ms - member.heard_ms > member.expiry_ms)

    def refresh(self, *, cluster: str, address: str, now_ms: int) -> bool:
        """A sign of life without news; False if the member is not known."""
        member = self._members.get((cluster, address))
        if member is None:
            return False
        member.heard_ms = now_ms
        return True

    def data_version(self, *, cluster: str, address: str) -> DataVersion | None:
        """What this member registered last."""
        member = self._members.get((cluster, address))
        return None if member is None else member.version

    # -- what clients ask ------------------------------------------------------------------------

    def topic_route(self, topic: str) -> TopicRoute | None:
        """Queues and brokers of a topic; None unless it has queues on at least one known group."""
        queues = self._topics.get(topic)
        if not queues:
            return None
        brokers = [self._groups[name].shown() for name in sorted(queues) if name in self._groups]
        if not brokers:
            return None
        if self.policy.support_acting_master and not topic.startswith(SYNC_MEMBER_GROUP_PREFIX):
            brokers = [with_acting_master(broker, queues[broker.broker_name]) for broker in brokers]
        return TopicRoute(
            broker_datas=tuple(brokers),
            queue_datas=tuple(queues[name] for name in sorted(queues)),
            filter_server_table=self._filter_servers(brokers),
        )

    def broker_groups(self) -> tuple[BrokerData, ...]:
        return tuple(self._groups[name].shown() for name in sorted(self._groups))

    def broker_group(self, broker_name: str) -> BrokerData | None:
        group = self._groups.get(broker_name)
        return None if group is None else group.shown()

    def topics(self) -> tuple[str, ...]:
        return tuple(self._topics)

    def topics_of_cluster(self, cluster: str) -> tuple[str, ...]:
        names = {group.broker_name for group in self._groups.values() if group.cluster == cluster}
        return tuple(
            topic for topic, queues in self._topics.items() if not names.isdisjoint(queues)
        )

    def system_topics(self) -> tuple[tuple[str, ...], str | None]:
        """Cluster and broker names, topics both; and one live broker to ask for the others."""
        names = dict.fromkeys(group.cluster for group in self._groups.values())
        names.update(dict.fromkeys(sorted(self._groups)))
        addresses = (
            address for group in self._groups.values() for address in group.addresses.values()
        )
        return tuple(names), next(addresses, None)

    def statistics(self) -> RouteStatistics:
        return RouteStatistics(
            clusters=len({group.cluster for group in self._groups.values()}),
            groups=len(self._groups),
            members=len(self._members),
            topics=len(self._topics),
        )

    # -- what operators change -------------------------------------------------------------------

    def wipe_write_perm(self, broker_name: str) -> int:
        """Take the write bit from every topic of a group; how many topics.

        It lasts until the group registers with another data version.
        """
        return self._set_perms(broker_name, lambda perm: perm & ~PERM_WRITE)

    def add_write_perm(self, broker_name: str) -> int:
        """Make every topic of a group readable and writable; how many topics."""
        return self._set_perms(broker_name, lambda perm: PERM_READ | PERM_WRITE)

    def delete_topic(self, topic: str, *, cluster: str | None = None) -> None:
        """Forget a topic: everywhere, or only on the groups of one cluster."""
        if cluster is None:
            self._topics.pop(topic, None)
            return
        names = [group.broker_name for group in self._groups.values() if group.cluster == cluster]
        for name in names:
            self._drop_queues(topic, name)

    def register_topic(self, topic: str, queues: Iterable[QueueData]) -> None:
        """Add queues of a topic on groups that exist; others are left out."""
        known = {queue.broker_name: queue for queue in queues if queue.broker_name in self._groups}
        if known:
            self._check_room_for([topic])
            self._topics.setdefault(topic, {}).update(known)

    # -- registration, step by step --------------------------------------------------------------

    def _check_origin(
        self, registration: Registration, origin: Origin, connection: ConnectionId
    ) -> None:
        """Refuse a broker of another group than has the name. Whoever was registered where this one
        listens is no more."""
        name, me = registration.broker_name, registration.address
        others = {
            address: member.origin
            for (_, address), member in self._members.items()
            if member.broker_name == name and address != me and member.origin is not None
        }
        if any(origin.is_kin(other) for other in others.values()):
            return
        for address, other in others.items():
            if origin.is_strange(other):
                known = self._members.get((registration.cluster, me))
                if known is not None and known.connection == connection:
                    # It came before it knew its folders.
                    self.unregister(cluster=registration.cluster, broker_name=name, address=me)
                raise RegistrationRefused(_taken(name, address, origin, other))
        if not origin.folders:
            self._check_takes_nothing(registration, others)

    def _check_takes_nothing(
        self, registration: Registration, others: Mapping[str, Origin]
    ) -> None:
        """Who does not know its group yet may be of another one, so it takes no place in this."""
        group = self._groups.get(registration.broker_name)
        held = group.addresses.get(registration.broker_id) if group else None
        for address, other in others.items():
            if other.folders and (registration.broker_id == MASTER_ID or address == held):
                raise RegistrationRefused(
                    f"broker name {registration.broker_name!r} is that of {address}, and this"
                    " broker cannot tell yet whether it is of the same group"
                )

    def _is_fenced(self, holder: str | None, registration: Registration) -> bool:
        """Whether the id belongs to another live member with a higher state version."""
        if holder is None or holder == registration.address:
            return False
        incumbent = next(
            (
                member
                for (_, address), member in self._members.items()
                if address == holder and member.broker_name == registration.broker_name
            ),
            None,
        )
        claimed = registration.version.state_version
        return incumbent is not None and incumbent.version.state_version > claimed

    def _check_admission(self, registration: Registration, group: _Group | None) -> None:
        known = group is not None and registration.broker_id in group.addresses
        if not known and len(registration.topics) == 1:
            raise RegistrationRefused("register broker failed")  # the very words of Java's
        if group is None and len(self._groups) >= GROUPS_MAX:
            raise RegistrationRefused(
                f"no room for another broker group: {GROUPS_MAX} are registered"
            )
        self._check_room_for([topic.topic_name for topic in registration.topics])

    def _check_room_for(self, topics: list[str]) -> None:
        if len(self._topics) + len(topics) <= TOPICS_MAX:
            return
        new = sum(1 for topic in set(topics) if topic not in self._topics)
        if len(self._topics) + new > TOPICS_MAX:
            raise RegistrationRefused(f"no room for {new} more topics: at most {TOPICS_MAX}")

    def _leave_other_group(self, key: _MemberKey, broker_name: str) -> None:
        """A broker that was renamed before its old connection was seen to end."""
        member = self._members.get(key)
        if member is not None and member.broker_name != broker_name:
            cluster, address = key
            self.unregister(cluster=cluster, broker_name=member.broker_name, address=address)

    @staticmethod
    def _release_other_ids(group: _Group, registration: Registration) -> None:
        """A member that changes its role keeps its address and changes its id."""
        for id_, address in list(group.addresses.items()):
            if address == registration.address and id_ != registration.broker_id:
                del group.addresses[id_]

    @staticmethod
    def _brings_topics(group: _Group, registration: Registration) -> bool:
        """The master does; a slave only if it has the smallest id and knows of acting."""
        if registration.broker_id == MASTER_ID:
            return True
        return registration.enable_acting_master is not None and registration.broker_id == min(
            group.addresses
        )

    def _take_topics(self, group: _Group, registration: Registration, *, keep_known: bool) -> None:
        name = group.broker_name
        acting = registration.broker_id != MASTER_ID and group.enable_acting_master
        if self.policy.delete_topic_with_broker_registration:
            kept = {topic.topic_name for topic in registration.topics}
            for topic in [
                t for t, queues in self._topics.items() if name in queues and t not in kept
            ]:
                self._drop_queues(topic, name)
        for config in registration.topics:
            queues = self._topics.setdefault(config.topic_name, {})
            if keep_known and name in queues:
                continue
            data = _queue_data(name, config)
            queues[name] = evolve(data, perm=data.perm & ~PERM_WRITE) if acting else data

    def _answer(self, group: _Group, registration: Registration, *, newcomer: bool) -> Registered:
        master = group.addresses.get(MASTER_ID)
        if registration.broker_id == MASTER_ID or master is None:
            return Registered(newcomer=newcomer)
        member = self._members.get((registration.cluster, master))
        if member is None:
            return Registered(newcomer=newcomer)
        return Registered(
            newcomer=newcomer,
            master_address=master,
            ha_server_address=member.ha_server_address,
        )

    # -- forgetting ------------------------------------------------------------------------------

    def _forget(self, is_gone: Callable[[_Member], bool]) -> tuple[Gone, ...]:
        keys = [
            (cluster, member.broker_name, address)
            for (cluster, address), member in self._members.items()
            if is_gone(member)
        ]
        gone = [self.unregister(cluster=c, broker_name=b, address=a) for c, b, a in keys]
        return tuple(one for one in gone if one is not None)

    def _tidy_group(self, group: _Group) -> None:
        if not group.addresses:
            del self._groups[group.broker_name]
            for topic in [t for t, queues in self._topics.items() if group.broker_name in queues]:
                self._drop_queues(topic, group.broker_name)
        elif group.enable_acting_master and MASTER_ID not in group.addresses:
            self.wipe_write_perm(group.broker_name)

    def _drop_queues(self, topic: str, broker_name: str) -> None:
        queues = self._topics.get(topic)
        if queues is None:
            return
        queues.pop(broker_name, None)
        if not queues:
            del self._topics[topic]

    # -- small parts -----------------------------------------------------------------------------

    def _set_perms(self, broker_name: str, change: Callable[[int], int]) -> int:
        changed = 0
        for queues in self._topics.values():
            if broker_name in queues:
                queues[broker_name] = evolve(
                    queues[broker_name], perm=change(queues[broker_name].perm)
                )
                changed += 1
        return changed

    def _filter_servers(self, brokers: Iterable[BrokerData]) -> dict[str, tuple[str, ...]]:
        found = {}
        for broker in brokers:
            for address in broker.broker_addrs.values():
                member = self._members.get((broker.cluster, address))
                if member is not None and member.filter_servers:
                    found[address] = member.filter_servers
        return found


def _taken(name: str, address: str, origin: Origin, other: Origin) -> str:
    if origin.cluster != other.cluster:
        what = f"of cluster_id {other.cluster!r}, not {origin.cluster!r}"
    else:
        what = "which was founded apart from this one's"
    return (
        f"broker name {name!r} is taken by {address}, a member of another group, {what}: give one"
        " of the two another broker_name or other name servers; or stop the other, if this one is"
        " to take its place"
    )


def _queue_data(broker_name: str, config: TopicConfig) -> QueueData:
    return QueueData(
        broker_name=broker_name,
        read_queue_nums=config.read_queue_nums,
        write_queue_nums=config.write_queue_nums,
        perm=config.perm,
        topic_sys_flag=config.topic_sys_flag,
    )


def _expiry_ms(asked_ms: int | None) -> int:
    if asked_ms is None or asked_ms <= 0:
        return DEFAULT_EXPIRY_MS
    return min(asked_ms, MAX_EXPIRY_MS)
