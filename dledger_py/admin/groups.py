"""Consumer groups and producers: their settings, who they are, where they go on.

A group is one thing of each broker group, so settings are asked of all of them, and changed on all
unless a cluster is named. What changes settings keeps those that it does not name.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import evolve, frozen

from dledger_py.admin.admin import Admin
from dledger_py.admin.asking import decoded, groups_of, leader_of, side_by_side, speaker_of
from dledger_py.admin.records import UnknownName
from dledger_py.client.errors import NoRoute, ResponseError
from dledger_py.remoting.commands.groups import CreateGroup, DeleteGroup, GetGroup, GroupConfig
from dledger_py.remoting.commands.json_bodies import MalformedBody, encode_body, parse
from dledger_py.remoting.commands.operations import (
    GetAllProducers,
    GetConsumerConnections,
    GetProducerConnections,
)
from dledger_py.remoting.commands.relays import GetConsumerRunningInfo
from dledger_py.remoting.commands.resets import CloneOffsets, OffsetsByQueue, ResetOffsets
from dledger_py.remoting.commands.routes import BrokerData
from dledger_py.remoting.commands.statistics import (
    ClientConnection,
    ConsumerConnections,
    ProducerConnections,
    ProducerInfo,
    ProducerTable,
)
from dledger_py.remoting.commands.topics import DeleteTopic
from dledger_py.remoting.wire.codes import ResponseCode

ANSWER_OF_A_CLIENT_S = 12.0
"""A broker waits ten seconds for a client that it asks."""

NO_OFFSET = -1
THE_END_MS = -1


@frozen(kw_only=True)
class GroupSettings:
    """A group as one broker group has it."""

    broker_name: str
    config: GroupConfig


@frozen(kw_only=True)
class ResetTo:
    """Where a group goes on in one queue."""

    broker_name: str
    queue_id: int
    offset: int


async def settings(
    admin: Admin, group: str, *, cluster: str | None = None
) -> tuple[GroupSettings, ...]:
    """The group's settings on each broker group that knows it. **Raises** UnknownName if none."""
    brokers = groups_of(await admin.cluster_info(), cluster)

    async def ask(broker: BrokerData) -> GroupSettings | None:
        config = await _settings_at(admin, speaker_of(broker), group)
        if config is None:
            return None
        return GroupSettings(broker_name=broker.broker_name, config=config)

    found = tuple(each for each in await side_by_side(brokers, ask) if each is not None)
    if not found:
        raise UnknownName(f"no broker knows consumer group {group!r}")
    return found


async def update(
    admin: Admin,
    group: str,
    changes: Mapping[str, Any],
    *,
    cluster: str | None = None,
    broker_address: str | None = None,
) -> tuple[str, ...]:
    """Make a group or change it, on one broker or on a cluster's leaders; which ones did.

    *changes* are fields of `GroupConfig`; the others stay as they are, or get RocketMQ's defaults.
    """
    addresses = await admin.masters(cluster, broker_address)

    async def tell(address: str) -> None:
        config = await _settings_at(admin, address, group) or GroupConfig(group_name=group)
        await admin.ask(address, CreateGroup(), encode_body(evolve(config, **changes)))

    await side_by_side(addresses, tell)
    return addresses


async def delete(
    admin: Admin,
    group: str,
    *,
    clean: bool = False,
    cluster: str | None = None,
    broker_address: str | None = None,
) -> tuple[str, ...]:
    """Remove a group; with *clean* also its offsets, its retry topic and its dead letters."""
    request = DeleteGroup(group_name=group, clean_offset=clean)
    addresses = await admin.tell_masters(request, cluster, broker_address)
    for prefix in ("%RETRY%", "%DLQ%") if clean else ():
        if cluster is not None:
            await admin.delete_topic(prefix + group, cluster=cluster)
        else:
            await admin.tell_masters(DeleteTopic(topic=prefix + group), None, broker_address)
    return addresses


async def consumers(admin: Admin, group: str, *, cluster: str | None = None) -> ConsumerConnections:
    """The group's consumers that are online, and what they subscribe to; each once, though it is
    connected to several brokers. **Raises** UnknownName if nobody is."""
    brokers = groups_of(await admin.cluster_info(), cluster)

    async def ask(broker: BrokerData) -> ConsumerConnections | None:
        address = speaker_of(broker)
        try:
            reply = await admin.ask(address, GetConsumerConnections(consumer_group=group))
        except ResponseError as error:
            if error.code == ResponseCode.CONSUMER_NOT_ONLINE:
                return None
            raise
        return decoded(ConsumerConnections, reply.body, address)

    found = [each for each in await side_by_side(brokers, ask) if each is not None]
    if not found:
        raise UnknownName(f"no consumer of group {group!r} is online")
    clients = {client.client_id: client for each in found for client in each.connection_set}
    return evolve(found[0], connection_set=tuple(clients.values()))


