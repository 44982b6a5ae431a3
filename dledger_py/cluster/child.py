"""What runs first in a child: it dies with its parent, then becomes the server.

    python -m dledger_py.cluster.child PARENT-PID broker --config n0.toml

No server of ours may outlive the process that composed it, however that ends. Linux kills a child
whose parent dies if the child asked for it (PR_SET_PDEATHSIG), a stopped child too, which watching
a pipe could not. Asking *here*, after exec, needs no code between fork and exec, which is not safe
in a process with threads. The signal comes when the parent's *thread* ends, so the parent must
start us from the thread that runs its event loop.
"""

import ctypes
import os
import runpy
import signal
import sys
from typing import NoReturn

_PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, module, *arguments = sys.argv[1:]
    die_with_parent(int(parent))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def die_with_parent(parent: int) -> None:
    """Be killed when the parent's thread ends; at once if it has ended already."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        _give_up(f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:
        _give_up(f"process {parent} has ended")


def _give_up(why: str) -> NoReturn:
    sys.exit(f"not started, for nobody would stop it: {why}")


if __name__ == "__main__":
    main()
