"""What commands print: JSON for programs, aligned columns for pipes, colour for people.

Cells of a table are text; right-aligned where a column holds numbers. Nothing is cut off when
nobody watches a terminal.
"""

import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

WIDTH_MAX = 2000
"""No table is wider."""

STYLES = {"leader": "bold green", "running": "green", "down": "bold red", "paused": "yellow"}


@frozen(kw_only=True)
class Column:
    name: str
    right: bool = False


def program() -> str:
    """How this program was called, for commands to copy: not every environment is activated."""
    called = Path(sys.argv[0])
    if called.name != "dledger":
        return "dledger"
    found = shutil.which("dledger")
    if found is not None and Path(found).resolve() == called.resolve():
        return "dledger"
    return short_path(called)


def short_path(path: Path) -> str:
    """A path to copy: from here, or from the root if that is shorter."""
    return min(os.path.relpath(path), str(path.absolute()), key=len)


def columns(*names: str) -> tuple[Column, ...]:
    """Columns by name; `>name` is right-aligned."""
    return tuple(Column(name=name.removeprefix(">"), right=name.startswith(">")) for name in names)


def print_json(document: Any) -> None:
    print(json.dumps(document, indent=2, ensure_ascii=False))


def printable(text: str) -> str:
    """Text that anybody may have written, without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def print_table(shape: Sequence[Column], rows: Sequence[Sequence[object]]) -> None:
    """A table; rich on a terminal, plain columns with a `#` header elsewhere, as mqadmin's."""
    cells = [["" if cell is None else printable(str(cell)) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _print_rich(shape, cells)
    else:
        _print_plain(shape, cells)


def say(text: str = "", *, style: str | None = None) -> None:
    """A line for people."""
    if style is not None and sys.stdout.isatty():
        from rich.console import Console

        Console(highlight=False).print(text, style=style, markup=False, soft_wrap=True)
    else:
        print(text, flush=True)


def _print_plain(shape: Sequence[Column], cells: list[list[str]]) -> None:
    header = [f"#{column.name}" for column in shape]
    widths = [max(map(len, each)) for each in zip(header, *cells, strict=True)]
    for row in (header, *cells):
        padded = [
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(row, widths, shape, strict=True)
        ]
        print("  ".join(padded).rstrip())


def _print_rich(shape: Sequence[Column], cells: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for column in shape:
        table.add_column(column.name, justify="right" if column.right else "left", no_wrap=True)
    for row in cells:
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    # Wider than the terminal: let the terminal break lines, rather than cut addresses to pieces.
    natural = Console(width=WIDTH_MAX).measure(table).maximum
    Console(highlight=False, width=max(Console().width, natural)).print(table)