async def running(admin: Admin, group: str, client_id: str, *, stacks: bool = False) -> Any:
    """What a consumer says it is doing, as its language spells it in JSON; a broker hands the
    question on. **Raises** UnknownName, or ResponseError if it does not answer."""
    patient = evolve(admin, timeout_s=max(admin.timeout_s, ANSWER_OF_A_CLIENT_S))
    request = GetConsumerRunningInfo(
        consumer_group=group, client_id=client_id, jstack_enable=stacks
    )
    for broker in groups_of(await admin.cluster_info(), None):
        try:
            reply = await patient.ask(speaker_of(broker), request)
        except ResponseError as error:
            if error.code == ResponseCode.SYSTEM_ERROR:  # not connected to this one
                continue
            raise
        try:
            return parse(reply.body)
        except MalformedBody:  # a dialect nobody has met yet: better than nothing
            return reply.body.decode(errors="replace")
    raise UnknownName(f"no client {client_id!r} of group {group!r} is online")


async def producers_of(admin: Admin, group: str, topic: str) -> tuple[ClientConnection, ...]:
    """The producers of a group that are connected to a broker of the topic."""
    addresses = [speaker_of(each) for each in (await admin.topic_route(topic)).broker_datas]

    async def ask(address: str) -> ProducerConnections:
        try:
            reply = await admin.ask(address, GetProducerConnections(producer_group=group))
        except ResponseError as error:
            if error.code == ResponseCode.SYSTEM_ERROR:
                return ProducerConnections()
            raise
        return decoded(ProducerConnections, reply.body, address)

    found = await side_by_side(addresses, ask)
    return tuple({c.client_id: c for each in found for c in each.connection_set}.values())


async def producers(admin: Admin, address: str) -> Mapping[str, Sequence[ProducerInfo]]:
    """Every producer that is connected to a broker, by group."""
    reply = await admin.ask(address, GetAllProducers())
    return decoded(ProducerTable, reply.body, address).data


async def reset(
    admin: Admin,
    group: str,
    topic: str,
    *,
    at_ms: int = THE_END_MS,
    queue_id: int = -1,
    offset: int = NO_OFFSET,
    broker_name: str | None = None,
) -> tuple[ResetTo, ...]:
    """Let a group go on from a point in time, the end, or an offset of one queue; where that is.

    Consumers that are online are told with their next pull. **Raises** NoRoute, ResponseError.
    """
    request = ResetOffsets(
        group=group,
        topic=topic,
        timestamp=at_ms,
        is_force=True,
        queue_id=queue_id,
        offset=None if offset == NO_OFFSET else offset,
    )
    brokers = [
        each
        for each in (await admin.topic_route(topic)).broker_datas
        if broker_name in (None, each.broker_name)
    ]
    if not brokers:
        raise NoRoute(topic, f"it has no broker group {broker_name!r}")

    async def tell(broker: BrokerData) -> OffsetsByQueue:
        address = leader_of(broker)
        return decoded(OffsetsByQueue, (await admin.ask(address, request)).body, address)

    found = await side_by_side(brokers, tell)
    return tuple(
        ResetTo(broker_name=queue.broker_name, queue_id=queue.queue_id, offset=at)
        for each in found
        for queue, at in sorted(each.offset_table.items(), key=lambda item: item[0])
    )


async def clone(admin: Admin, source: str, destination: str, topic: str, *, offline: bool) -> None:
    """Let one group stand in a topic where another does. Unless *offline*, only if the topic is
    what connected consumers of the source subscribe to, where there are any."""
    request = CloneOffsets(src_group=source, dest_group=destination, topic=topic, offline=offline)
    addresses = [leader_of(each) for each in (await admin.topic_route(topic)).broker_datas]
    await side_by_side(addresses, lambda address: admin.ask(address, request))


async def _settings_at(admin: Admin, address: str, group: str) -> GroupConfig | None:
    try:
        reply = await admin.ask(address, GetGroup(group=group))
    except ResponseError as error:
        if error.code == ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST:
            return None
        raise
    return decoded(GroupConfig, reply.body, address)
