"""`dledger admin deadLetters` and `resendDeadLetters`: what consumer groups have given up."""

from typing import TYPE_CHECKING

import click

from dledger_py.cli.admin_commands import admin, common, when
from dledger_py.cli.message_commands import BODY_SHOWN_CHARACTERS, body_text
from dledger_py.cli.output import columns, print_json, print_table, say

if TYPE_CHECKING:
    from dledger_py.client import Message


@admin.command("deadLetters")
@common
@click.option("-g", "--groupName", "group", required=True, help="Consumer group.")
@click.option("--body", is_flag=True, help="Print the body of each.")
def dead_letters(name_servers: str, as_json: bool, group: str, body: bool) -> None:
    """List what a group could not consume, the oldest first."""
    import trio

    from dledger_py.admin import dead_letters as letters
    from dledger_py.client import connect

    found: list[Message] = []

    async def read() -> None:
        async with connect(name_servers) as client:
            found.extend([each async for each in letters.dead_letters(client, group)])

    trio.run(read)
    if as_json:
        print_json([_as_json(letter) for letter in found])
        return
    if not found:
        say(f"group {group} has no dead letters")
        return
    print_table(
        columns("Broker Name", ">Offset", "Stored", "Topic", "Tag", "Keys", ">Tries", "Id", "Body"),
        [
            (
                letter.queue.broker,
                letter.queue_offset,
                when(round(letter.stored_at.timestamp() * 1000)),
                letter.topic,
                letter.tag,
                " ".join(letter.keys),
                letter.reconsume_times,
                letter.message_id,
                body_text(letter, None if body else BODY_SHOWN_CHARACTERS),
            )
            for letter in found
        ],
    )


@admin.command("resendDeadLetters")
@common
@click.option("-g", "--groupName", "group", required=True, help="Consumer group.")
@click.option("-o", "--offset", "offsets", type=int, multiple=True, help="Only these; repeatable.")
@click.option("--all", "every", is_flag=True, help="Every one there is now.")
@click.option("--to", help="Topic to send to; without it only this group gets them again.")
def resend_dead_letters(
    name_servers: str,
    as_json: bool,
    group: str,
    offsets: tuple[int, ...],
    every: bool,
    to: str | None,
) -> None:
    """Send dead letters once more. They stay where they are, too."""
    import trio

    from dledger_py.admin import dead_letters as letters
    from dledger_py.client import connect

    if every == bool(offsets):
        raise click.UsageError("name letters by --offset, or say --all")
    sent: list[dict[str, object]] = []

    async def send() -> None:
        async with connect(name_servers) as client:
            found = [
                each
                async for each in letters.dead_letters(client, group)
                if every or each.queue_offset in offsets
            ]
            missing = set(offsets) - {letter.queue_offset for letter in found}
            if missing:
                raise click.UsageError(
                    f"group {group} has no dead letter at offset {min(missing)}: nothing was sent"
                )
            for letter in found:
                receipt = await letters.send_again(client, letter, group, to)
                sent.append(
                    {
                        "offset": letter.queue_offset,
                        "topic": receipt.topic,
                        "messageId": receipt.message_id,
                    }
                )
                if not as_json:
                    say(f"{letter.queue_offset} sent to {receipt.topic} as {receipt.message_id}")

    trio.run(send)
    if as_json:
        print_json(sent)
    else:
        say(f"{len(sent)} sent")


def _as_json(letter: "Message") -> dict[str, object]:
    return {
        "brokerName": letter.queue.broker,
        "queueId": letter.queue.queue_id,
        "offset": letter.queue_offset,
        "storedTimestamp": round(letter.stored_at.timestamp() * 1000),
        "topic": letter.topic,
        "messageId": letter.message_id,
        "reconsumeTimes": letter.reconsume_times,
        "properties": dict(letter.properties),
        "body": body_text(letter, None),
    }
