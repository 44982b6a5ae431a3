"""`dledger namesrv` and `dledger broker`: the servers themselves, in this process."""

import sys
from collections.abc import Callable
from typing import Any

import click


def _settings_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(
        (
            click.option("--config", type=click.Path(dir_okay=False), help="TOML file."),
            click.option(
                "--set", "settings", multiple=True, metavar="KEY=VALUE", help="One setting."
            ),
            click.option("--print-config", is_flag=True, help="Show every setting and its origin."),
        )
    ):
        command = option(command)
    return command


@click.command()
@_settings_options
def namesrv(**options: Any) -> None:
    """Run a name server until Ctrl-C.

    Settings: defaults < --config file < environment (DLEDGER_LISTEN=…) < --set.
    """
    from namesrv.__main__ import main

    sys.exit(main(_arguments(**options)))


@click.command()
@_settings_options
def broker(**options: Any) -> None:
    """Run one member of a broker group until Ctrl-C.

    Settings: defaults < --config file < environment (DLEDGER_LISTEN=…) < --set.
    """
    from broker.__main__ import main

    sys.exit(main(_arguments(**options)))


def _arguments(config: str | None, settings: tuple[str, ...], print_config: bool) -> list[str]:
    arguments = [] if config is None else ["--config", config]
    for each in settings:
        arguments += ["--set", each]
    return [*arguments, "--print-config"] if print_config else arguments
