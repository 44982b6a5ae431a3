"""`python -m namesrv [--config F] [--set key=value]… [--print-config]`"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from dledger_py.runtime import logs, process, settings
from namesrv.app import serve
from namesrv.config import NamesrvConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a name server until SIGTERM or SIGINT; the exit code."""
    parser = argparse.ArgumentParser(prog="namesrv", description="A RocketMQ name server.")
    parser.add_argument("--config", type=Path, help="TOML file with settings")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--print-config", action="store_true", help="show settings and origins")
    options = parser.parse_args(arguments)
    try:
        loaded = settings.load_with_origins(NamesrvConfig, options.config, os.environ, options.set)
        if options.print_config:
            print(settings.print_config(loaded), end="")
            return 0
        logs.configure(level=loaded.config.log_level)
    except ValueError as error:
        print(f"namesrv: {error}", file=sys.stderr)
        return settings.EXIT_SETTINGS
    process.raise_file_limit()
    return process.run(serve, loaded.config)


if __name__ == "__main__":
    sys.exit(main())
