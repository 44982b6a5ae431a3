"""What a member shows to the others, and whom it believes.

With certificates, nobody is a member by saying so: the CA decides who belongs to the cluster, and
the certificate as whom somebody may speak. The dialler wants the name of the member it looks for,
the listener the name that the hello gives; so a hello that somebody overheard is of no use to him.
Each member is checked against itself when it starts, so what fails later is the other side's.

Laws: renewed files are used from the next connection on; those that cannot be used are told of, and
the old ones stay. Connections that are open stay open.

Elsewhere: TLS itself (`dledger_py.runtime.tls`), when others are refused (peer_link, fetch_client).
"""

from __future__ import annotations

import os
from threading import Lock

import structlog
from attrs import define, field

from dledger_py.ledger.config import LedgerConfig
from dledger_py.runtime.host import Host, Socket
from dledger_py.runtime.tls import Contexts, TlsError, TlsFiles, TlsSocket, listed

log = structlog.get_logger()

_Seen = tuple[tuple[int, int, int] | None, ...]
"""Of each file: inode, size and time of the last change, in ns; None if it is not there."""


@define(eq=False)
class Credentials:
    """One member's certificate, read when it is first needed and whenever its files change."""

    node: str
    files: TlsFiles
    _contexts: Contexts | None = field(default=None, init=False)
    _seen: _Seen = field(default=(), init=False)
    _looking: Lock = field(factory=Lock, init=False)

    @classmethod
    def of(cls, config: LedgerConfig) -> Credentials | None:
        """None for a member that speaks plainly."""
        return cls(config.node, config.tls) if config.tls is not None else None

    async def meet(self, sock: Socket, peer: str, host: Host) -> TlsSocket:
        """The connection to a member that was dialled, once it has proved that it is `peer`. Takes
        as long as the other side likes. On any error the socket is closed. **Raises** TlsError,
        OSError."""
        try:
            contexts = await self._current(host)
            tls = TlsSocket(sock, contexts.dialling, server_side=False)
            await tls.shake_hands(host)
            if peer not in tls.names:
                raise TlsError(f"its certificate is for {listed(tls.names)}, not for {peer!r}")
        except BaseException:
            sock.close()
            raise
        return tls

    async def receive(self, sock: Socket, host: Host) -> TlsSocket:
        """The connection with somebody who has dialled and whom the CA knows. As whom it may speak
        is told by its `names`. Takes as long as the other side likes; the socket stays the
        caller's. **Raises** TlsError, OSError."""
        contexts = await self._current(host)
        tls = TlsSocket(sock, contexts.listening, server_side=True)
        await tls.shake_hands(host)
        return tls

    async def _current(self, host: Host) -> Contexts:
        await host.run_in_thread(self._look, abandon_on_cancel=True)
        if self._contexts is None:
            raise TlsError("our own certificate cannot be used")
        return self._contexts

    def _look(self) -> None:
        """Worker thread: read the files if they have changed."""
        files = (self.files.certificate, self.files.key, self.files.ca)
        with self._looking:
            seen = tuple(_look_at(file) for file in files)
            if seen == self._seen:
                return
            self._seen = seen
            try:
                contexts = self.files.load(self.node)
            except ValueError as error:
                log.warning("tls.not_loaded", node=self.node, reason=str(error))
                return
            self._contexts = contexts
            log.info("tls.loaded", node=self.node, expires=contexts.expires)


def _look_at(file: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
