"""The name server's handlers: registering, routing, entries kept for others, its own settings.

Thin on purpose: they read a request, ask the route table, and write an answer. Time comes from a
clock they are given, so that tests decide it. Whatever was registered through a connection ends
with it.

Source: RocketMQ `namesrv/processor/{DefaultRequestProcessor,ClientRequestProcessor}.java`.
"""

from collections.abc import Callable

import structlog
from attrs import asdict, define, evolve, frozen

from dledger_py.remoting.commands.json_bodies import decode_body, encode_body
from dledger_py.remoting.commands.registrations import crc_of, decode_registration
from dledger_py.remoting.commands.routes import (
    BrokerMemberGroup,
    BrokerMembers,
    ClusterInfo,
    TopicList,
    TopicRoute,
)
from dledger_py.remoting.commands.routing import (
    AddPermReply,
    AddWritePerm,
    BrokerHeartbeat,
    DeleteSetting,
    DeleteTopicRoute,
    GetAllTopicNames,
    GetBrokerMembers,
    GetClusterInfo,
    GetNamesrvConfig,
    GetRoute,
    GetSetting,
    GetSettings,
    GetSystemTopicNames,
    GetTopicsOfCluster,
    PutSetting,
    QueryDataVersion,
    QueryDataVersionReply,
    RegisterBroker,
    RegisterReply,
    RegisterTopicRoute,
    SettingReply,
    UnregisterBroker,
    UpdateNamesrvConfig,
    WipePermReply,
    WipeWritePerm,
)
from dledger_py.remoting.commands.statistics import KeyValueTable
from dledger_py.remoting.commands.topics import DataVersion
from dledger_py.remoting.rooms import Answer, Caller, Connection, Refused, handles
from dledger_py.remoting.wire.codes import ResponseCode
from namesrv.kv import ORDER_TOPIC_CONFIG, EntryRefused, KvTable
from namesrv.records import Gone, Origin, Registration, RegistrationRefused, RoutePolicy
from namesrv.routes import RouteTable
from namesrv.views import in_zone

log = structlog.get_logger()

Clock = Callable[[], int]
"""Milliseconds that never go back."""

SERVICE_WAIT_MS = 45_000
"""How long after the start `need_wait_for_service` refuses routes: one and a half register periods.
"""


@define
class Registering:
    """Brokers that come, stay and go."""

    table: RouteTable
    entries: "Entries"
    clock: Clock

    @handles(RegisterBroker)
    def register(self, request: RegisterBroker, caller: Caller) -> Answer[RegisterReply]:
        body = caller.frame.body
        if request.body_crc32 and crc_of(body) != request.body_crc32:
            raise Refused("crc32 not match")
        registration = Registration(
            cluster=request.cluster_name,
            broker_name=request.broker_name,
            broker_id=request.broker_id,
            address=request.broker_addr,
            ha_server_address=request.ha_server_addr,
            heartbeat_timeout_ms=request.heartbeat_timeout_millis,
            enable_acting_master=request.enable_acting_master,
            zone_name=request.zone_name,
            origin=Origin.of(request.ledger_cluster, request.ledger_folders),
            body=decode_registration(body),
        )
        self._watch(caller.connection)
        try:
            outcome = self.table.register(
                registration, connection=caller.connection.id, now_ms=self.clock()
            )
        except RegistrationRefused as error:
            reason = str(error)
            if caller.connection.attributes.get("refused") != reason:  # once, however often it asks
                log.warning("broker.refused", **_named(request), reason=reason)
            caller.connection.attributes["refused"] = reason
            raise Refused(reason) from error
        caller.connection.attributes.pop("refused", None)
        if not outcome.accepted:
            log.warning("broker.fenced", **_named(request), term=registration.version.state_version)
            return Answer(RegisterReply())
        if outcome.newcomer:
            log.info("broker.registered", **_named(request), topics=len(registration.topics))
        reply = RegisterReply(
            ha_server_addr=outcome.ha_server_address, master_addr=outcome.master_address
        )
        return Answer(reply, body=self._order_topics())

    @handles(UnregisterBroker)
    def unregister(self, request: UnregisterBroker, caller: Caller) -> Answer[None]:
        gone = self.table.unregister(
            cluster=request.cluster_name,
            broker_name=request.broker_name,
            address=request.broker_addr,
        )
        report_gone((gone,) if gone else (), reason="unregistered")
        return Answer()

    @handles(QueryDataVersion)
    def query_data_version(
        self, request: QueryDataVersion, caller: Caller
    ) -> Answer[QueryDataVersionReply]:
        asked = decode_body(DataVersion, caller.frame.body)
        where = {"cluster": request.cluster_name, "address": request.broker_addr}
        known = self.table.data_version(**where)
        self.table.refresh(**where, now_ms=self.clock())
        body = b"" if known is None else encode_body(known)
        return Answer(QueryDataVersionReply(changed=known != asked), body=body)

    @handles(BrokerHeartbeat)
    def heartbeat(self, request: BrokerHeartbeat, caller: Caller) -> Answer[None]:
        self.table.refresh(
            cluster=request.cluster_name, address=request.broker_addr, now_ms=self.clock()
        )
        return Answer()

    @handles(RegisterTopicRoute)
    def register_topic(self, request: RegisterTopicRoute, caller: Caller) -> Answer[None]:
        route = decode_body(TopicRoute, caller.frame.body)
        try:
            self.table.register_topic(request.topic, route.queue_datas)
        except RegistrationRefused as error:
            raise Refused(str(error)) from error
        return Answer()

    def _order_topics(self) -> bytes:
        if not self.table.policy.return_order_topic_config_to_broker:
            return b""
        orders = self.entries.table.namespace(ORDER_TOPIC_CONFIG)
        return b"" if orders is None else encode_body(KeyValueTable(table=orders))

    def _watch(self, connection: Connection) -> None:
        """Once per connection: when it ends, forget whom it spoke for."""
        if connection.attributes.setdefault("brokers", False):
            return
        connection.attributes["brokers"] = True
        number = connection.id

        def forget() -> None:
            report_gone(self.table.forget_connection(number), reason="connection closed")

        connection.on_close(forget)


