"""`dledger admin queryMsg…`, `printMsg`: finding messages, who has consumed one, and its trace."""

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from dledger_py.cli.admin_commands import admin, ask, common, when
from dledger_py.cli.exits import FAILED
from dledger_py.cli.moments import MOMENT, MOMENT_MS_MAX
from dledger_py.cli.output import columns, print_json, print_table, printable, say

if TYPE_CHECKING:
    from dledger_py.admin import Admin
    from dledger_py.admin.messages import Track
    from dledger_py.admin.traces import Trace
    from dledger_py.client import Message

BODY_SHOWN_CHARACTERS = 40
PRINTED_MAX = 1000

TOPIC = click.option("-t", "--topic", required=True, help="Topic name.")


def between(command: Callable[..., None]) -> Callable[..., None]:
    """-b and -e: a span of store times."""
    command = click.option(
        "-e", "--endTimestamp", "end_ms", type=MOMENT, default=MOMENT_MS_MAX, help="Until then."
    )(command)
    return click.option(
        "-b",
        "--beginTimestamp",
        "begin_ms",
        type=MOMENT,
        default=0,
        help="Stored from then on: ms since 1970, 'now', or '2026-01-31 13:45:00'.",
    )(command)


@admin.command("queryMsgByKey")
@common
@TOPIC
@click.option("-k", "--msgKey", "key", required=True, help="One of the message's keys.")
@between
@click.option(
    "-c",
    "--maxNum",
    "most",
    type=click.IntRange(1, 64),
    default=64,
    show_default=True,
    help="Most.",
)
def query_by_key(
    name_servers: str, as_json: bool, topic: str, key: str, begin_ms: int, end_ms: int, most: int
) -> None:
    """The messages with a key, the newest first. 1 if there is none."""

    async def question(admin: "Admin") -> "tuple[Message, ...]":
        from dledger_py.admin import messages

        return await messages.by_key(admin, topic, key, begin_ms=begin_ms, end_ms=end_ms, most=most)

    _print(ask(name_servers, question), as_json, f"no message of topic {topic} has key {key}")


def _by_id(name_servers: str, as_json: bool, topic: str, message_id: str, unique: bool) -> None:
    """What each kind of id has in common: the message, and where groups stand with it."""

    async def question(
        admin: "Admin",
    ) -> "tuple[tuple[Message, ...], tuple[Track, ...]]":
        from dledger_py.admin import messages

        if unique:
            found = await messages.by_key(admin, topic, message_id, unique=True)
        else:
            found = await messages.by_id(admin, topic, message_id)
        return found, await messages.tracks(admin, found[0]) if found else ()

    found, tracks = ask(name_servers, question)
    if as_json:
        listed = [_track_as_json(each) for each in tracks]
        print_json([message_as_json(each) | {"tracks": listed} for each in found])
    else:
        for each in found:
            _print_whole(each)
        if found and not tracks:
            say(f"\nno consumer group has anything to do with topic {topic}")
        elif found:
            say("\nConsumer groups", style="bold")
            print_table(
                columns("Group", "Status", "Detail"),
                [(each.group, each.standing.name, each.detail) for each in tracks],
            )
    if not found:
        _none(f"no message of topic {topic} has id {message_id}")


@admin.command("queryMsgById")
@common
@TOPIC
@click.option("-i", "--msgId", "message_id", required=True, help="The id, of either kind.")
def query_by_id(name_servers: str, as_json: bool, topic: str, message_id: str) -> None:
    """One message, and which consumer groups have consumed it. 1 if there is none.

    The id is the broker's (offset message id) or its sender's (unique id).
    """
    _by_id(name_servers, as_json, topic, message_id, unique=False)


@admin.command("queryMsgByUniqueKey")
@common
@TOPIC
@click.option("-i", "--msgId", "message_id", required=True, help="The sender's id.")
def query_by_unique_key(name_servers: str, as_json: bool, topic: str, message_id: str) -> None:
    """As queryMsgById, by the sender's id only."""
    _by_id(name_servers, as_json, topic, message_id, unique=True)


@admin.command("queryMsgByOffset")
@common
@TOPIC
@click.option("-b", "--brokerName", "broker", help="The broker group, where there are several.")
@click.option("-i", "--queueId", "queue_id", type=click.IntRange(0), required=True, help="Queue.")
@click.option("-o", "--offset", type=click.IntRange(0), required=True, help="Place in the queue.")
def query_by_offset(
    name_servers: str, as_json: bool, topic: str, broker: str | None, queue_id: int, offset: int
) -> None:
    """The message at an offset of a queue. 1 if there is none."""
    import trio

    from dledger_py.client import connect

    found: list[Message] = []

    async def read() -> None:
        async with connect(name_servers) as client:
            result = await client.pull(topic, queue_id, offset, broker=broker, max_messages=1)
            found.extend(each for each in result.messages if each.queue_offset == offset)

    trio.run(read)
    if as_json:
        print_json([message_as_json(each) for each in found])
    else:
        for each in found:
            _print_whole(each)
    if not found:
        _none(f"queue {queue_id} of topic {topic} has no message at offset {offset}")


