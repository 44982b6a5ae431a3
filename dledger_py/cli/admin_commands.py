"""`dledger admin …`: mqadmin's commands under mqadmin's names and options, answered by `Admin`."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from dledger_py.cli.exits import FAILED
from dledger_py.cli.output import columns, print_json, print_table, say

if TYPE_CHECKING:
    from dledger_py.admin import Admin, GroupProgress

T = TypeVar("T")

NAMESRV = "127.0.0.1:9876"


def common(command: Callable[..., None]) -> Callable[..., None]:
    """-n and --json, which every command takes."""
    command = click.option("--json", "as_json", is_flag=True, help="For programs.")(command)
    return click.option(
        "-n",
        "--namesrvAddr",
        "name_servers",
        envvar="NAMESRV_ADDR",
        default=NAMESRV,
        show_default=True,
        show_envvar=True,
        help="Name servers, host:port;host:port.",
    )(command)


class BrokerAddress(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.3 only
    """Where a broker listens for clients; elsewhere `-b` is the name of a broker group."""

    name = "host:port"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from dledger_py.client.connection import parse_address

        try:
            parse_address(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return str(value)


BROKER_ADDRESS = BrokerAddress()

QUEUES: Final = click.IntRange(0, 65_536)
"""What a broker takes; RocketMQ's set no limit above."""


def ask(name_servers: str, question: "Callable[[Admin], Awaitable[T]]") -> T:
    """Run one question."""
    import trio

    from dledger_py.admin import Admin

    try:
        asked = Admin(name_servers)
    except ValueError as error:
        raise click.UsageError(str(error)) from error

    async def answered() -> T:
        return await question(asked)

    return trio.run(answered)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def admin() -> None:
    """Ask and change a cluster; names and options are mqadmin's."""


@admin.command("clusterList")
@common
@click.option("-c", "--clusterName", "cluster", help="Only this cluster.")
@click.option("-m", "--moreStats", "more", is_flag=True, help="Messages in and out instead.")
def cluster_list(name_servers: str, as_json: bool, cluster: str | None, more: bool) -> None:
    """Every member of every broker group, and how it does."""
    members = ask(name_servers, lambda admin: admin.cluster_list(cluster=cluster))
    if as_json:
        print_json(
            [
                {
                    "cluster": member.cluster,
                    "brokerName": member.broker_name,
                    "brokerId": member.broker_id,
                    "address": member.address,
                    "version": member.version,
                    "role": member.role,
                    "term": member.term,
                    "putTps": member.put_per_s,
                    "getTps": member.get_per_s,
                    "failure": member.failure,
                }
                for member in members
            ]
        )
    elif more:
        shape = columns("Cluster Name", "Broker Name", ">BID", ">In Total", ">Out Total")
        keys = ("msgPutTotalTodayNow", "msgGetTotalTodayNow")
        print_table(
            shape,
            [
                (m.cluster, m.broker_name, m.broker_id, *(m.runtime.get(key) for key in keys))
                for m in members
            ],
        )
    else:
        shape = columns(
            *("Cluster Name", "Broker Name", ">BID", "Addr", "Version"),
            *("Role", ">Term", ">InTPS", ">OutTPS"),
        )
        print_table(
            shape,
            [
                (
                    *(m.cluster, m.broker_name, m.broker_id, m.address),
                    *((m.version, m.role) if m.failure is None else ("", "down")),
                    *(m.term, f"{m.put_per_s:.2f}", f"{m.get_per_s:.2f}"),
                )
                for m in members
            ],
        )
    failures = [member.failure for member in members if member.failure is not None]
    if failures:
        raise click.exceptions.Exit(_told(failures))


