"""The page about the broker's bytes says what the code does."""

import re
from pathlib import Path

import attrs

from broker.formats import UNIT, UNITS_PER_FILE
from broker.machine import end_transaction, moves, put_messages, revivals, snapshot
from broker.machine.codec import ROWS
from broker.machine.commands import Pop
from broker.machine.end_transaction import EndTransaction
from broker.machine.groups import GroupConfig
from broker.machine.moves import Move, MoveMessages
from broker.machine.pops import Claim
from broker.machine.put_messages import PutMessages
from broker.machine.revivals import Revival, RevivePops
from broker.machine.topics import TopicConfig

PAGE = (Path(__file__).parents[2] / "docs" / "formats-broker.md").read_text()


def table(*columns: str) -> list[tuple[str, ...]]:
    """The rows of the first table with these columns."""
    head = "| " + " | ".join(columns) + " |\n"
    lines = PAGE[PAGE.index(head) + len(head) :].splitlines()[1:]
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append(tuple(cell.strip() for cell in line.strip("|").split("|")))
    return rows


def fields(kind: type) -> str:
    return ", ".join(field.name for field in attrs.fields(kind))


def test_every_command_is_on_the_page() -> None:
    rows = {
        (str(row.tag), str(row.version), command.__name__, fields(command))
        for command, row in ROWS.items()
    }
    own = {
        (str(module.TAG), str(module.VERSION), command.__name__, "a layout of its own")
        for module, command in (
            (put_messages, PutMessages),
            (moves, MoveMessages),
            (end_transaction, EndTransaction),
            (revivals, RevivePops),
        )
    }

    assert sorted(rows | own, key=lambda row: int(row[0])) == table(
        "tag", "version", "command", "fields"
    )


def test_every_field_of_a_setting_is_on_the_page() -> None:
    rows = dict(table("value", "array of"))

    assert (fields(TopicConfig), fields(GroupConfig)) == (rows["topic"], rows["group"])


def test_every_field_of_a_move_is_on_the_page() -> None:
    assert f"the head, one canonical CBOR array: {fields(Move)} |" in PAGE


def test_every_field_of_a_revival_is_on_the_page() -> None:
    assert f"the head, one canonical CBOR array: {fields(Revival)} |" in PAGE


def test_every_field_of_a_pop_is_on_the_page() -> None:
    rows = dict(table("value", "array of"))

    assert (f"arrays of {fields(Pop)}", f"arrays of {fields(Claim)}") == (
        rows["pops"],
        rows["claims"],
    )


def test_every_section_of_a_snapshot_is_on_the_page() -> None:
    kinds = [(str(kind.value), kind.name) for kind in snapshot.Kind]

    assert kinds == [row[:2] for row in table("kind", "section", "body")]
    assert f"version: {snapshot.VERSION} " in PAGE[PAGE.index("## Snapshot") :]


def test_the_sizes_on_the_page_are_those_of_the_code() -> None:
    assert f"at most {put_messages.MESSAGES_MAX:,}" in PAGE
    assert f"{put_messages.MESSAGE.size} *m*" in PAGE
    assert f"after {snapshot.ROWS_MAX:,} rows" in PAGE
    assert f"larger than {snapshot.BODY_BYTES_MAX // 1024} KiB" in PAGE
    assert f"{UNITS_PER_FILE:,} units ({UNITS_PER_FILE * UNIT.size:,}\nbytes)" in PAGE


def test_the_layouts_on_the_page_add_up() -> None:
    """Each numbered table: an offset is the offset before and the size there."""
    checked = 0
    for block in re.findall(r"\| offset \| size \| field \|\n\|---:.*\n((?:\|.*\n)+)", PAGE):
        at = 0
        for line in block.splitlines():
            offset, size = (cell.strip() for cell in line.split("|")[1:3])
            if offset:
                assert at == int(offset), line
                checked += 1
            if not size.isdigit():
                break
            at += int(size)

    assert checked >= 20