@admin.command("sendMessage")
@common
@TOPIC
@click.option("-p", "--body", required=True, help="What it says.")
@click.option("-k", "--keys", default="", help="Words by which it is found.")
@click.option("-c", "--tags", "tag", help="Its tag.")
@click.option("-i", "--qid", "queue_id", type=click.IntRange(0), help="The queue; any without it.")
def send_message(
    name_servers: str,
    as_json: bool,
    topic: str,
    body: str,
    keys: str,
    tag: str | None,
    queue_id: int | None,
) -> None:
    """Send one message. 4: it may have been stored, or not."""
    import trio

    from dledger_py.client import Receipt, connect

    async def send() -> Receipt:
        async with connect(name_servers) as client:
            return await client.send(
                topic, body.encode(), tag=tag, keys=keys.split(), queue=queue_id
            )

    try:
        receipt = trio.run(send)
    except ValueError as error:  # it cannot be sent at all
        raise click.UsageError(str(error)) from error
    if as_json:
        print_json(
            {
                "brokerName": receipt.broker,
                "queueId": receipt.queue_id,
                "offset": receipt.queue_offset,
                "messageId": receipt.message_id,
                "offsetMessageId": receipt.offset_message_id,
            }
        )
        return
    print_table(
        columns("Broker Name", ">QID", ">Offset", "Id", "Offset Id"),
        [
            (
                *(receipt.broker, receipt.queue_id, receipt.queue_offset),
                *(receipt.message_id, receipt.offset_message_id),
            )
        ],
    )


@admin.command("printMsg")
@common
@TOPIC
@click.option("-s", "--subExpression", "tags", default="*", show_default=True, help="Tags.")
@between
@click.option("-c", "--maxNum", "most", type=click.IntRange(1), default=100, show_default=True)
def print_messages(
    name_servers: str, as_json: bool, topic: str, tags: str, begin_ms: int, end_ms: int, most: int
) -> None:
    """The messages of a topic that were stored in a span of time, queue by queue."""
    import trio

    from dledger_py.admin.reading import stored_between
    from dledger_py.client import connect

    found: list[Message] = []

    async def read() -> None:
        async with connect(name_servers) as client:
            async for each in stored_between(client, topic, begin_ms, end_ms, tags=tags):
                found.append(each)
                if len(found) >= most:
                    return

    trio.run(read)
    if as_json:
        print_json([message_as_json(each) for each in found])
    else:
        _print_table(found)
        if len(found) == most:
            say(f"the first {most}; -c for more")


@click.command("queryTrace")
@common
@click.option("-i", "--msgId", "message_id", required=True, help="The sender's id (unique id).")
@click.option(
    "-t",
    "--traceTopic",
    "topic",
    default="RMQ_SYS_TRACE_TOPIC",
    show_default=True,
    help="Where clients send their traces.",
)
@between
def query_trace(
    name_servers: str, as_json: bool, message_id: str, topic: str, begin_ms: int, end_ms: int
) -> None:
    """What clients traced of a message: who sent it, who consumed it, how that ended.

    Also called queryMsgTraceById, as in mqadmin. Only clients with message trace switched on tell
    anything. 1 if nothing is known.
    """

    async def question(admin: "Admin") -> "Trace":
        from dledger_py.admin import messages

        return await messages.trace(
            admin, message_id, topic=topic, begin_ms=begin_ms, end_ms=end_ms
        )

    found = ask(name_servers, question)
    if as_json:
        print_json(_trace_as_json(found))
    elif found.known:
        _print_trace(found)
    if found.unreadable and not as_json:
        say(f"\n{found.unreadable} trace records could not be read")
    if not found.known:
        _none(
            f"no client has traced a message {message_id}: was it sent with message trace on? (the"
            " id is the sender's; traces come some seconds late)"
        )


admin.add_command(query_trace)
admin.add_command(query_trace, "queryMsgTraceById")


# --- printing ------------------------------------------------------------------------------------


def _none(why: str) -> None:
    click.echo(f"dledger: {why}", err=True)
    raise click.exceptions.Exit(FAILED)


def _print(found: "tuple[Message, ...]", as_json: bool, why_none: str) -> None:
    if as_json:
        print_json([message_as_json(each) for each in found])
    elif found:
        _print_table(found)
    if not found:
        _none(why_none)


def _print_table(found: "list[Message] | tuple[Message, ...]") -> None:
    print_table(
        columns("Broker Name", ">QID", ">Offset", "Stored", "Tag", "Keys", "Id", "Body"),
        [
            (
                *(each.queue.broker, each.queue.queue_id, each.queue_offset),
                when(_ms(each.stored_at)),
                *(each.tag, " ".join(each.keys), each.message_id),
                body_text(each, BODY_SHOWN_CHARACTERS),
            )
            for each in found
        ],
    )