@define
class Routing:
    """What clients and tools ask."""

    table: RouteTable
    entries: "Entries"
    clock: Clock
    started_ms: int

    @handles(GetRoute)
    def route(self, request: GetRoute, caller: Caller) -> Answer[None]:
        policy = self.table.policy
        if policy.need_wait_for_service and self.clock() < self.started_ms + SERVICE_WAIT_MS:
            raise Refused("name server not ready")
        route = self.table.topic_route(request.topic)
        if route is None:
            raise Refused(
                f"No topic route info in name server for the topic: {request.topic}",
                code=ResponseCode.TOPIC_NOT_EXIST,
            )
        fields = caller.frame.fields
        if fields.get("__ZONE_MODE", "").lower() == "true" and fields.get("__ZONE_NAME"):
            route = in_zone(route, fields["__ZONE_NAME"])
        if policy.order_message_enable:
            order = self.entries.table.get(ORDER_TOPIC_CONFIG, request.topic)
            route = evolve(route, order_topic_conf=order)
        return Answer(body=encode_body(route))

    @handles(GetClusterInfo)
    def cluster_info(self, request: GetClusterInfo, caller: Caller) -> Answer[None]:
        groups = self.table.broker_groups()
        clusters: dict[str, tuple[str, ...]] = {}
        for group in groups:
            clusters[group.cluster] = (*clusters.get(group.cluster, ()), group.broker_name)
        info = ClusterInfo(
            broker_addr_table={group.broker_name: group for group in groups},
            cluster_addr_table=clusters,
        )
        return Answer(body=encode_body(info))

    @handles(GetAllTopicNames)
    def all_topics(self, request: GetAllTopicNames, caller: Caller) -> Answer[None]:
        if not self.table.policy.enable_all_topic_list:
            raise Refused("disable")
        return Answer(body=encode_body(TopicList(topic_list=self.table.topics())))

    @handles(GetTopicsOfCluster)
    def topics_of_cluster(self, request: GetTopicsOfCluster, caller: Caller) -> Answer[None]:
        self._check_topic_list()
        topics = self.table.topics_of_cluster(request.cluster)
        return Answer(body=encode_body(TopicList(topic_list=topics)))

    @handles(GetSystemTopicNames)
    def system_topics(self, request: GetSystemTopicNames, caller: Caller) -> Answer[None]:
        self._check_topic_list()
        names, address = self.table.system_topics()
        return Answer(body=encode_body(TopicList(topic_list=names, broker_addr=address)))

    @handles(GetBrokerMembers)
    def members(self, request: GetBrokerMembers, caller: Caller) -> Answer[None]:
        group = self.table.broker_group(request.broker_name)
        members = BrokerMemberGroup(
            cluster=request.cluster_name,
            broker_name=request.broker_name,
            broker_addrs={} if group is None else group.broker_addrs,
        )
        return Answer(body=encode_body(BrokerMembers(broker_member_group=members)))

    def _check_topic_list(self) -> None:
        if not self.table.policy.enable_topic_list:
            raise Refused("disable")


