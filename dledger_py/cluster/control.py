"""Asking the keeper of a cluster, from another process, to start a server again.

A server must be the keeper's child, so only the keeper can start it; everything else another shell
may want goes by signals (`attached`). One request per connection to a socket in the cluster's
directory: a JSON line there, a JSON line back.

    {"start": "n0"}    →    {"ok": true}    or    {"error": "…", "hint": "…"}

The socket is addressed through an open directory descriptor, because paths of Unix sockets may have
only 107 bytes and directories of tests are deeper than that.
"""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import trio

from dledger_py.cluster.errors import ClusterError, NotRunning
from dledger_py.cluster.local import LocalCluster

SOCKET_NAME = "control.sock"

LINE_MAX_BYTES = 4096
"""Names are short; an error shows fifteen lines of a log."""

ANSWER_MAX_BYTES = 64 * 1024

READ_TIMEOUT_S = 5.0
"""Whoever connects says what it wants at once."""


async def serve(
    cluster: LocalCluster, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Answer requests until cancelled."""
    with _address(cluster.directory) as address, trio.socket.socket(socket.AF_UNIX) as listener:
        with suppress(FileNotFoundError):  # of a keeper that was killed; the directory is ours now
            os.unlink(address)
        await listener.bind(address)
        listener.listen()
        task_status.started()
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    connection, _ = await listener.accept()
                    nursery.start_soon(_answer, cluster, trio.SocketStream(connection))
        finally:
            with suppress(FileNotFoundError):
                os.unlink(address)


def ask(directory: Path, request: dict[str, str], *, timeout_s: float) -> None:
    """Ask the keeper, and wait until it is done. Blocks the thread.

    Raises: NotRunning if there is no keeper, ClusterError with what it says.
    """
    try:
        with _address(directory) as address, socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout_s)
            connection.connect(address)
            connection.sendall(json.dumps(request).encode() + b"\n")
            line = connection.makefile("rb").readline(ANSWER_MAX_BYTES)
        answer = json.loads(line)
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise NotRunning(
            f"no `dledger cluster up` runs for {directory}",
            hint=f"start it: dledger cluster up --data {directory}",
        ) from error
    except (OSError, ValueError) as error:
        raise ClusterError(f"the keeper of {directory} gave no answer: {error}") from error
    if "error" in answer:
        raise ClusterError(str(answer["error"]), hint=str(answer.get("hint", "")))


async def _answer(cluster: LocalCluster, stream: trio.SocketStream) -> None:
    async with stream:
        with trio.move_on_after(READ_TIMEOUT_S) as deadline:
            line = await stream.receive_some(LINE_MAX_BYTES)
        if deadline.cancelled_caught:
            return
        answer = await _do(cluster, line)
        with suppress(trio.BrokenResourceError):
            await stream.send_all(json.dumps(answer).encode() + b"\n")


async def _do(cluster: LocalCluster, line: bytes) -> dict[str, Any]:
    try:
        request = json.loads(line)
        await cluster.start(str(request["start"]))
    except ClusterError as error:
        return {"error": error.args[0], "hint": error.hint}
    except (ValueError, KeyError, TypeError):
        return {"error": f"not understood: {line[:80]!r}"}
    return {"ok": True}


@contextmanager
def _address(directory: Path) -> Iterator[str]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{fd}/{SOCKET_NAME}"
    finally:
        os.close(fd)
