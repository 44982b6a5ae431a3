"""`python -m namesrv [--config F] [--set key=value]… [--print-config]`"""

import sys
from collections.abc import Sequence

import dledger_py.runtime.lean  # noqa: F401 (comes first)

# isort: split
from dledger_py.runtime.program import run_server
from namesrv.app import serve
from namesrv.config import NamesrvConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a name server until SIGTERM or SIGINT; the exit code."""
    return run_server("namesrv", "A RocketMQ name server.", NamesrvConfig, serve, arguments)


if __name__ == "__main__":
    sys.exit(main())