@define
class Entries:
    """Entries kept for others, by namespace and key."""

    table: KvTable
    save: Callable[[str], None]
    """Makes the table's text durable, or raises OSError; called before the change counts."""

    @handles(PutSetting)
    def put(self, request: PutSetting, caller: Caller) -> Answer[None]:
        changed = self.table.copy()
        try:
            changed.put(request.namespace, request.key, request.value)
        except EntryRefused as error:
            raise Refused(str(error)) from error
        self._replace(changed)
        return Answer()

    @handles(GetSetting)
    def get(self, request: GetSetting, caller: Caller) -> Answer[SettingReply]:
        value = self.table.get(request.namespace, request.key)
        if value is None:
            raise Refused(
                f"No config item, Namespace: {request.namespace} Key: {request.key}",
                code=ResponseCode.QUERY_NOT_FOUND,
            )
        return Answer(SettingReply(value=value))

    @handles(DeleteSetting)
    def delete(self, request: DeleteSetting, caller: Caller) -> Answer[None]:
        changed = self.table.copy()
        changed.delete(request.namespace, request.key)
        self._replace(changed)
        return Answer()

    @handles(GetSettings)
    def list_namespace(self, request: GetSettings, caller: Caller) -> Answer[None]:
        entries = self.table.namespace(request.namespace)
        if entries is None:
            raise Refused(
                f"No config item, Namespace: {request.namespace}",
                code=ResponseCode.QUERY_NOT_FOUND,
            )
        return Answer(body=encode_body(KeyValueTable(table=entries)))

    def _replace(self, changed: KvTable) -> None:
        try:
            self.save(changed.to_text())
        except OSError as error:
            log.warning("entries.save_failed", error=str(error))
            raise Refused(f"the entries could not be saved: {error}") from error
        self.table = changed


@frozen
class Operating:
    """What operators change."""

    table: RouteTable

    @handles(WipeWritePerm)
    def wipe_write_perm(self, request: WipeWritePerm, caller: Caller) -> Answer[WipePermReply]:
        count = self.table.wipe_write_perm(request.broker_name)
        log.info("write_perm.wiped", broker_name=request.broker_name, topics=count)
        return Answer(WipePermReply(wipe_topic_count=count))

    @handles(AddWritePerm)
    def add_write_perm(self, request: AddWritePerm, caller: Caller) -> Answer[AddPermReply]:
        count = self.table.add_write_perm(request.broker_name)
        log.info("write_perm.added", broker_name=request.broker_name, topics=count)
        return Answer(AddPermReply(add_topic_count=count))

    @handles(DeleteTopicRoute)
    def delete_topic(self, request: DeleteTopicRoute, caller: Caller) -> Answer[None]:
        self.table.delete_topic(request.topic, cluster=request.cluster_name or None)
        log.info("topic.deleted", topic=request.topic, cluster=request.cluster_name)
        return Answer()

    @handles(GetNamesrvConfig)
    def config(self, request: GetNamesrvConfig, caller: Caller) -> Answer[None]:
        values = {_camel(name): value for name, value in asdict(self.table.policy).items()}
        lines = [f"{name}={str(value).lower()}\n" for name, value in sorted(values.items())]
        return Answer(body="".join(lines).encode())

    @handles(UpdateNamesrvConfig)
    def update_config(self, request: UpdateNamesrvConfig, caller: Caller) -> Answer[None]:
        known = {_camel(name): name for name in asdict(RoutePolicy())}
        changes: dict[str, bool] = {}
        for line in caller.frame.body.decode(errors="replace").splitlines():
            key, equals, value = line.strip().partition("=")
            if not key or key.startswith("#"):
                continue
            if not equals or key.strip() not in known:
                raise Refused(
                    f"{key.strip()!r} cannot be changed while running",
                    code=ResponseCode.NO_PERMISSION,
                )
            changes[known[key.strip()]] = value.strip().lower() == "true"
        self.table.policy = evolve(self.table.policy, **changes)
        log.info("policy.changed", **changes)
        return Answer()


def report_gone(gone: tuple[Gone, ...], *, reason: str) -> None:
    """One log line per member that was forgotten."""
    for one in gone:
        log.info(
            "broker.forgotten",
            cluster=one.cluster,
            broker_name=one.broker_name,
            address=one.address,
            reason=reason,
        )


def _named(request: RegisterBroker) -> dict[str, object]:
    return {
        "cluster": request.cluster_name,
        "broker_name": request.broker_name,
        "broker_id": request.broker_id,
        "address": request.broker_addr,
    }


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)