@admin.command("raftStatus")
@common
@click.option("-c", "--clusterName", "cluster", help="Only this cluster.")
def raft_status(name_servers: str, as_json: bool, cluster: str | None) -> None:
    """Where every member stands in its group's log (not in mqadmin)."""
    members = ask(name_servers, lambda admin: admin.raft_status(cluster=cluster))
    if as_json:
        print_json(
            [
                {
                    "brokerName": member.broker_name,
                    "node": member.node,
                    "address": member.address,
                    "role": member.role,
                    "membership": member.membership,
                    "term": member.term,
                    "lastIndex": member.last_index,
                    "durableIndex": member.durable_index,
                    "committedIndex": member.committed_index,
                    "appliedIndex": member.applied_index,
                    "snapshotIndex": member.snapshot_index,
                    "lag": member.lag,
                    "failure": member.failure,
                }
                for member in members
            ]
        )
    else:
        shape = columns(
            *("Broker Name", "Node", "Addr", "Role", "Member", ">Term"),
            *(">Last", ">Durable", ">Committed", ">Applied", ">Snapshot", ">Lag"),
        )
        print_table(
            shape,
            [
                (
                    *(m.broker_name, m.node, m.address, m.role, m.membership, m.term),
                    *(m.last_index, m.durable_index, m.committed_index, m.applied_index),
                    *(m.snapshot_index, m.lag),
                )
                for m in members
            ],
        )
    failures = [member.failure for member in members if member.failure is not None]
    if failures:
        raise click.exceptions.Exit(_told(failures))


@admin.command("transferLeader")
@common
@click.option("-t", "--to", "node", required=True, help="The member that shall lead, such as n1.")
@click.option("-b", "--brokerName", "broker_name", help="Its group, where there are several.")
def transfer_leader(name_servers: str, as_json: bool, node: str, broker_name: str | None) -> None:
    """Hand leadership of a broker group to another member (not in mqadmin)."""
    group = ask(name_servers, lambda admin: admin.transfer_leader(node, broker_name=broker_name))
    if as_json:
        print_json({"brokerName": group, "leader": node})
    else:
        print(f"{node} leads {group}")


_group_option = click.option("-b", "--brokerName", "broker_name", help="Its group, if several.")


@admin.command("addMember")
@common
@click.option("-m", "--member", "node", required=True, help="The new member, such as n3.")
@click.option("-a", "--address", required=True, help="Where it listens for its peers, host:port.")
@click.option("--learner", is_flag=True, help="It is to get the log, and never a vote.")
@_group_option
def add_member(
    name_servers: str,
    as_json: bool,
    node: str,
    address: str,
    learner: bool,
    broker_name: str | None,
) -> None:
    """Let a new member into a broker group (not in mqadmin).

    Start it first, with an empty folder and ledger.join = true. It gets the log as a learner, and a
    vote by itself once it has caught up; raftStatus shows both.
    """
    group = ask(
        name_servers,
        lambda admin: admin.add_member(
            node, address, broker_name=broker_name, stays_learner=learner
        ),
    )
    _tell_change(as_json, group, node, "added", f"{node} gets the log of {group} as a learner")


@admin.command("removeMember")
@common
@click.option("-m", "--member", "node", required=True, help="The member, such as n3.")
@_group_option
def remove_member(name_servers: str, as_json: bool, node: str, broker_name: str | None) -> None:
    """Take a member out of its broker group for good (not in mqadmin)."""
    group = ask(name_servers, lambda admin: admin.remove_member(node, broker_name=broker_name))
    _tell_change(as_json, group, node, "removed", f"{node} is no member of {group} any more")


@admin.command("replaceMember")
@common
@click.option("-m", "--member", "node", required=True, help="The member, such as n3.")
@click.option("-a", "--address", help="Where it listens for its peers now, if it moved.")
@click.option("--force", is_flag=True, help="Even if it follows its leader, or leads.")
@_group_option
def replace_member(
    name_servers: str,
    as_json: bool,
    node: str,
    address: str | None,
    force: bool,
    broker_name: str | None,
) -> None:
    """Have a member begin anew whose data folder was lost (not in mqadmin).

    It is removed and added again; its process may be running already. An emptied folder is not
    heard before that, since it has forgotten what it voted for. One that has its folder is left
    alone: it would lose its vote for as long as it takes to send it the log.
    """
    group = ask(
        name_servers,
        lambda admin: admin.replace_member(
            node, address=address, broker_name=broker_name, force=force
        ),
    )
    _tell_change(as_json, group, node, "replaced", f"{node} begins anew as a learner of {group}")


def _tell_change(as_json: bool, group: str, node: str, change: str, text: str) -> None:
    if as_json:
        print_json({"brokerName": group, "node": node, "change": change})
    else:
        print(text)


