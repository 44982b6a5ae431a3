"""TLS on a non-blocking socket, with the calls and the errors of a plain one; both sides prove who
they are.

The standard library's TLS runs between two buffers in memory; what is here moves their bytes over a
socket. Laws:

- A call never waits. What `send` counts as sent is out of this process's hands, as with a plain
  socket; what it does not count must be given to it again, as whoever writes a stream does anyway.
- Nothing readable is left behind by a read: whoever waits for the socket afterwards waits for
  something that is yet to come. So a reader's buffer has room for two records at least.
- TLS 1.3 or newer, in the library's choice of ciphers: everybody who speaks here is of the same
  program. No session is resumed, so that whoever comes is looked at.
- Who shows no certificate of the given CA gets no further than the handshake. A name is a DNS entry
  of the certificate's subjectAltName, letter by letter: no wildcards, and no common name.
- The end of a connection is the end of its bytes, also without TLS's own goodbye: frames say how
  long they are.

Elsewhere: deadlines (the callers'), which name has to be there, and when files are read again
(`dledger_py.ledger.credentials`).
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from attrs import frozen

from dledger_py.runtime.host import Host, Socket

RECORD_MAX_BYTES: Final = (16 << 10) + 512
"""Longer than any record: 16 KiB of content, a header of 5 bytes, and at most 256 around it."""

READ_MIN_BYTES: Final = 2 * RECORD_MAX_BYTES
"""What a reader must have room for."""

HANDSHAKE_READ_BYTES: Final = 4 << 10
"""At most so much may follow the handshake unread: less than a record."""

ENCRYPT_BYTES: Final = 256 << 10
"""So much is encrypted before it is sent: what is held twice if the socket does not take it."""

_FIRST_BYTES: Final = b"\x15\x16"
"""Whoever speaks TLS begins with an alert or a handshake."""


class TlsError(OSError):
    """The other side could not prove who it is, or does not believe that we are who we are. The
    connection is of no use. Kind: refused."""


class NotTls(TlsError):
    """The other side does not speak TLS."""


@frozen
class Contexts:
    """One certificate, as it is shown to those we dial and to those who dial us."""

    dialling: ssl.SSLContext
    listening: ssl.SSLContext
    expires: str
    """When the certificate ends to be valid, as OpenSSL writes it."""


@frozen
class TlsFiles:
    """Where a process finds its certificate, the key of it, and the CA that signs everybody's."""

    certificate: str
    key: str
    ca: str

    @classmethod
    def of(cls, *, certificate: str, key: str, ca: str) -> TlsFiles | None:
        """All of them, or none. **Raises** ValueError, naming what is missing."""
        given = {"tls_certificate": certificate, "tls_key": key, "tls_ca": ca}
        missing = [name for name, file in given.items() if not file]
        if len(missing) == len(given):
            return None
        if missing:
            raise ValueError(
                f"{' and '.join(missing)} missing: tls_certificate, tls_key and tls_ca go together"
            )
        return cls(certificate=certificate, key=key, ca=ca)

    def load(self, name: str) -> Contexts:
        """Read them, and have them prove to each other that they speak for `name`.

        Blocks on files. **Raises** ValueError, naming the setting and the file.
        """
        for setting, file in (
            ("tls_certificate", self.certificate),
            ("tls_key", self.key),
            ("tls_ca", self.ca),
        ):
            try:
                with open(file, "rb"):
                    pass
            except OSError as error:
                raise ValueError(f"{setting} = {file!r}: {error.strerror}") from error
        dialling = self._context(ssl.PROTOCOL_TLS_CLIENT)
        listening = self._context(ssl.PROTOCOL_TLS_SERVER)
        listening.num_tickets = 0
        return Contexts(dialling, listening, self._prove(dialling, listening, name))

    def _context(self, protocol: int) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # names are ids of members: see `TlsSocket.names`
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_cert_chain(self.certificate, self.key, password=self._no_password)
        except ssl.SSLError as error:
            raise ValueError(
                f"tls_certificate = {self.certificate!r} and tls_key = {self.key!r} are no"
                f" certificate and its key in PEM: {_text(error)}"
            ) from error
        try:
            context.load_verify_locations(cafile=self.ca)
        except ssl.SSLError as error:
            raise ValueError(
                f"tls_ca = {self.ca!r}: no certificates in PEM: {_text(error)}"
            ) from error
        return context

    def _no_password(self) -> str:
        # Without this OpenSSL would ask for it on the terminal.
        raise ValueError(f"tls_key = {self.key!r}: it is encrypted, and nobody is there to ask")

    def _prove(self, dialling: ssl.SSLContext, listening: ssl.SSLContext, name: str) -> str:
        """A handshake with ourselves: it fails wherever one with the others would."""
        there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = dialling.wrap_bio(back, there)
        server = listening.wrap_bio(there, back, server_side=True)
        try:
            for side in (client, server, client, server):
                with suppress(ssl.SSLWantReadError):
                    side.do_handshake()
        except ssl.SSLError as error:
            raise ValueError(
                f"tls_certificate = {self.certificate!r} does not pass under tls_ca ="
                f" {self.ca!r}: {_text(error)}"
            ) from error
        names = _names(client)
        if name not in names:
            raise ValueError(
                f"tls_certificate = {self.certificate!r} is for {listed(names)}: {name!r} must be"
                " a DNS entry of its subjectAltName"
            )
        own: Any = client.getpeercert()  # the standard library's own shape of a certificate
        return str(own["notAfter"])


