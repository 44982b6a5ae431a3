"""`python -m broker --config F [--set key=value]… [--print-config]`"""

import sys
from collections.abc import Sequence

from broker.app import serve
from broker.config import BrokerConfig
from dledger_py.runtime.program import run_server


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one member of a broker group until SIGTERM or SIGINT; the exit code."""
    return run_server("broker", "One member of a broker group.", BrokerConfig, serve, arguments)


if __name__ == "__main__":
    sys.exit(main())