@admin.command("topicList")
@common
@click.option("-c", "--clusterModel", "by_cluster", is_flag=True, help="Show clusters and groups.")
def topic_list(name_servers: str, as_json: bool, by_cluster: bool) -> None:
    """All topics, those of groups and of the system included."""
    if by_cluster:
        found = ask(name_servers, lambda admin: admin.topic_groups())
        if as_json:
            print_json(
                [{"cluster": c, "topic": t, "groups": list(groups)} for c, t, groups in found]
            )
            return
        rows = [(c, t, group) for c, t, groups in found for group in groups or ("",)]
        print_table(columns("Cluster Name", "Topic", "Consumer Group"), rows)
        return
    topics = ask(name_servers, lambda admin: admin.topic_list())
    if as_json:
        print_json(list(topics))
        return
    for topic in topics:
        print(topic)


@admin.command("topicRoute")
@common
@click.option("-t", "--topic", required=True, help="Topic name.")
def topic_route(name_servers: str, as_json: bool, topic: str) -> None:
    """Which brokers hold a topic, and with how many queues."""
    route = ask(name_servers, lambda admin: admin.topic_route(topic))
    if as_json:
        from dledger_py.remoting.commands.json_bodies import plain

        print_json(plain(route))
        return
    groups = {group.broker_name: group for group in route.broker_datas}
    print_table(
        columns("Cluster", "Broker Name", ">Read", ">Write", ">Perm", "Addresses"),
        [
            (
                groups[queue.broker_name].cluster if queue.broker_name in groups else None,
                queue.broker_name,
                *(queue.read_queue_nums, queue.write_queue_nums, queue.perm),
                _addresses(groups[queue.broker_name].broker_addrs)
                if queue.broker_name in groups
                else "",
            )
            for queue in route.queue_datas
        ],
    )


@admin.command("topicStatus")
@common
@click.option("-t", "--topic", required=True, help="Topic name.")
def topic_status(name_servers: str, as_json: bool, topic: str) -> None:
    """The offsets of every queue of a topic."""
    queues = ask(name_servers, lambda admin: admin.topic_status(topic))
    if as_json:
        print_json(
            [
                {
                    "brokerName": queue.broker_name,
                    "queueId": queue.queue_id,
                    "minOffset": queue.min_offset,
                    "maxOffset": queue.max_offset,
                    "lastUpdated": queue.last_update_ms,
                }
                for queue in queues
            ]
        )
        return
    print_table(
        columns("Broker Name", ">QID", ">Min Offset", ">Max Offset", "Last Updated"),
        [
            (q.broker_name, q.queue_id, q.min_offset, q.max_offset, when(q.last_update_ms))
            for q in queues
        ],
    )


@admin.command("updateTopic")
@common
@click.option("-b", "--brokerAddr", "broker", type=BROKER_ADDRESS, help="On this broker only.")
@click.option("-c", "--clusterName", "cluster", help="On every broker group of this cluster.")
@click.option("-t", "--topic", required=True, help="Topic name.")
@click.option("-r", "--readQueueNums", "read", type=QUEUES, help="Of a new topic: 8.")
@click.option("-w", "--writeQueueNums", "write", type=QUEUES, help="Of a new topic: 8.")
@click.option(
    "-p",
    "--perm",
    type=click.Choice(["2", "4", "6"]),
    help="2 write, 4 read, 6 both, which a new topic has.",
)
@click.option("-o", "--order", type=bool, help="Set for ordered topics.")
@click.option("-a", "--attributes", default="", help="+key=value,-key")
def update_topic(
    name_servers: str,
    as_json: bool,
    broker: str | None,
    cluster: str | None,
    topic: str,
    **settings: Any,
) -> None:
    """Make a topic, or change it. What is not given stays as it is, unlike with mqadmin."""
    if (broker is None) == (cluster is None):
        raise click.UsageError("either -b or -c says where")
    addresses = ask(
        name_servers,
        lambda admin: admin.update_topic(
            topic,
            cluster=cluster,
            broker_address=broker,
            read_queues=settings["read"],
            write_queues=settings["write"],
            perm=None if settings["perm"] is None else int(settings["perm"]),
            order=settings["order"],
            attributes=settings["attributes"],
        ),
    )
    if as_json:
        print_json({"topic": topic, "brokers": list(addresses)})
        return
    for address in addresses:
        say(f"create topic to {address} success.")


@admin.command("deleteTopic")
@common
@click.option("-c", "--clusterName", "cluster", required=True, help="From which cluster.")
@click.option("-t", "--topic", required=True, help="Topic name.")
def delete_topic(name_servers: str, as_json: bool, cluster: str, topic: str) -> None:
    """Remove a topic from brokers and name servers."""
    addresses = ask(name_servers, lambda admin: admin.delete_topic(topic, cluster=cluster))
    if as_json:
        print_json({"topic": topic, "brokers": list(addresses)})
        return
    say(f"delete topic [{topic}] from cluster [{cluster}] success.")


