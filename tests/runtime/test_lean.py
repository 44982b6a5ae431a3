"""What a server's process does not load."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("server", ["broker", "namesrv"])
def test_a_server_loads_no_rich_and_it_is_there_for_who_asks(server: str) -> None:
    program = (
        f"import sys, {server}.__main__\n"
        "print(*(each in sys.modules for each in ('structlog', 'rich')))\n"
        "import rich.console\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "True False\n" == ended.stdout
