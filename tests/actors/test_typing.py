"""`mypy --strict` infers the answer of `ask` and refuses foreign messages."""

from __future__ import annotations

from pathlib import Path

import pytest

SNIPPET = """
from attrs import define
from dledger_py.actors import Call, Child, Inbox, Ref

@define(eq=False)
class Write(Call[int]):
    text: str

@define(eq=False)
class Read(Call[bytes]):
    position: int

class Store:
    async def run(self, inbox: Inbox[Write | Read]) -> None: ...

child = Child("store", Store)

async def use(ref: Ref[Write]) -> None:
    reveal_type(child.ref)
    reveal_type(await child.ref.ask(Write("x")))
    reveal_type(await ref.ask(Read(1)))
    ref.tell_nowait("foreign")

async def narrow() -> None:
    await use(child.ref)
"""


def test_mypy_knows_what_an_ask_answers(tmp_path: Path) -> None:
    api = pytest.importorskip("mypy.api")
    file = tmp_path / "snippet.py"
    file.write_text(SNIPPET)

    report, errors, _ = api.run(["--strict", "--cache-dir", str(tmp_path / "cache"), str(file)])

    assert not errors
    assert 'Revealed type is "dledger_py.actors.actors.Ref[' in report
    assert 'Revealed type is "int"' in report.replace("builtins.", "")
    assert 'Revealed type is "bytes"' in report.replace("builtins.", "")
    assert 'Argument 1 to "tell_nowait" of "Ref" has incompatible type "str"' in report
    assert "Found 1 error in 1 file" in report
