"""docs/traps.md names tests, scripts and planted bugs; all of them exist."""

import ast
import re
from functools import cache
from pathlib import Path

from chaos.sim.mutants import MUTANTS

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| (\d+) \| (.+) \| (.+) \|$", re.MULTILINE)
PAGE = (ROOT / "docs" / "traps.md").read_text()


@cache
def names_in(path: Path) -> frozenset[str]:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    tree = ast.parse(path.read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, functions))


def is_missing(name: str) -> bool:
    file, _, test = name.partition("::")
    path = ROOT / "tests" / file
    if not path.is_file():
        return True
    return file.endswith(".py") and (not test.startswith("test_") or test not in names_in(path))


def missing(page: str) -> list[str]:
    planted = {mutant.name for mutant in MUTANTS if not mutant.harmless}
    rows = [held for _, _, held in ROW.findall(page)]
    tests = [name for held in rows for name in re.findall(r"`([^`]+)`", held)]
    bugs = [name for held in rows for name in re.findall(r'"([^"]+)"', held)]
    return [name for name in tests if is_missing(name)] + [n for n in bugs if n not in planted]


def test_there_are_twenty_five_and_each_is_held_by_something() -> None:
    rows = ROW.findall(PAGE)

    assert [str(number) for number in range(1, 26)] == [number for number, _, _ in rows]
    assert all("::" in held or ".txt" in held for _, _, held in rows)


def test_all_that_is_named_exists() -> None:
    assert [] == missing(PAGE)


def test_what_does_not_exist_is_noticed() -> None:
    paper = "raft/test_paper.py"
    row = f'| 1 | it | `{paper}::test_nothing` `raft/scripts/no.txt` `{paper}` "no" |'

    assert [f"{paper}::test_nothing", "raft/scripts/no.txt", paper, "no"] == missing(row)
