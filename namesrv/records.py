"""What the name server knows and is told: brokers' registrations, topics, routes.

Pure values. The names follow RocketMQ's (`QueueData`, `BrokerData`, `DataVersion`), because every
client's source uses them. How they look as bytes is in `bodies`; what a registration changes is in
`routes`.
"""

from collections.abc import Mapping

from attrs import field, frozen

MASTER_ID = 0
"""The broker id of the one writable member of a broker group; ours is the leader of the Raft group.
"""

PERM_READ = 4
PERM_WRITE = 2

ConnectionId = int


@frozen(kw_only=True)
class DataVersion:
    """How fresh a broker's topic table is: equal only if all three are.

    `state_version` is the leadership term in consensus groups, which is what fences a deposed
    leader.
    """

    state_version: int = 0
    timestamp: int = 0
    counter: int = 0


@frozen(kw_only=True)
class TopicConfig:
    """One topic as a broker registers it; only what a route needs of it."""

    name: str
    read_queue_nums: int
    write_queue_nums: int
    perm: int
    topic_sys_flag: int = 0


@frozen(kw_only=True)
class QueueData:
    """The queues of one topic on one broker group."""

    broker_name: str
    read_queue_nums: int
    write_queue_nums: int
    perm: int
    topic_sys_flag: int = 0

    @property
    def writable(self) -> bool:
        return bool(self.perm & PERM_WRITE)


@frozen(kw_only=True)
class BrokerData:
    """One broker group: the members that are registered now, by broker id."""

    cluster: str
    broker_name: str
    addresses: Mapping[int, str]
    enable_acting_master: bool = False
    zone_name: str | None = None


@frozen(kw_only=True)
class TopicRoute:
    """What a client learns about one topic."""

    queues: tuple[QueueData, ...]
    brokers: tuple[BrokerData, ...]
    filter_servers: Mapping[str, tuple[str, ...]] = field(factory=dict)
    order_topic_conf: str | None = None


@frozen(kw_only=True)
class RegisterBody:
    """The body of a registration, whatever form it came in."""

    version: DataVersion = DataVersion()
    topics: tuple[TopicConfig, ...] = ()
    filter_servers: tuple[str, ...] = ()


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
    """None is an old broker, which knows nothing of acting masters: its slaves never bring topics.
    """
    zone_name: str | None = None
    body: RegisterBody = RegisterBody()


@frozen(kw_only=True)
class Registered:
    """The answer to a registration that was accepted or fenced (`accepted` false: nothing changed)."""

    accepted: bool = True
    newcomer: bool = False
    """This id was not held by this address before: worth a line in the log."""
    master_address: str | None = None
    ha_server_address: str | None = None


class RegistrationRefused(Exception):
    """Refused: the registration changed nothing."""
