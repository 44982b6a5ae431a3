"""Who is connected: producers and consumers, as their heartbeats describe them.

Clients beat every member of the group each 30 seconds, so every member knows them all, and a new
leader need not be told. A client leaves when it says so, when its connection ends (Go's clients
never say so), or when it has been silent for two minutes.

A consumer group is what its members last said: members with different subscriptions overwrite each
other's at each heartbeat, which is the users' mistake and nobody's crash.

Source: protocol page 07 (§1, 2); ConsumerManager.java, ProducerManager.java.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from attrs import define, field

from dledger_py.remoting.commands.heartbeats import (
    ConsumeFromWhere,
    ConsumerData,
    ConsumeType,
    HeartbeatData,
    MessageModel,
    SubscriptionData,
)
from dledger_py.remoting.rooms import Connection

SILENCE_MS: Final = 120_000  # Java's; clients beat four times in it
CLIENTS_MAX: Final = (
    100_000  # per member: bounds what heartbeats with invented ids can make us keep
)
SUBSCRIPTIONS_MAX: Final = 1_000  # topics per group


@define(eq=False)
class Client:
    """One client, as its last heartbeat described it; `beat_ms` is on a monotonic clock."""

    client_id: str
    connection: Connection
    language: str
    version: int
    beat_ms: int

    @property
    def address(self) -> str:
        """host:port, for operators."""
        host, port = self.connection.remote[:2]
        return f"{host}:{port}"


@define(eq=False)
class ConsumerGroup:
    """The consumers of one group, and what the last of them said about it."""

    name: str
    consume_type: ConsumeType = ConsumeType.CONSUME_PASSIVELY
    message_model: MessageModel = MessageModel.CLUSTERING
    consume_from_where: ConsumeFromWhere = ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET
    clients: dict[str, Client] = field(factory=dict)
    subscriptions: dict[str, SubscriptionData] = field(factory=dict)
    pulled: dict[tuple[str, int], int] = field(factory=dict)
    """(topic, queue id) → the offset after the last message handed out."""


@define(eq=False)
class ClientTable:
    """All clients of this member."""

    _consumers: dict[str, ConsumerGroup] = field(factory=dict)
    _producers: dict[str, dict[str, Client]] = field(factory=dict)
    _producing: dict[str, dict[str, Client]] = field(factory=dict)
    """The same by client id and group: replies are addressed to client ids."""
    _clients: int = 0

    # --- heartbeats ----------------------------------------------------------------------------

    def beat(
        self, heartbeat: HeartbeatData, client: Client, now_ms: int
    ) -> tuple[ConsumerGroup, ...]:
        """Take a heartbeat in; the groups whose members or subscriptions it changed.

        Beyond `CLIENTS_MAX` newcomers are ignored.
        """
        changed = []
        for data in heartbeat.consumer_data_set:
            group = self._consumers.get(data.group_name) or ConsumerGroup(data.group_name)
            known, admitted = self._join(group.clients, client, now_ms)
            if not admitted:
                continue
            self._consumers[data.group_name] = group
            if self._describe(group, data) or not known:
                changed.append(group)
        self._take_producers(heartbeat, client, now_ms)
        return tuple(changed)

    def refresh(self, heartbeat: HeartbeatData, client: Client, now_ms: int) -> bool:
        """Take a beat in that leaves out subscriptions; False if a full one is needed first."""
        complete = True
        for data in heartbeat.consumer_data_set:
            known = self._consumers.get(data.group_name)
            member = known.clients.get(client.client_id) if known else None
            if member is None or member.connection is not client.connection:
                complete = False
            else:
                member.beat_ms = now_ms
        self._take_producers(heartbeat, client, now_ms)
        return complete

    def _take_producers(self, heartbeat: HeartbeatData, client: Client, now_ms: int) -> None:
        for producer in heartbeat.producer_data_set:
            clients = self._producers.get(producer.group_name, {})
            if self._join(clients, client, now_ms)[1]:
                self._producers[producer.group_name] = clients
                joined = clients[client.client_id]
                self._producing.setdefault(client.client_id, {})[producer.group_name] = joined

    def _join(self, clients: dict[str, Client], client: Client, now_ms: int) -> tuple[bool, bool]:
        """Whether the client was there by this connection before, and whether it is now."""
        known = clients.get(client.client_id)
        if known is not None and known.connection is client.connection:
            known.beat_ms = now_ms
            return True, True
        if known is None:
            if self._clients >= CLIENTS_MAX:
                return False, False
            self._clients += 1
        clients[client.client_id] = client
        return False, True

    @staticmethod
    def _describe(group: ConsumerGroup, data: ConsumerData) -> bool:
        """Let the heartbeat describe its group; whether its topics or filters are others now."""
        group.consume_type = data.consume_type
        group.message_model = data.message_model
        group.consume_from_where = data.consume_from_where
        before = group.subscriptions
        group.subscriptions = {
            item.topic: _newer(before.get(item.topic), item)
            for item in data.subscription_data_set[:SUBSCRIPTIONS_MAX]
        }
        return _filters(group.subscriptions) != _filters(before)

    # --- leaving -------------------------------------------------------------------------------

    def unregister(
        self, client_id: str, consumer_group: str | None, producer_group: str | None
    ) -> tuple[ConsumerGroup, ...]:
        """A client leaves these groups; the consumer groups it really left."""
        if producer_group:
            self._leave(producer_group, client_id)
        group = self._consumers.get(consumer_group or "")
        if group is None or group.clients.pop(client_id, None) is None:
            return ()
        self._clients -= 1
        self._forget_if_empty(group)
        return (group,)

    def connection_closed(self, connection: Connection) -> tuple[ConsumerGroup, ...]:
        """Everybody behind this connection leaves; the consumer groups they left."""
        return self._remove(lambda client: client.connection is connection)

    def expire(self, now_ms: int) -> tuple[ConsumerGroup, ...]:
        """Who has been silent too long leaves; the consumer groups they left."""
        return self._remove(lambda client: now_ms - client.beat_ms > SILENCE_MS)

    def _remove(self, leaves: Callable[["Client"], bool]) -> tuple[ConsumerGroup, ...]:
        left = []
        for group in tuple(self._consumers.values()):
            gone = [client.client_id for client in group.clients.values() if leaves(client)]
            for client_id in gone:
                del group.clients[client_id]
            if gone:
                self._clients -= len(gone)
                self._forget_if_empty(group)
                left.append(group)
        for name, clients in tuple(self._producers.items()):
            for client in [client for client in clients.values() if leaves(client)]:
                self._leave(name, client.client_id)
        return tuple(left)

    def _leave(self, producer_group: str, client_id: str) -> None:
        clients = self._producers.get(producer_group)
        if clients is not None and clients.pop(client_id, None) is not None:
            self._clients -= 1
            if not clients:
                del self._producers[producer_group]
            groups = self._producing[client_id]
            del groups[producer_group]
            if not groups:
                del self._producing[client_id]

    def _forget_if_empty(self, group: ConsumerGroup) -> None:
        if not group.clients:
            self._consumers.pop(group.name, None)

    # --- questions -----------------------------------------------------------------------------

    def consumer_group(self, name: str) -> ConsumerGroup | None:
        """The group, if any of its consumers is connected."""
        return self._consumers.get(name)

    def producers(self, group: str) -> tuple[Client, ...]:
        """The connected producers of a group."""
        return tuple(self._producers.get(group, {}).values())

    def producer(self, client_id: str) -> Client | None:
        """The connected producer of this id, in whatever group; if several, the one heard last."""
        clients = self._producing.get(client_id)
        return max(clients.values(), key=lambda client: client.beat_ms) if clients else None

    def producer_groups(self) -> Mapping[str, Mapping[str, Client]]:
        """Every producer group with its connected clients, by client id."""
        return self._producers

    def consumer_groups(self) -> Iterator[ConsumerGroup]:
        """All groups with a connected consumer."""
        return iter(self._consumers.values())

    def consumer_groups_of(self, topic: str) -> Iterable[str]:
        """The groups whose connected consumers subscribe to the topic."""
        return [g.name for g in self._consumers.values() if topic in g.subscriptions]

    def pulled(self, group: str, topic: str, queue_id: int, following: int) -> None:
        """Remember how far messages were handed out, for the operators' progress tables."""
        found = self._consumers.get(group)
        if found is not None:
            found.pulled[topic, queue_id] = following


def _newer(old: SubscriptionData | None, new: SubscriptionData) -> SubscriptionData:
    return old if old is not None and old.sub_version >= new.sub_version else new


def _filters(subscriptions: dict[str, SubscriptionData]) -> dict[str, tuple[str, str]]:
    """What would make consumers read something else."""
    return {topic: (s.sub_string, s.expression_type) for topic, s in subscriptions.items()}
