"""Golden scripts: commands above `---`, what they caused below, blank line, next block."""

from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent / "scripts"


@pytest.mark.parametrize("name", sorted(path.stem for path in HERE.glob("*.txt")))
def test_script(name: str, stage: Any, request: pytest.FixtureRequest) -> None:
    path = HERE / f"{name}.txt"
    written = path.read_text()
    actual = "\n".join(played(stage, block) for block in written.strip().split("\n\n"))
    if request.config.getoption("--rewrite-scripts") and actual != written:
        path.write_text(actual)
        pytest.fail(f"{name}.txt was rewritten: look at the difference, then run again")

    assert actual == written


def played(stage: Any, block: str) -> str:
    """Play one block and return it with what it caused."""
    commands = block.split("\n---")[0].splitlines()
    stage.lines.clear()
    for command in commands:
        if command and not command.startswith("#"):
            stage.play(command)
    return "\n".join([*commands, "---", *stage.lines, ""])
