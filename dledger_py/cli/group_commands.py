"""`dledger admin`: consumer groups and producers. Names and options are mqadmin's."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from dledger_py.cli.admin_commands import BROKER_ADDRESS, admin, ask, common
from dledger_py.cli.exits import fail
from dledger_py.cli.moments import MOMENT
from dledger_py.cli.output import columns, print_json, print_table, say

if TYPE_CHECKING:
    from dledger_py.admin import Admin
    from dledger_py.admin.groups import GroupSettings, ResetTo
    from dledger_py.remoting.commands.statistics import ClientConnection, ConsumerConnections

GROUP = click.option("-g", "--groupName", "group", required=True, help="Consumer group.")


def where(command: Callable[..., None]) -> Callable[..., None]:
    """-b or -c, of which one has to be given."""
    command = click.option(
        "-c", "--clusterName", "cluster", help="On every broker group of this cluster."
    )(command)
    return click.option(
        "-b", "--brokerAddr", "broker", type=BROKER_ADDRESS, help="On this broker's group."
    )(command)


def one_place(broker: str | None, cluster: str | None) -> None:
    """**Raises** UsageError, unless one of them says where."""
    if (broker is None) == (cluster is None):
        raise click.UsageError("either -b or -c says where")


class RetryPolicy(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.3 only
    """A retry policy in JSON."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, dict):
            return value
        try:
            policy = json.loads(value)
        except ValueError as error:
            self.fail(f"{value!r} is not JSON: {error}", param, ctx)
        if not isinstance(policy, dict):
            self.fail(f"{value!r}: an object is expected", param, ctx)
        return policy


@admin.command("updateSubGroup")
@common
@where
@GROUP
@click.option("-s", "--consumeEnable", "consume_enable", type=bool, help="It may consume.")
@click.option("-m", "--consumeFromMinEnable", "consume_from_min_enable", type=bool)
@click.option(
    "-d", "--consumeBroadcastEnable", "consume_broadcast_enable", type=bool, help="To each of it."
)
@click.option("-o", "--consumeMessageOrderly", "consume_message_orderly", type=bool)
@click.option("-q", "--retryQueueNums", "retry_queue_nums", type=click.IntRange(0))
@click.option(
    "-r", "--retryMaxTimes", "retry_max_times", type=int, help="Retries before a dead letter."
)
@click.option(
    "-p",
    "--groupRetryPolicy",
    "group_retry_policy",
    type=RetryPolicy(),
    help='Such as \'{"type":"EXPONENTIAL","exponentialRetryPolicy":{"initial":5000}}\'.',
)
@click.option("-i", "--brokerId", "broker_id", type=int)
@click.option("-w", "--whichBrokerWhenConsumeSlowly", "which_broker_when_consume_slowly", type=int)
@click.option("-a", "--notifyConsumerIdsChanged", "notify_consumer_ids_changed_enable", type=bool)
def update_group(
    name_servers: str,
    as_json: bool,
    broker: str | None,
    cluster: str | None,
    group: str,
    **given: Any,
) -> None:
    """Make a consumer group, or change it; what is not named stays as it is."""
    one_place(broker, cluster)
    changes = {name: value for name, value in given.items() if value is not None}

    async def question(admin: "Admin") -> tuple[str, ...]:
        from dledger_py.admin import groups

        return await groups.update(admin, group, changes, cluster=cluster, broker_address=broker)

    _tell(ask(name_servers, question), as_json, {"group": group}, "create subscription group to {}")


@admin.command("deleteSubGroup")
@common
@where
@GROUP
@click.option(
    "-r",
    "--removeOffset",
    "clean",
    type=bool,
    default=False,
    help="Also its offsets, retries and dead letters: true or false.",
)
def delete_group(
    name_servers: str,
    as_json: bool,
    broker: str | None,
    cluster: str | None,
    group: str,
    clean: bool,
) -> None:
    """Remove a consumer group. One that consumes comes back with its next heartbeat."""
    one_place(broker, cluster)

    async def question(admin: "Admin") -> tuple[str, ...]:
        from dledger_py.admin import groups

        return await groups.delete(
            admin, group, clean=clean, cluster=cluster, broker_address=broker
        )

    _tell(
        ask(name_servers, question), as_json, {"group": group}, "delete subscription group from {}"
    )


