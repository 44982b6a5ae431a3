"""Ports that stay ours while a server restarts.

A port is reserved by a bound socket that never listens. SO_REUSEADDR on both sides lets the server
bind and listen on it all the same, while nobody is given the port by asking for port 0, and the
kernel does not use it for outgoing connections. SO_REUSEPORT would do so, too, but lets two servers
listen side by side and share the connections, which is the very accident to be noticed.

SO_REUSEADDR at the bind would also let two reservations share a port while nobody listens there. So
a port that is ours to choose is bound without it first, which fails if anybody at all has it, and
only then opened to our server. A port we were told keeps it from the start: connections of the run
before may still be in TIME_WAIT there.

Who holds a port that cannot be reserved is read from /proc, where there is one.
"""

import errno
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from attrs import define, field

from dledger_py.cluster.errors import PortTaken

VIP_BELOW = 2
"""RocketMQ clients with the "VIP channel" on talk to the broker's port minus two."""

ATTEMPTS_MAX = 50
"""How often the kernel is asked for a port whose neighbour below is free as well."""


@define
class PortReservations:
    """All ports one cluster holds. Not for use from several threads."""

    host: str = "127.0.0.1"
    _sockets: dict[int, socket.socket] = field(factory=dict, init=False)

    def take(self, port: int, *, what: str) -> int:
        """Reserve this very port.

        Raises:
            PortTaken: somebody listens there; the message says who, as far as we may know.
        """
        try:
            self._sockets[port] = self._bound(port)
        except OSError as error:
            raise _explained(self.host, port, what, error) from error
        return port

    def take_any(self) -> int:
        """Reserve a port the kernel chooses."""
        bound = self._bound(0, exclusive=True)
        port = int(bound.getsockname()[1])
        self._sockets[port] = bound
        return port

    def take_any_with_vip(self) -> int:
        """Reserve a port the kernel chooses, and the one two below it; return the upper."""
        for _ in range(ATTEMPTS_MAX):
            port = self.take_any()
            try:
                self._sockets[port - VIP_BELOW] = self._bound(port - VIP_BELOW, exclusive=True)
            except OSError:
                self.release(port)
                continue
            return port
        raise PortTaken(
            f"no pair of free ports on {self.host} in {ATTEMPTS_MAX} attempts",
            hint="are nearly all ports in use? Give fixed ones instead.",
        )

    def take_if_free(self, ports: Iterable[int]) -> bool:
        """Reserve all of these, or none."""
        taken: list[int] = []
        for port in ports:
            try:
                self._sockets[port] = self._bound(port)
            except OSError:
                for each in taken:
                    self.release(each)
                return False
            taken.append(port)
        return True

    def release(self, port: int) -> None:
        self._sockets.pop(port).close()

    def close(self) -> None:
        while self._sockets:
            self._sockets.popitem()[1].close()

    def _bound(self, port: int, *, exclusive: bool = False) -> socket.socket:
        bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, not exclusive)
            bound.bind((self.host, port))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        except OSError:
            bound.close()
            raise
        return bound


def holder_of(port: int) -> str | None:
    """Who listens on a port, as "pid 123 (python -m broker)"; None if that cannot be seen."""
    inode = _listening_inode(port)
    if inode is None:
        return None
    for directory in Path("/proc").glob("[0-9]*"):
        if f"socket:[{inode}]" in _open_files(directory):
            command = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            return f"pid {directory.name} ({command[:120]})"
    return None


def _open_files(process: Path) -> Iterator[str]:
    """What the descriptors of a process point to, as far as we may look and they last."""
    try:
        for link in (process / "fd").iterdir():
            with suppress(FileNotFoundError):
                yield os.readlink(link)
    except OSError:  # the process is gone, or somebody else's
        return


def _listening_inode(port: int) -> str | None:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            words = line.split()
            local, state, inode = words[1], words[3], words[9]
            if state == "0A" and int(local.rpartition(":")[2], 16) == port:
                return inode
    return None


def _explained(host: str, port: int, what: str, error: OSError) -> PortTaken:
    if error.errno == errno.EADDRINUSE:
        who = holder_of(port) or "another process (it cannot be seen from here)"
        return PortTaken(
            f"port {port} for {what} is taken by {who}",
            hint="stop that process, or choose other ports (--ports free; or --namesrv-port and"
            " --base-port).",
        )
    if error.errno == errno.EACCES:
        return PortTaken(f"port {port} for {what} needs privileges", hint="choose one above 1023.")
    return PortTaken(f"port {port} for {what} on {host} cannot be used: {error.strerror}")
