"""`dledger admin`: settings of brokers that run, permissions, transactions that expired."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from dledger_py.cli.admin_commands import admin, ask, common
from dledger_py.cli.exits import fail
from dledger_py.cli.group_commands import one_place, where
from dledger_py.cli.output import columns, print_json, print_table, say

if TYPE_CHECKING:
    from dledger_py.admin import Admin


@admin.command("getBrokerConfig")
@common
@where
def broker_config(
    name_servers: str, as_json: bool, broker: str | None, cluster: str | None
) -> None:
    """The settings of a broker, or of a cluster's leaders, under RocketMQ's names."""
    one_place(broker, cluster)

    async def question(admin: "Admin") -> tuple[tuple[str, Mapping[str, str]], ...]:
        from dledger_py.admin import settings

        return await settings.of_brokers(admin, cluster=cluster, broker_address=broker)

    found = ask(name_servers, question)
    if as_json:
        print_json([{"address": address, "settings": dict(table)} for address, table in found])
        return
    for address, table in found:
        say(address, style="bold")
        print_table(columns("Key", "Value"), sorted(table.items()))


@admin.command("updateBrokerConfig")
@common
@where
@click.option("-k", "--key", required=True, help="Such as maxMessageSize.")
@click.option("-v", "--value", required=True, help="Empty: as in its configuration file.")
def update_broker_config(
    name_servers: str, as_json: bool, broker: str | None, cluster: str | None, key: str, value: str
) -> None:
    """Change a setting of brokers that run, on all members of a group.

    1 and the reason if it cannot be changed while they run, or a member could not be told.
    """
    one_place(broker, cluster)
    if "\n" in key + value or "=" in key:
        raise click.UsageError("a key has no '=', and neither key nor value has a line end")

    async def question(admin: "Admin") -> tuple[str, ...]:
        from dledger_py.admin import settings

        return await settings.update(admin, {key: value}, cluster=cluster, broker_address=broker)

    addresses = ask(name_servers, question)
    if as_json:
        print_json({"key": key, "value": value, "brokers": list(addresses)})
        return
    for address in addresses:
        say(f"update broker config success, {address}")


@admin.command("updateTopicPerm")
@common
@where
@click.option("-t", "--topic", required=True, help="Topic name.")
@click.option(
    "-p",
    "--perm",
    type=click.Choice(["0", "2", "4", "6"]),
    required=True,
    help="0 nothing, 2 write, 4 read, 6 both.",
)
def update_topic_perm(
    name_servers: str, as_json: bool, broker: str | None, cluster: str | None, topic: str, perm: str
) -> None:
    """Change what may be done with a topic, and nothing else of it."""
    one_place(broker, cluster)
    addresses = ask(
        name_servers,
        lambda admin: admin.update_topic_perm(
            topic, int(perm), cluster=cluster, broker_address=broker
        ),
    )
    if as_json:
        print_json({"topic": topic, "perm": int(perm), "brokers": list(addresses)})
        return
    for address in addresses:
        say(f"update topic perm to {perm} in {address} success.")


@admin.command("wipeWritePerm")
@common
@click.option("-b", "--brokerName", "broker", required=True, help="The broker group.")
def wipe_write_perm(name_servers: str, as_json: bool, broker: str) -> None:
    """Have name servers route no more sends to a broker group, until addWritePerm."""
    count = ask(name_servers, lambda admin: admin.wipe_write_perm(broker))
    _told_name_servers(as_json, broker, count, "no more sends are routed to")


@admin.command("addWritePerm")
@common
@click.option("-b", "--brokerName", "broker", required=True, help="The broker group.")
def add_write_perm(name_servers: str, as_json: bool, broker: str) -> None:
    """Have name servers route sends to a broker group again."""
    count = ask(name_servers, lambda admin: admin.add_write_perm(broker))
    _told_name_servers(as_json, broker, count, "sends are routed again to")


@admin.command("resumeTransaction")
@common
@click.option(
    "-i",
    "--msgId",
    "message_id",
    required=True,
    help="Offset message id of the copy in TRANS_CHECK_MAX_TIME_TOPIC (printMsg --json shows it).",
)
def resume_transaction(name_servers: str, as_json: bool, message_id: str) -> None:
    """Ask a producer once more about a transaction that expired (not in mqadmin).

    Done twice, there are two half messages, and its producer may commit both.
    """

    async def question(admin: "Admin") -> str:
        from dledger_py.admin import settings

        return await settings.resume_transaction(admin, message_id)

    address = ask(name_servers, question)
    if as_json:
        print_json({"messageId": message_id, "broker": address})
    else:
        say(f"{address} asks the producer of {message_id} again")


def _told_name_servers(as_json: bool, broker: str, count: int, text: str) -> None:
    if count == 0:
        fail(f"no name server knows a broker group {broker!r}")
    if as_json:
        print_json({"brokerName": broker, "topics": count})
    else:
        say(f"{text} {broker}: {count} topics")
