"""What name servers are asked and told."""

from attrs import frozen

from dledger_py.remoting.wire.codes import RequestCode
from dledger_py.remoting.wire.schema import Int32, Reply, Request, wire


@frozen(kw_only=True)
class GetRoute(Request[None]):
    """Who serves a topic; body: `routes.TopicRoute`. Code 105."""

    code = RequestCode.GET_ROUTEINFO_BY_TOPIC
    topic: str
    accept_standard_json_only: bool = False


@frozen(kw_only=True)
class GetClusterInfo(Request[None]):
    """All brokers; body: `routes.ClusterInfo`. Code 106."""

    code = RequestCode.GET_BROKER_CLUSTER_INFO


@frozen(kw_only=True)
class GetAllTopicNames(Request[None]):
    """All topics, retry, dead-letter and system topics too; body: `routes.TopicList`. Code 206."""

    code = RequestCode.GET_ALL_TOPIC_LIST_FROM_NAMESERVER


@frozen(kw_only=True)
class GetTopicsOfCluster(Request[None]):
    """The topics of one cluster; body: `routes.TopicList`. Code 224."""

    code = RequestCode.GET_TOPICS_BY_CLUSTER
    cluster: str


@frozen(kw_only=True)
class GetSystemTopicNames(Request[None]):
    """Cluster and broker names, which are topics too; body: `routes.TopicList`. Code 304."""

    code = RequestCode.GET_SYSTEM_TOPIC_LIST_FROM_NS


@frozen(kw_only=True)
class GetBrokerMembers(Request[None]):
    """The members of one broker group; body: `routes.BrokerMembers`. Code 901."""

    code = RequestCode.GET_BROKER_MEMBER_GROUP
    cluster_name: str
    broker_name: str


# --- settings kept by name servers ---------------------------------------------------------------


@frozen(kw_only=True)
class PutSetting(Request[None]):
    """Keep a value under namespace and key. Code 100."""

    code = RequestCode.PUT_KV_CONFIG
    namespace: str
    key: str
    value: str


@frozen(kw_only=True)
class SettingReply(Reply):
    value: str | None = None


@frozen(kw_only=True)
class GetSetting(Request[SettingReply]):
    """Read what is kept under namespace and key. Code 101."""

    code = RequestCode.GET_KV_CONFIG
    namespace: str
    key: str


@frozen(kw_only=True)
class DeleteSetting(Request[None]):
    """Forget what is kept under namespace and key. Code 102."""

    code = RequestCode.DELETE_KV_CONFIG
    namespace: str
    key: str


@frozen(kw_only=True)
class GetSettings(Request[None]):
    """All of a namespace; body: `statistics.KeyValueTable`. Code 219."""

    code = RequestCode.GET_KVLIST_BY_NAMESPACE
    namespace: str


@frozen(kw_only=True)
class UpdateNamesrvConfig(Request[None]):
    """Change the name server's own settings; body: properties text. Code 318."""

    code = RequestCode.UPDATE_NAMESRV_CONFIG


@frozen(kw_only=True)
class GetNamesrvConfig(Request[None]):
    """The name server's own settings; body: properties text. Code 319."""

    code = RequestCode.GET_NAMESRV_CONFIG


# --- brokers coming and going --------------------------------------------------------------------


@frozen(kw_only=True)
class RegisterReply(Reply):
    """For a slave whose master is registered; body: ORDER_TOPIC_CONFIG as KeyValueTable, if any."""

    ha_server_addr: str | None = None
    master_addr: str | None = None


@frozen(kw_only=True)
class RegisterBroker(Request[RegisterReply]):
    """A broker and its topics; body: see `registrations`. Code 103."""

    code = RequestCode.REGISTER_BROKER
    broker_name: str
    broker_addr: str
    cluster_name: str
    broker_id: int
    ha_server_addr: str = ""
    heartbeat_timeout_millis: int | None = None
    enable_acting_master: bool | None = None
    compressed: bool = False
    body_crc32: Int32 = 0  # 0: not checked
    zone_name: str | None = wire("__ZONE_NAME", default=None)
    # Ours alone; RocketMQ's name servers pass over fields that they do not know.
    ledger_cluster: str | None = None
    ledger_folders: str = ""  # hexadecimal, with commas


@frozen(kw_only=True)
class UnregisterBroker(Request[None]):
    """A broker leaves. Code 104."""

    code = RequestCode.UNREGISTER_BROKER
    broker_name: str
    broker_addr: str
    cluster_name: str
    broker_id: int


@frozen(kw_only=True)
class QueryDataVersionReply(Reply):
    changed: bool


@frozen(kw_only=True)
class QueryDataVersion(Request[QueryDataVersionReply]):
    """Do you know this edition of my topics? Body both ways: `topics.DataVersion`. Code 322."""

    code = RequestCode.QUERY_DATA_VERSION
    broker_name: str
    broker_addr: str
    cluster_name: str
    broker_id: int


@frozen(kw_only=True)
class BrokerHeartbeat(Request[None]):
    """A registered broker is still alive. Code 904. (The misspelt name is the protocol's.)"""

    code = RequestCode.BROKER_HEARTBEAT
    cluster_name: str
    broker_addr: str
    broker_name: str
    broker_id: int | None = None
    epoch: Int32 | None = None
    max_offset: int | None = None
    confirm_offset: int | None = None
    heartbeat_timeout_mills: int | None = None
    election_priority: Int32 | None = None


@frozen(kw_only=True)
class WipePermReply(Reply):
    wipe_topic_count: Int32


@frozen(kw_only=True)
class WipeWritePerm(Request[WipePermReply]):
    """Route no more sends to a broker. Code 205."""

    code = RequestCode.WIPE_WRITE_PERM_OF_BROKER
    broker_name: str


@frozen(kw_only=True)
class AddPermReply(Reply):
    add_topic_count: Int32


@frozen(kw_only=True)
class AddWritePerm(Request[AddPermReply]):
    """Route sends to a broker again. Code 327."""

    code = RequestCode.ADD_WRITE_PERM_OF_BROKER
    broker_name: str


@frozen(kw_only=True)
class DeleteTopicRoute(Request[None]):
    """Forget a topic, everywhere or in one cluster. Code 216."""

    code = RequestCode.DELETE_TOPIC_IN_NAMESRV
    topic: str
    cluster_name: str | None = None


@frozen(kw_only=True)
class RegisterTopicRoute(Request[None]):
    """Add queues of a topic; body: `routes.TopicRoute`, of which queue_datas count. Code 217."""

    code = RequestCode.REGISTER_TOPIC_IN_NAMESRV
    topic: str
