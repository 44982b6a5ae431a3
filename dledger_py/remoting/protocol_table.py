"""The protocol manual, printed from the declarations themselves.

    python -m dledger_py.remoting.protocol_table > docs/protocol.md

A test fails when the page is stale. `!` marks a field that must be there; all values travel as
strings, whatever their type.
"""

import importlib
import pkgutil
import sys
from collections.abc import Iterator
from typing import Any, get_type_hints

import attrs

from dledger_py.remoting import commands
from dledger_py.remoting.wire.codes import RequestCode, ResponseCode
from dledger_py.remoting.wire.schema import (
    Header,
    Int32,
    Request,
    Spelling,
    reply_type,
    spellings,
    value_type,
    wire_names,
)

_TYPES: dict[Any, str] = {str: "str", int: "long", Int32: "int", bool: "bool"}

_PREAMBLE = """\
# Protocol

Printed by `python -m dledger_py.remoting.protocol_table`; do not edit.

Requests of RocketMQ's remoting protocol that are declared here, by code. A field marked `!` must
be there; the others have defaults. All values travel as strings; *int* is 32 bits wide, *long* 64.
Which server answers a request, and with what refusals, is said by its rooms.
"""


def import_vocabulary() -> None:
    """Import every module of `commands`, so that all requests are declared."""
    for module in pkgutil.iter_modules(commands.__path__):
        importlib.import_module(f"{commands.__name__}.{module.name}")


def protocol_page() -> str:
    """The whole page."""
    import_vocabulary()
    lines = [_PREAMBLE, *_request_table(), "", "## Result codes", "", *_code_table(), ""]
    return "\n".join(lines)


def _request_table() -> Iterator[str]:
    yield "| code | name | class | request | reply | what it does |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for spelling in spellings():
        request = spelling.request
        if not request.__module__.startswith(commands.__name__):
            continue  # declared by a test
        reply = reply_type(request)
        cells = (
            str(int(spelling.code)),
            RequestCode(spelling.code).name,
            f"`{request.__module__.rpartition('.')[2]}.{request.__name__}`",
            _request_fields(spelling),
            _fields(reply, wire_names(reply)) if reply else "-",
            _first_sentence(request),
        )
        yield f"| {' | '.join(cells)} |"


def _code_table() -> Iterator[str]:
    yield "| code | name |"
    yield "| --- | --- |"
    for code in ResponseCode:
        yield f"| {int(code)} | {code.name} |"


def _request_fields(spelling: Spelling) -> str:
    if spelling.names != wire_names(spelling.request) and spelling.code != spelling.request.code:
        letters = (f"{name} = {attribute}" for attribute, name in spelling.names.items())
        return f"as {int(spelling.request.code)}, spelled " + ", ".join(letters)
    return _fields(spelling.request, spelling.names)


def _fields(header: type[Header], names: Any) -> str:
    hints = get_type_hints(header, include_extras=True)
    cells = []
    for field in attrs.fields(header):
        kind, _ = value_type(hints[field.name])
        mark = "!" if field.default is attrs.NOTHING else ""
        cells.append(f"{names[field.name]}:{_TYPES[kind]}{mark}")
    return ", ".join(cells) or "-"


def _first_sentence(request: type[Request[Any]]) -> str:
    """The docstring's first paragraph up to its code, on one line."""
    paragraph = " ".join((request.__doc__ or "").partition("\n\n")[0].split())
    return paragraph.partition(" Code ")[0].replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(protocol_page())
