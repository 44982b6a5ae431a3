"""`python -m broker --config F [--set key=value]… [--print-config]`"""

import sys
from collections.abc import Sequence

import dledger_py.runtime.lean  # noqa: F401 (comes first)

# isort: split
from broker.config import BrokerConfig
from broker.node import serve
from dledger_py.runtime.program import run_server


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a member of a broker group, or of several, until SIGTERM or SIGINT; the exit code."""
    return run_server(
        "broker", "A member of a broker group, or of several.", BrokerConfig, serve, arguments
    )


if __name__ == "__main__":
    sys.exit(main())
