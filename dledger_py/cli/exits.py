"""Exit codes, and which error means which. They are part of the command's interface: scripts rely
on them.

    0  done
    1  refused, or failed: nothing of what was asked happened
    2  wrong usage
    3  a server cannot be reached, or a cluster does not run
    4  uncertain: it may have happened (no answer came)
    130  interrupted

The servers' own codes (70 cannot go on, 78 wrong settings) pass through.
"""

import sys
from typing import NoReturn

DONE = 0
FAILED = 1
USAGE = 2
UNREACHABLE = 3
UNCERTAIN = 4
INTERRUPTED = 130


def describe(error: BaseException) -> tuple[int, str] | None:
    """Exit code and message of an error a user can do something about; None for a bug of ours.

    Goes by the classes that are loaded: an error cannot come from a module that is not.
    """
    client = sys.modules.get("dledger_py.client.errors")
    if client is not None and isinstance(error, client.ClientError):
        if isinstance(error, client.Unreachable):
            return UNREACHABLE, str(error)
        if isinstance(error, client.Indefinite):
            return UNCERTAIN, f"{error}; it may have happened all the same"
        return FAILED, str(error)
    cluster = sys.modules.get("dledger_py.cluster.errors")
    if cluster is not None and isinstance(error, cluster.ClusterError):
        not_there = isinstance(error, cluster.NotRunning)
        return (UNREACHABLE if not_there else FAILED), str(error)
    if isinstance(error, OSError) and error.filename is not None:
        return FAILED, f"{error.filename}: {error.strerror}"
    return None


def fail(message: str, code: int = FAILED) -> NoReturn:
    """Say why on standard error, and end."""
    print(f"dledger: {message}", file=sys.stderr)
    sys.exit(code)
