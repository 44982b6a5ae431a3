"""What one member of a broker group, or of several, is told at its start.

`dledger broker --config broker.toml` reads it; `dledger broker --print-config` shows the merged
result with where each value came from. Components get the part they need, never the whole.
"""

from pathlib import Path
from typing import Final

from attrs import Factory, evolve, frozen

from broker.machine.topics import QUEUES_MAX
from dledger_py.ledger.config import LedgerConfig, split_address
from dledger_py.runtime.settings import setting
from dledger_py.runtime.tls import TlsFiles

VIP_PORT_DISTANCE: Final = 2  # RocketMQ's "fast" listener: old clients and dashboards dial port - 2
ANY_ADDRESS: Final = {"", "0.0.0.0", "::", "*"}
MESSAGE_BYTES_LIMIT: Final = 7 * 1024 * 1024  # with its properties it must fit a log entry of 8 MiB
REGISTER_PERIOD_S_MAX: Final = 60  # RocketMQ's
DEDUPLICATION_MESSAGES_MAX: Final = 4_000_000  # 320 MB of memory
TRANSACTION_SETTING_MAX: Final = 7 * 24 * 3_600_000  # a week in ms


@frozen(kw_only=True)
class LedgerSettings:
    """How this member keeps its log and talks to its peers."""

    peers: dict[str, str] = setting(
        Factory(dict), doc="node -> host:port of its peer listener, this node's own included"
    )
    join: bool = setting(
        False,
        doc="this member came after its group was founded, and waits to be added; peers lists it"
        " and any of the others",
    )
    tick_ms: int = setting(20, doc="length of one tick of the consensus core, in ms")
    heartbeat_ms: int = setting(100, doc="pause between two heartbeats of a leader, in ms")
    election_timeout_ms: int = setting(
        1000,
        doc="silence of the leader after which followers campaign, in ms (DLedger: about 6000)",
    )
    lease_reads: bool = setting(
        False,
        doc="let readers pass by the leader's lease, without a round to the others: it rests on"
        " clocks, and elections wait longer (operations.md); the same on all members",
    )
    segment_size_bytes: int = setting(
        64 * 1024 * 1024, doc="size at which a log segment is closed (RocketMQ: 1 GiB)"
    )
    snapshot_every_bytes: int = setting(
        256 * 1024 * 1024,
        doc="growth of the log after which the state is written down: what a start applies at most",
    )
    scrub_max_bytes_per_s: int = setting(
        5 * 1024 * 1024,
        doc="how fast the log is read again in the background, to find rot, in bytes/s; 0: never,"
        " but each start reads all of it",
    )
    fetch_max_bytes_per_s: int = setting(
        32 * 1024 * 1024,
        doc="how fast this member hands its log to members that repair or replace theirs, bytes/s",
    )
    tls_certificate: str = setting(
        "",
        doc="PEM file: this member's certificate, with the node as a DNS entry of its"
        " subjectAltName; with the next two, members speak TLS and prove who they are",
    )
    tls_key: str = setting("", doc="PEM file: its key, not encrypted")
    tls_ca: str = setting("", doc="PEM file: the CA that signs for the members, and nobody else")

    @property
    def tls(self) -> TlsFiles | None:
        """Where this member's certificate is, if it has one. Raises: ValueError."""
        return TlsFiles.of(certificate=self.tls_certificate, key=self.tls_key, ca=self.tls_ca)


@frozen(kw_only=True)
class GroupSettings:
    """One of several groups that this process may have a member of."""

    broker_name: str = setting("", doc="name of the group")
    listen: str = setting("", doc="host:port for clients; its entry in members if left out")
    members: dict[str, str] = setting(Factory(dict), doc="node -> host:port that clients reach")
    preferred_leader: str = setting("", doc="node that leads while it is healthy; any if left out")