def _print_whole(each: "Message") -> None:
    rows = [
        ("Message Id", each.message_id),
        ("Offset Message Id", each.offset_message_id),
        ("Topic", each.queue.topic),
        ("Broker Name", each.queue.broker),
        ("Queue Id", each.queue.queue_id),
        ("Queue Offset", each.queue_offset),
        ("Born", f"{when(_ms(each.born_at))} at {each.born_host}"),
        ("Stored", when(_ms(each.stored_at))),
        ("Reconsume Times", each.reconsume_times),
        *((f"Property {name}", value) for name, value in sorted(each.properties.items())),
        ("Body", body_text(each, PRINTED_MAX)),
    ]
    print_table(columns("Field", "Value"), rows)


def message_as_json(each: "Message") -> dict[str, Any]:
    """A message for programs; a body that is no text is spelled with escapes."""
    return {
        "brokerName": each.queue.broker,
        "topic": each.queue.topic,
        "queueId": each.queue.queue_id,
        "offset": each.queue_offset,
        "messageId": each.message_id,
        "offsetMessageId": each.offset_message_id,
        "bornTimestamp": _ms(each.born_at),
        "bornHost": each.born_host,
        "storedTimestamp": _ms(each.stored_at),
        "reconsumeTimes": each.reconsume_times,
        "tag": each.tag,
        "keys": list(each.keys),
        "properties": dict(each.properties),
        "body": body_text(each, None),
    }


def body_text(each: "Message", characters: int | None) -> str:
    """The body as text that a terminal can show; shortened to so many characters."""
    from dledger_py.client import UnsupportedCompression

    try:
        body = each.body
    except UnsupportedCompression:
        body = each.stored_body
    text = printable(body.decode("utf-8", "backslashreplace"))
    if characters is not None and len(text) > characters:
        return text[:characters] + "…"
    return text


def _track_as_json(each: "Track") -> dict[str, str]:
    return {"group": each.group, "status": each.standing.name, "detail": each.detail}


def _print_trace(found: "Trace") -> None:
    if found.sent:
        say("Sent", style="bold")
        print_table(
            columns("Time", "Group", "Client", "Topic", "Broker", ">Cost", "Kind", "Status"),
            [
                (
                    *(when(each.at_ms), each.group, each.client_host, each.topic),
                    *(each.broker_address, f"{each.cost_ms} ms", each.kind, _status(each.success)),
                )
                for each in found.sent
            ],
        )
    for ended in found.transactions:
        asked = " after it was asked" if ended.after_check else ""
        text = printable(f"transaction ended{asked} by {ended.group}: {ended.state}")
        say(f"{when(ended.at_ms)}  {text}")
    for recalled in found.recalled:
        text = printable(f"recalled by {recalled.group}: {_status(recalled.success)}")
        say(f"{when(recalled.at_ms)}  {text}")
    if found.consumed:
        say("\nConsumed", style="bold")
        print_table(
            columns("Group", "Time", "Client", ">Try", ">Cost", "Status"),
            [
                (
                    *(each.group, when(each.begun_ms), each.client_host, each.retry_times + 1),
                    *(
                        (f"{each.cost_ms} ms", _how(each.success, each.outcome))
                        if each.ended
                        else ("", "no end known")
                    ),
                )
                for each in found.consumed
            ],
        )


def _status(success: bool) -> str:
    return "success" if success else "failed"


def _how(success: bool, outcome: str) -> str:
    status = _status(success)
    return status if outcome in ("", status) else f"{status} ({outcome})"


def _trace_as_json(found: "Trace") -> dict[str, Any]:
    return {
        "messageId": found.message_id,
        "sent": [
            {
                "timestamp": each.at_ms,
                "group": each.group,
                "clientHost": each.client_host,
                "topic": each.topic,
                "brokerAddress": each.broker_address,
                "costMs": each.cost_ms,
                "kind": each.kind,
                "offsetMessageId": each.offset_message_id,
                "keys": each.keys,
                "tags": each.tags,
                "bodyBytes": each.body_bytes,
                "region": each.region,
                "success": each.success,
            }
            for each in found.sent
        ],
        "consumed": [
            {
                "group": each.group,
                "timestamp": each.begun_ms,
                "clientHost": each.client_host,
                "retryTimes": each.retry_times,
                "ended": each.ended,
                "success": each.success,
                "outcome": each.outcome,
                "costMs": each.cost_ms,
            }
            for each in found.consumed
        ],
        "transactions": [
            {
                "timestamp": each.at_ms,
                "group": each.group,
                "state": each.state,
                "transactionId": each.transaction_id,
                "afterCheck": each.after_check,
            }
            for each in found.transactions
        ],
        "recalled": [
            {"timestamp": each.at_ms, "group": each.group, "success": each.success}
            for each in found.recalled
        ],
        "unreadable": found.unreadable,
    }


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
