"""What the command lines of our servers share: options, settings, logs, and the way to
`process.run`."""

import argparse
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from dledger_py.runtime import logs, process, settings


class ServerConfig(Protocol):
    """What every server's settings have."""

    @property
    def log_level(self) -> str: ...


ConfigT = TypeVar("ConfigT", bound=ServerConfig)


def run_server(
    name: str,
    description: str,
    config: type[ConfigT],
    serve: Callable[[ConfigT], Awaitable[None]],
    arguments: Sequence[str] | None = None,
) -> int:
    """Run `NAME [--config F] [--set key=value]… [--print-config]`; the process's exit code."""
    parser = argparse.ArgumentParser(prog=name, description=description)
    parser.add_argument("--config", type=Path, help="TOML file with settings")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--print-config", action="store_true", help="show settings and origins")
    options = parser.parse_args(arguments)
    try:
        loaded = settings.load_with_origins(config, options.config, os.environ, options.set)
        if options.print_config:
            print(settings.print_config(loaded), end="")
            return 0
        logs.configure(level=loaded.config.log_level)
    except ValueError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return settings.EXIT_SETTINGS
    process.raise_file_limit()
    return process.run(serve, loaded.config)