@frozen(kw_only=True)
class BrokerConfig:
    """One process: a member of a broker group, or of each of `groups`."""

    cluster_name: str = setting("DefaultCluster", doc="name of the cluster, as clients see it")
    cluster_id: str = setting(
        "dledger",
        doc="identity in peer frames and log files; members of another cluster are refused",
    )
    broker_name: str = setting("broker-a", doc="name of the group: all its members share it")
    node: str = setting("n0", doc="this member: a letter and a number; the broker id is number + 1")
    listen: str = setting("127.0.0.1:10911", doc="host:port for clients; port - 2 answers too")
    vip: bool = setting(True, doc="also listen on port - 2, which old clients and dashboards dial")
    data_dir: Path = setting(Path("data/broker"), doc="folder of the log and the derived files")
    namesrv: tuple[str, ...] = setting(
        ("127.0.0.1:9876",), doc="name servers; each member registers with all of them"
    )
    members: dict[str, str] = setting(
        Factory(dict), doc="node -> host:port that clients reach, this node's own included"
    )
    preferred_leader: str = setting(
        "", doc="node that leads while it is healthy; whoever is elected, if left out"
    )
    groups: tuple[GroupSettings, ...] = setting(
        (),
        doc="several groups in one process: each has a broker_name, members, a folder of that name"
        " in data_dir and the settings above in common; ledger.peers serve them all",
    )
    flush: str = setting(
        "sync",
        doc="sync: acknowledged is on disk at a quorum; async: in memory at a quorum, on disk soon",
    )
    deduplication_messages: int = setting(
        60_000,
        doc="how many of the newest messages are recognised when they are sent again, and answered"
        " instead of stored twice; 80 bytes of memory for each; 0: none",
    )
    deduplication_s: int = setting(
        120, doc="for how long after it was stored a message is recognised, in s; 0: not at all"
    )
    deduplication_not_in: tuple[str, ...] = setting(
        (), doc="topics in which every message that is sent counts as a new one"
    )
    auto_create_topics: bool = setting(True, doc="create a topic when a producer first sends to it")
    trace_topic: bool = setting(
        True,
        doc="have RMQ_SYS_TRACE_TOPIC, to which clients send traces (traceTopicEnable; off there)",
    )
    default_topic_queues: int = setting(8, doc="most queues a topic created on use can get")
    check_message_types: bool = setting(
        False,
        doc="take only the kind of message that a topic's attribute message.type names, NORMAL"
        " without one; such sends take longer (enableTopicMessageTypeCheck of RocketMQ's proxies)",
    )
    mixed_topics: bool = setting(
        False, doc="let message.type be MIXED: any kind of message (enableMixedMessageType)"
    )
    server_side_reset: bool = setting(
        True,
        doc="keep a reset of offsets for consumers to find; else it is sent to those that are"
        " online, as before RocketMQ 5 (useServerSideResetOffset)",
    )
    max_message_bytes: int = setting(4 * 1024 * 1024, doc="largest message body, or batch")
    disk_floor_bytes: int = setting(
        256 * 1024 * 1024,
        doc="free disk below which sends are refused; below half of it this member does not lead"
        " (RocketMQ: 90 % used, whatever that leaves)",
    )
    retention_hours: int = setting(
        72, doc="age from which messages go, in whole log files; 0: never (RocketMQ: 72)"
    )
    retention_bytes: int = setting(
        0, doc="length of the log from which the oldest messages go, whatever their age; 0: none"
    )
    transaction_timeout_ms: int = setting(
        6_000, doc="age at which a producer is asked what became of its transaction, in ms"
    )
    transaction_check_interval_ms: int = setting(
        30_000, doc="pause before it is asked again, in ms; longer after the fifth time"
    )
    transaction_check_max: int = setting(
        15,
        doc="how often it is asked before its message expires to TRANS_CHECK_MAX_TIME_TOPIC",
    )
    transaction_hours_max: int = setting(
        72, doc="age at which a half message expires, however often its producer was asked"
    )
    register_period_s: int = setting(30, doc="pause between two registrations, in s")
    forward_wait_ms: int = setting(
        1500, doc="how long a write that arrives without a leader waits for one, in ms"
    )
    join_wait_ms: int = setting(
        3000,
        doc="how long a member that starts waits to catch up with its group before it answers"
        " clients, in ms; without a majority there is nothing to catch up with",
    )
    log_level: str = setting("info", doc="debug, info, warning or error")
    ledger: LedgerSettings = Factory(LedgerSettings)

    def __attrs_post_init__(self) -> None:
        if self.flush not in {"sync", "async"}:
            raise ValueError(f"flush = {self.flush!r}: it is 'sync' or 'async'")
        if not (self.node[:1].isalpha() and self.node[1:].isdigit()):
            raise ValueError(f"node = {self.node!r}: it is a letter and a number, such as 'n0'")
        if self.ledger.peers and self.node not in self.ledger.peers:
            raise ValueError(f"ledger.peers does not list this node, {self.node!r}")
        if self.groups:
            self._check_groups()
        else:
            self._check_members()
            self.ledger_config()  # for the sake of the errors: they belong to the start
        for name_server in self.namesrv:
            split_address(name_server, of="namesrv")
        for name, value, largest in (
            ("default_topic_queues", self.default_topic_queues, QUEUES_MAX),
            ("max_message_bytes", self.max_message_bytes, MESSAGE_BYTES_LIMIT),
            ("register_period_s", self.register_period_s, REGISTER_PERIOD_S_MAX),
            *(
                (name, getattr(self, name), TRANSACTION_SETTING_MAX)
                for name in (
                    *("transaction_timeout_ms", "transaction_check_interval_ms"),
                    *("transaction_check_max", "transaction_hours_max"),
                )
            ),
        ):
            if not 1 <= value <= largest:
                raise ValueError(f"{name} = {value}: 1 to {largest} are possible")
        if self.deduplication_messages > DEDUPLICATION_MESSAGES_MAX:
            raise ValueError(
                f"deduplication_messages = {self.deduplication_messages}:"
                f" 0 to {DEDUPLICATION_MESSAGES_MAX} are possible"
            )
        for name in (
            *("forward_wait_ms", "join_wait_ms", "disk_floor_bytes"),
            *("retention_hours", "retention_bytes"),
            *("deduplication_messages", "deduplication_s"),
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} = {getattr(self, name)}: 0 or more")
        for name in ("segment_size_bytes", "snapshot_every_bytes"):
            if (size := getattr(self.ledger, name)) < 1:
                raise ValueError(f"ledger.{name} = {size}: 1 or more")

    def _check_members(self) -> None:
        if self.members and self.node not in self.members:
            raise ValueError(f"members does not list this node, {self.node!r}")
        listed = set(self.members) == set(self.ledger.peers) or self.ledger.join
        if self.members and self.ledger.peers and not listed:
            raise ValueError("members and ledger.peers must list the same nodes")
        if len(self.ledger.peers) > 1 and not self.members:
            raise ValueError("members is empty: it must say where clients reach each of the peers")
        split_address(self.listen, of="listen")
        for node, address in self.members.items():
            split_address(address, of=node)
        if split_address(self.advertised, of=self.node)[0] in ANY_ADDRESS:
            raise ValueError(
                f"listen = {self.listen!r} tells clients no address they can dial:"
                f" members must name one for {self.node!r}"
            )
        if self.preferred_leader and self.preferred_leader not in {self.node, *self.members}:
            raise ValueError(
                f"preferred_leader = {self.preferred_leader!r}: it is not among the members"
            )

    def _check_groups(self) -> None:
        if self.members or self.preferred_leader:
            raise ValueError("members and preferred_leader: with groups, each has its own")
        names = set()
        for group in self.groups:
            name = group.broker_name
            if not name or name in {".", ".."} or "/" in name:
                raise ValueError(f"groups: broker_name = {name!r}: it must name a folder")
            if name in names:
                raise ValueError(f"groups: two are named {name!r}")
            names.add(name)
            for node in group.members:
                if node not in self.ledger.peers:
                    raise ValueError(f"group {name!r}: ledger.peers does not list {node!r}")
        if not self.by_group():
            raise ValueError(f"groups: none has this node, {self.node!r}, among its members")
        taken: dict[tuple[str, int], str] = {}
        for config in self.by_group():
            for address in config.listen_addresses():
                other = taken.setdefault(address, config.broker_name)
                if other != config.broker_name:
                    raise ValueError(
                        f"groups {other!r} and {config.broker_name!r} both want port {address[1]};"
                        " each has its own and, with vip, the one two below it"
                    )

    def by_group(self) -> tuple["BrokerConfig", ...]:
        """The settings of each group that has this node among its members; without `groups`, just
        these."""
        if not self.groups:
            return (self,)
        return tuple(self._of(group) for group in self.groups if self.node in group.members)

    def _of(self, group: GroupSettings) -> "BrokerConfig":
        peers = self.ledger.peers
        try:
            return evolve(
                self,
                groups=(),
                broker_name=group.broker_name,
                listen=group.listen or group.members[self.node],
                members=group.members,
                preferred_leader=group.preferred_leader,
                data_dir=self.data_dir / group.broker_name,
                ledger=evolve(self.ledger, peers={node: peers[node] for node in group.members}),
            )
        except ValueError as error:
            raise ValueError(f"group {group.broker_name!r}: {error}") from error

    @property
    def advertised(self) -> str:
        """The host:port by which clients and the other members reach this one."""
        return self.members.get(self.node, self.listen)

    def listen_addresses(self) -> tuple[tuple[str, int], ...]:
        """Where to listen: the port itself and, unless switched off, the one two below it."""
        host, port = split_address(self.listen, of="listen")
        if not self.vip or port <= VIP_PORT_DISTANCE:
            return ((host, port),)
        return (host, port), (host, port - VIP_PORT_DISTANCE)

    def as_text(self, *, leads: bool = False) -> dict[str, str]:
        """The settings under the names RocketMQ's tools look for; a member that leads is the
        broker with id 0, as name servers have it."""
        return {
            "brokerClusterName": self.cluster_name,
            "brokerName": self.broker_name,
            "brokerId": "0" if leads else str(self.broker_id),
            "brokerRole": "SYNC_MASTER" if leads else "SLAVE",
            "namesrvAddr": ";".join(self.namesrv),
            "listenPort": self.listen.rpartition(":")[2],
            "storePathRootDir": str(self.data_dir),
            "autoCreateTopicEnable": str(self.auto_create_topics).lower(),
            "traceTopicEnable": str(self.trace_topic).lower(),
            "enableTopicMessageTypeCheck": str(self.check_message_types).lower(),
            "enableMixedMessageType": str(self.mixed_topics).lower(),
            "useServerSideResetOffset": str(self.server_side_reset).lower(),
            "defaultTopicQueueNums": str(self.default_topic_queues),
            "maxMessageSize": str(self.max_message_bytes),
            "fileReservedTime": str(self.retention_hours),
            "flushDiskType": "SYNC_FLUSH" if self.flush == "sync" else "ASYNC_FLUSH",
            "enableDLegerCommitLog": "true",
            "dLegerGroup": self.broker_name,
            "dLegerSelfId": self.node,
            "preferredLeaderId": self.preferred_leader,
            "transactionTimeOut": str(self.transaction_timeout_ms),
            "transactionCheckInterval": str(self.transaction_check_interval_ms),
            "transactionCheckMax": str(self.transaction_check_max),
        }

    def ledger_config(self) -> LedgerConfig:
        """What the ledger is told of it."""
        return LedgerConfig(
            node=self.node,
            # A member that is alone needs no address for peers.
            peers=self.ledger.peers or {self.node: "127.0.0.1:0"},
            join=self.ledger.join,
            contact=self.advertised,
            data_dir=str(self.data_dir),
            cluster=self.cluster_id,
            group=self.broker_name,
            flush="sync" if self.flush == "sync" else "async",
            tick_ms=self.ledger.tick_ms,
            heartbeat_ms=self.ledger.heartbeat_ms,
            election_timeout_ms=self.ledger.election_timeout_ms,
            segment_size_bytes=self.ledger.segment_size_bytes,
            snapshot_every_bytes=self.ledger.snapshot_every_bytes,
            lease_reads=self.ledger.lease_reads,
            fetch_max_bytes_per_s=self.ledger.fetch_max_bytes_per_s,
            tls_certificate=self.ledger.tls_certificate,
            tls_key=self.ledger.tls_key,
            tls_ca=self.ledger.tls_ca,
            scrub_max_bytes_per_s=self.ledger.scrub_max_bytes_per_s,
        )

    @property
    def deduplicates(self) -> bool:
        """Whether messages are recognised when they are sent again."""
        return bool(self.deduplication_messages and self.deduplication_s)

    @property
    def broker_id(self) -> int:
        """The id this member registers while it follows; the leader registers 0."""
        return int(self.node[1:]) + 1