class TlsSocket:
    """A connection that others use as the socket below it. Made by `shake_hands`, which is what
    makes it usable."""

    def __init__(self, sock: Socket, context: ssl.SSLContext, *, server_side: bool) -> None:
        self._socket = sock
        self._server_side = server_side
        self._received = ssl.MemoryBIO()
        self._encrypted = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._received, self._encrypted, server_side=server_side)
        self._read: Any = self._tls.read  # the stubs know only the form that returns bytes
        self._unsent = memoryview(b"")
        self._ahead = 0  # encrypted, and not counted as sent yet
        self._failure: OSError | None = None  # found behind something readable

    @property
    def names(self) -> tuple[str, ...]:
        """For whom the other side's certificate speaks."""
        return _names(self._tls)

    async def shake_hands(self, host: Host) -> None:
        """Takes as long as the other side likes. **Raises** TlsError, OSError."""
        heard = False
        while True:
            done = self._try_handshake()
            await self._push_all(host)
            if done:
                return
            await host.wait_readable(self._socket)
            try:
                content = self._socket.recv(HANDSHAKE_READ_BYTES)
            except BlockingIOError:
                continue
            except OSError as error:
                raise TlsError(f"broke off in the handshake: {error.strerror}") from error
            if not content and self._server_side and not heard:
                raise ConnectionAbortedError("came and left without a word")
            if not content:
                raise TlsError("closed the connection in the handshake; does it speak TLS?")
            if not heard and content[0] not in _FIRST_BYTES:
                raise NotTls("does not speak TLS")
            heard = True
            self._received.write(content)

    def _try_handshake(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            with suppress(OSError):
                self._push()  # tells the other side why
            raise _told(error) from error
        return True

    # ---- what a socket does

    def recv_into(self, buffer: memoryview, /) -> int:
        """As a socket's; raises BlockingIOError also while a record is incomplete."""
        room = len(buffer) - RECORD_MAX_BYTES
        assert room >= RECORD_MAX_BYTES, "bytes would be left behind that no waiting tells of"
        if self._failure is not None:
            raise self._failure
        try:
            content = self._socket.recv(room)
        except BlockingIOError:
            if not self._received.pending:  # only ever from behind the handshake
                raise
        else:
            if not content:
                return 0
            self._received.write(content)
        filled = self._decrypt(buffer)
        if filled:
            return filled
        if self._failure is not None:
            raise self._failure
        raise BlockingIOError

    def _decrypt(self, buffer: memoryview) -> int:
        filled = 0
        try:
            while self._received.pending and filled < len(buffer):
                rest = buffer[filled:]
                filled += self._read(len(rest), rest)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self._failure = _told(error)
        return filled

    def recv(self, size: int, /) -> bytes:
        buffer = bytearray(size)
        count = self.recv_into(memoryview(buffer))
        return bytes(memoryview(buffer)[:count])

    def sendmsg(self, parts: Sequence[bytes | memoryview], /) -> int:
        return self.send(parts[0] if len(parts) == 1 else b"".join(parts))

    def send(self, content: bytes | memoryview, /) -> int:
        self._push()
        view = memoryview(content)
        sent = min(self._ahead, len(view))
        self._ahead -= sent
        while sent < len(view):
            piece = view[sent : sent + ENCRYPT_BYTES]
            written = self._tls.write(piece)
            assert written == len(piece), "a buffer in memory takes everything"
            try:
                self._push()
            except BlockingIOError:
                self._ahead = written
                if sent:
                    break
                raise
            sent += written
        return sent

    def _push(self) -> None:
        """Send all that is encrypted. **Raises** BlockingIOError if the socket does not take it
        all."""
        while self._unsent or self._encrypted.pending:
            if not self._unsent:
                self._unsent = memoryview(self._encrypted.read())
            self._unsent = self._unsent[self._socket.send(self._unsent) :]

    async def _push_all(self, host: Host) -> None:
        while True:
            try:
                self._push()
            except BlockingIOError:
                await host.wait_writable(self._socket)
            else:
                return

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def getsockname(self) -> Any:
        return self._socket.getsockname()

    def setblocking(self, flag: bool, /) -> None:
        self._socket.setblocking(flag)

    def setsockopt(self, level: int, option: int, value: int, /) -> None:
        self._socket.setsockopt(level, option, value)

    def bind(self, address: Any, /) -> None:
        raise OSError("a connection is bound already")

    def listen(self, backlog: int, /) -> None:
        raise OSError("a connection cannot listen")

    def accept(self) -> tuple[Socket, Any]:
        raise OSError("a connection cannot listen")


def _names(tls: ssl.SSLObject) -> tuple[str, ...]:
    certificate: Any = tls.getpeercert() or {}  # the standard library's own shape of a certificate
    return tuple(name for kind, name in certificate.get("subjectAltName", ()) if kind == "DNS")


def listed(names: Sequence[str]) -> str:
    """For people."""
    return ", ".join(map(repr, names)) or "nobody"


def _told(error: ssl.SSLError) -> TlsError:
    """OpenSSL's errors, as a sentence about the other side."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return TlsError(f"its certificate does not pass: {error.verify_message}")
    reason = error.reason or ""
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return TlsError("shows no certificate")
    if "ALERT_" in reason:
        alert = reason.partition("ALERT_")[2].replace("_", " ").lower()
        return TlsError(f"refuses us: {alert}")
    return TlsError(f"breaks the rules of TLS: {_text(error)}")


def _text(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return (error.reason or str(error)).replace("_", " ").lower()
