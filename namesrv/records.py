"""What the route table is told and what it answers; pure values.

What travels as it is (topics, queues, routes, versions) is in `remoting.commands`.
"""

from typing import Final

from attrs import field, frozen

from dledger_py.remoting.commands.registrations import RegisterBody
from dledger_py.remoting.commands.topics import DataVersion, TopicConfig

MASTER_ID: Final = 0
"""The broker id of a group's one writable member; ours is the leader of the Raft group."""

ConnectionId = int


@frozen(kw_only=True)
class Origin:
    """Which group of ours a member is of: names alone do not tell, as two foundings may share them.

    The members of a group need not know the same folders: one may be behind. Folders are replaced
    one at a time, so what any two of them know overlaps.
    """

    cluster: str
    """`cluster_id`, which all members share."""
    folders: frozenset[str] = frozenset()
    """The births of the members' data folders; none as long as the member does not know them."""

    @classmethod
    def of(cls, cluster: str | None, folders: str) -> "Origin | None":
        """From the fields of a registration; None for RocketMQ's brokers, and older ones."""
        if cluster is None:
            return None
        return cls(cluster=cluster, folders=frozenset(filter(None, folders.split(","))))

    def is_kin(self, other: "Origin") -> bool:
        """Whether the two are certainly of one group."""
        return self.cluster == other.cluster and not self.folders.isdisjoint(other.folders)

    def is_strange(self, other: "Origin") -> bool:
        """Whether they certainly are not."""
        if self.cluster != other.cluster:
            return True
        return bool(self.folders and other.folders) and self.folders.isdisjoint(other.folders)


@frozen(kw_only=True)
class Registration:
    """One member of a broker group says: I am here, as this id, with these topics."""

    cluster: str
    broker_name: str
    broker_id: int
    address: str
    ha_server_address: str = ""
    heartbeat_timeout_ms: int | None = None
    enable_acting_master: bool | None = None
    """None is an old broker, which knows nothing of acting masters: its slaves bring no topics."""
    zone_name: str | None = None
    origin: Origin | None = None
    body: RegisterBody = RegisterBody()

    @property
    def version(self) -> DataVersion:
        return self.body.topic_config_serialize_wrapper.data_version

    @property
    def topics(self) -> tuple[TopicConfig, ...]:
        return tuple(self.body.topic_config_serialize_wrapper.topic_config_table.values())


@frozen(kw_only=True)
class Registered:
    """The answer to a registration; not `accepted`: a newer one holds the id, and keeps it."""

    accepted: bool = True
    newcomer: bool = False
    """This id was not held by this address before: worth a line in the log."""
    master_address: str | None = None
    ha_server_address: str | None = None


class RegistrationRefused(Exception):
    """Refused: the registration changed nothing."""


def _option(default: bool, doc: str) -> bool:
    # What attrs' own stubs claim of `field`: the class body holds the value. `doc` is shown by
    # --print-config.
    return field(default=default, metadata={"doc": doc})


@frozen(kw_only=True)
class RoutePolicy:
    """RocketMQ's optional behaviours, with its defaults; UPDATE_NAMESRV_CONFIG changes them."""

    support_acting_master: bool = _option(
        False, "show the smallest slave of a group without master as its master, for reading"
    )
    delete_topic_with_broker_registration: bool = _option(
        False, "forget a group's topics that are missing from its next registration"
    )
    order_message_enable: bool = _option(False, "put ORDER_TOPIC_CONFIG entries into routes")
    return_order_topic_config_to_broker: bool = _option(
        True, "answer registrations with ORDER_TOPIC_CONFIG entries"
    )
    enable_topic_list: bool = _option(True, "list the topics of a cluster, and system topics")
    enable_all_topic_list: bool = _option(True, "list all topics")
    need_wait_for_service: bool = _option(
        False, "refuse routes for 45 s after the start, while brokers have yet to register"
    )


@frozen(kw_only=True)
class Gone:
    """A member that was forgotten, and the connection that spoke for it."""

    cluster: str
    broker_name: str
    address: str
    connection: ConnectionId


@frozen(kw_only=True)
class RouteStatistics:
    clusters: int
    groups: int
    members: int
    topics: int
