"""`dledger`: the entry point, and what its commands share."""

import sys
from collections.abc import Sequence

import click

from dledger_py.cli import (  # noqa: F401 (their commands join admin's)
    broker_commands,
    dead_letter_commands,
    group_commands,
    message_commands,
)
from dledger_py.cli.admin_commands import admin
from dledger_py.cli.backup_commands import backup, rescue, restore
from dledger_py.cli.cluster_commands import cluster
from dledger_py.cli.exits import DONE, INTERRUPTED, describe, fail
from dledger_py.cli.log_commands import log
from dledger_py.cli.server_commands import broker, namesrv


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="dledger-py", prog_name="dledger")
def cli() -> None:
    """A message broker that speaks RocketMQ's protocol and replicates its log by Raft.

    Three brokers and a name server on this machine: dledger cluster up
    """


for command in (cluster, admin, log, broker, namesrv):
    cli.add_command(command)
for command in (backup, restore, rescue):
    log.add_command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit with a code that tells the truth (see `exits`)."""
    try:
        code = cli.main(arguments, prog_name="dledger", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(INTERRUPTED)
    except Exception as error:
        told = describe(error)
        if told is None:
            raise
        fail(told[1], told[0])
    sys.exit(code if isinstance(code, int) else DONE)