@admin.command("getConsumerConfig")
@common
@GROUP
@click.option("-c", "--clusterName", "cluster", help="Only brokers of this cluster.")
def group_settings(name_servers: str, as_json: bool, group: str, cluster: str | None) -> None:
    """The settings of a consumer group, on each broker group that knows it."""

    async def question(admin: "Admin") -> "tuple[GroupSettings, ...]":
        from dledger_py.admin import groups

        return await groups.settings(admin, group, cluster=cluster)

    from dledger_py.remoting.commands.json_bodies import plain

    found = ask(name_servers, question)
    if as_json:
        print_json([{"brokerName": each.broker_name} | plain(each.config) for each in found])
        return
    for each in found:
        say(each.broker_name, style="bold")
        print_table(
            columns("Key", "Value"),
            [
                (key, value if isinstance(value, str) else json.dumps(value))
                for key, value in plain(each.config).items()
            ],
        )


@admin.command("consumerConnection")
@common
@GROUP
@click.option("-c", "--clusterName", "cluster", help="Only brokers of this cluster.")
def consumer_connection(name_servers: str, as_json: bool, group: str, cluster: str | None) -> None:
    """A group's consumers that are online, and what they subscribe to. 1 if nobody is."""

    async def question(admin: "Admin") -> "ConsumerConnections":
        from dledger_py.admin import groups

        return await groups.consumers(admin, group, cluster=cluster)

    found = ask(name_servers, question)
    if as_json:
        from dledger_py.remoting.commands.json_bodies import plain

        print_json(plain(found))
        return
    _print_clients(found.connection_set)
    say()
    print_table(
        columns("Topic", "Type", "Expression"),
        [
            (topic, each.expression_type, each.sub_string)
            for topic, each in sorted(found.subscription_table.items())
        ],
    )
    say(f"\nConsumeType: {found.consume_type.name}")
    say(f"MessageModel: {found.message_model.name}")
    say(f"ConsumeFromWhere: {found.consume_from_where.name}")


@admin.command("consumerStatus")
@common
@GROUP
@click.option("-i", "--clientId", "client_id", help="One of its consumers; all without it.")
@click.option("-s", "--jstack", "stacks", is_flag=True, help="With their threads, where they say.")
def consumer_status(
    name_servers: str, as_json: bool, group: str, client_id: str | None, stacks: bool
) -> None:
    """What a group's consumers are doing, by their own account. 1 if nobody is online."""

    async def question(admin: "Admin") -> dict[str, Any]:
        from dledger_py.admin import groups

        ids = [client_id] if client_id is not None else None
        if ids is None:
            online = await groups.consumers(admin, group)
            ids = [client.client_id for client in online.connection_set]
        return {each: await groups.running(admin, group, each, stacks=stacks) for each in ids}

    found = ask(name_servers, question)
    if as_json:
        print_json(found)
        return
    for each, state in found.items():
        say(each, style="bold")
        print(state if isinstance(state, str) else json.dumps(state, indent=2))


@admin.command("producerConnection")
@common
@click.option("-g", "--producerGroup", "group", required=True, help="Producer group.")
@click.option("-t", "--topic", required=True, help="A topic it sends to.")
def producer_connection(name_servers: str, as_json: bool, group: str, topic: str) -> None:
    """The producers of a group that are online. 1 if nobody is."""

    async def question(admin: "Admin") -> "tuple[ClientConnection, ...]":
        from dledger_py.admin import groups

        return await groups.producers_of(admin, group, topic)

    found = ask(name_servers, question)
    if not found:
        fail(f"no producer of group {group} is online at topic {topic}")
    if as_json:
        from dledger_py.remoting.commands.json_bodies import plain

        print_json(plain(found))
        return
    _print_clients(found)


@admin.command("producer")
@common
@click.option(
    "-b", "--brokerAddr", "broker", type=BROKER_ADDRESS, required=True, help="Of this broker."
)
def every_producer(name_servers: str, as_json: bool, broker: str) -> None:
    """Every producer that is connected to a broker."""

    async def question(admin: "Admin") -> Any:
        from dledger_py.admin import groups

        return await groups.producers(admin, broker)

    found = ask(name_servers, question)
    if as_json:
        from dledger_py.remoting.commands.json_bodies import plain

        print_json(plain(found))
        return
    print_table(
        columns("Group", "ClientId", "Addr", "Language", ">Version"),
        [
            (group, each.client_id, each.remote_address, each.language, each.version)
            for group, clients in sorted(found.items())
            for each in clients
        ],
    )