@admin.command("brokerStatus")
@common
@click.option("-b", "--brokerAddr", "broker", type=BROKER_ADDRESS, help="This broker.")
@click.option("-c", "--clusterName", "cluster", help="The leaders of this cluster.")
def broker_status(
    name_servers: str, as_json: bool, broker: str | None, cluster: str | None
) -> None:
    """Everything a broker tells about itself."""
    if (broker is None) == (cluster is None):
        raise click.UsageError("either -b or -c says whom to ask")
    states = ask(
        name_servers,
        lambda admin: admin.broker_status(broker_address=broker, cluster=cluster),
    )
    if as_json:
        print_json([{"address": s.address, "table": dict(sorted(s.table.items()))} for s in states])
        return
    for state in states:
        say(state.address, style="bold")
        print_table(columns("Key", "Value"), sorted(state.table.items()))


@admin.command("consumerProgress")
@common
@click.option("-g", "--groupName", "group", help="Consumer group; all groups without it.")
@click.option("-t", "--topicName", "topic", help="Only this topic.")
@click.option("-c", "--cluster", "cluster", help="Only brokers of this cluster.")
def consumer_progress(
    name_servers: str, as_json: bool, group: str | None, topic: str | None, cluster: str | None
) -> None:
    """How far consumer groups are, and what is left to do."""

    async def progress_of(admin: "Admin") -> "tuple[GroupProgress, ...]":
        from dledger_py.admin import UnknownName

        if group is not None:
            return (await admin.consumer_progress(group, topic=topic, cluster=cluster),)
        found = []
        for each in await admin.consumer_groups():
            try:
                found.append(await admin.consumer_progress(each, topic=topic, cluster=cluster))
            except UnknownName:  # its retry topic is left over
                continue
        return tuple(found)

    groups = ask(name_servers, progress_of)
    if as_json:
        print_json([_progress(each) for each in groups])
    elif group is None:
        print_table(
            columns("Group", ">Count", "Model", ">TPS", ">Diff Total"),
            [(g.group, g.online, g.model, f"{g.consume_tps:.2f}", g.lag) for g in groups],
        )
    else:
        (progress,) = groups
        print_table(
            columns(
                *("Topic", "Broker Name", ">QID", ">Broker Offset", ">Consumer Offset"),
                *(">Diff", ">Inflight", "LastTime"),
            ),
            [
                (
                    *(q.topic, q.broker_name, q.queue_id, q.broker_offset, q.consumer_offset),
                    *(q.lag, q.inflight, when(q.last_ms)),
                )
                for q in progress.queues
            ],
        )
        say(f"\nConsume TPS: {progress.consume_tps:.2f}")
        say(f"Consume Diff Total: {progress.lag}")
        say(f"Consume Inflight Total: {progress.inflight}")


def _progress(progress: "GroupProgress") -> dict[str, Any]:
    return {
        "group": progress.group,
        "online": progress.online,
        "model": progress.model,
        "consumeTps": progress.consume_tps,
        "diffTotal": progress.lag,
        "inflightTotal": progress.inflight,
        "queues": [
            {
                "topic": queue.topic,
                "brokerName": queue.broker_name,
                "queueId": queue.queue_id,
                "brokerOffset": queue.broker_offset,
                "consumerOffset": queue.consumer_offset,
                "diff": queue.lag,
                "inflight": queue.inflight,
                "lastTimestamp": queue.last_ms,
            }
            for queue in progress.queues
        ],
    }


def _addresses(addresses: Any) -> str:
    return " ".join(f"{id_}={address}" for id_, address in sorted(addresses.items()))


def when(timestamp_ms: int) -> str:
    """A stamp for people, in their own zone; empty for none."""
    if timestamp_ms <= 0:
        return ""
    moment = datetime.fromtimestamp(timestamp_ms / 1000, tz=UTC).astimezone()
    return moment.strftime("%Y-%m-%d %H:%M:%S,") + f"{timestamp_ms % 1000:03d}"


def _told(failures: list[str]) -> int:
    for failure in failures:
        click.echo(f"dledger: {failure}", err=True)
    return FAILED
