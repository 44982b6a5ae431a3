"""Routes as some clients want them: the near groups, or a slave in a lost master's place. Pure."""

from attrs import evolve

from dledger_py.remoting.commands.routes import BrokerData, QueueData, TopicRoute
from dledger_py.remoting.commands.topics import PERM_WRITE
from namesrv.records import MASTER_ID


def in_zone(route: TopicRoute, zone: str) -> TopicRoute:
    """The part of a route near a client.

    Its zone's groups, and groups without a master: then one reads from whom one can.
    """
    far = {
        broker.broker_name
        for broker in route.broker_datas
        if MASTER_ID in broker.broker_addrs and (broker.zone_name or "").lower() != zone.lower()
    }
    gone = {
        address
        for broker in route.broker_datas
        if broker.broker_name in far
        for address in broker.broker_addrs.values()
    }
    return evolve(
        route,
        broker_datas=tuple(
            broker for broker in route.broker_datas if broker.broker_name not in far
        ),
        queue_datas=tuple(queue for queue in route.queue_datas if queue.broker_name not in far),
        filter_server_table={a: s for a, s in route.filter_server_table.items() if a not in gone},
    )


def with_acting_master(broker: BrokerData, queue: QueueData) -> BrokerData:
    """Show the smallest slave as the master of a group that has lost its own, for reading."""
    if (
        MASTER_ID in broker.broker_addrs
        or not broker.enable_acting_master
        or queue.perm & PERM_WRITE
    ):
        return broker
    smallest, *others = sorted(broker.broker_addrs)
    shown = {MASTER_ID: broker.broker_addrs[smallest]}
    shown.update((id_, broker.broker_addrs[id_]) for id_ in others)
    return evolve(broker, broker_addrs=shown)