@admin.command("resetOffsetByTime")
@common
@click.option("-g", "--group", "--groupName", "group", required=True, help="Consumer group.")
@click.option("-t", "--topic", required=True, help="Topic name.")
@click.option(
    "-s",
    "--timestamp",
    "at_ms",
    type=MOMENT,
    help="To what was stored then: 'now', ms since 1970, '2026-01-31 13:45:00'; -1: to the end.",
)
@click.option("-q", "--queue", "queue_id", type=click.IntRange(0), help="Only this queue.")
@click.option("-o", "--offset", type=click.IntRange(0), help="To this offset of the queue.")
@click.option("-b", "--brokerName", "broker", help="Only this broker group.")
def reset_offset(
    name_servers: str,
    as_json: bool,
    group: str,
    topic: str,
    at_ms: int | None,
    queue_id: int | None,
    offset: int | None,
    broker: str | None,
) -> None:
    """Let a consumer group go on from a point in time, or from an offset of one queue."""
    if (at_ms is None) == (offset is None):
        raise click.UsageError("either -s or -o says where to")
    if offset is not None and queue_id is None:
        raise click.UsageError("an offset is one queue's: -q says which")
    _reset(name_servers, as_json, group, topic, at_ms, queue_id, offset, broker)


@admin.command("skipAccumulatedMessage")
@common
@click.option("-g", "--group", "--groupName", "group", required=True, help="Consumer group.")
@click.option("-t", "--topic", required=True, help="Topic name.")
def skip(name_servers: str, as_json: bool, group: str, topic: str) -> None:
    """Let a consumer group pass over everything that it has not consumed yet."""
    _reset(name_servers, as_json, group, topic, -1, None, None, None)


def _reset(
    name_servers: str,
    as_json: bool,
    group: str,
    topic: str,
    at_ms: int | None,
    queue_id: int | None,
    offset: int | None,
    broker: str | None,
) -> None:
    async def question(admin: "Admin") -> "tuple[ResetTo, ...]":
        from dledger_py.admin import groups

        return await groups.reset(
            admin,
            group,
            topic,
            at_ms=groups.THE_END_MS if at_ms is None else at_ms,
            queue_id=-1 if queue_id is None else queue_id,
            offset=groups.NO_OFFSET if offset is None else offset,
            broker_name=broker,
        )

    found = ask(name_servers, question)
    if as_json:
        print_json(
            [
                {"brokerName": each.broker_name, "queueId": each.queue_id, "offset": each.offset}
                for each in found
            ]
        )
        return
    print_table(
        columns("Broker Name", ">QID", ">Offset"),
        [(each.broker_name, each.queue_id, each.offset) for each in found],
    )


@admin.command("cloneGroupOffset")
@common
@click.option("-s", "--srcGroup", "source", required=True, help="The group that is somewhere.")
@click.option(
    "-d", "--destGroup", "destination", required=True, help="The one that shall be there."
)
@click.option("-t", "--topic", required=True, help="In this topic.")
@click.option(
    "-o", "--offline", type=bool, default=True, show_default=True, help="Whoever is online."
)
def clone_offsets(
    name_servers: str, as_json: bool, source: str, destination: str, topic: str, offline: bool
) -> None:
    """Let one consumer group stand in a topic where another does."""

    async def question(admin: "Admin") -> None:
        from dledger_py.admin import groups

        await groups.clone(admin, source, destination, topic, offline=offline)

    ask(name_servers, question)
    if as_json:
        print_json({"srcGroup": source, "destGroup": destination, "topic": topic})
    else:
        say(f"{destination} stands in {topic} where {source} does")


def _print_clients(clients: "tuple[ClientConnection, ...]") -> None:
    print_table(
        columns("ClientId", "ClientAddr", "Language", ">Version"),
        [(each.client_id, each.client_addr, each.language, each.version) for each in clients],
    )


def _tell(addresses: tuple[str, ...], as_json: bool, what: dict[str, str], text: str) -> None:
    if as_json:
        print_json(what | {"brokers": list(addresses)})
        return
    for address in addresses:
        say(f"{text.format(address)} success.")
