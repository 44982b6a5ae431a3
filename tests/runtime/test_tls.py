"""TLS on a socket that takes and gives what it likes; and files that cannot be used."""

from __future__ import annotations

import os
import ssl
from collections import deque
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest
import trio
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from dledger_py.runtime import tls
from dledger_py.runtime.tls import READ_MIN_BYTES, NotTls, TlsError, TlsFiles, TlsSocket

CA = trustme.CA()


def write_files(folder: Path, name: str, *, ca=CA, believed=None, **how) -> dict[str, str]:
    """A certificate for `name`, its key and the CA, as settings."""
    folder.mkdir(parents=True, exist_ok=True)
    issued = ca.issue_cert(name, **how)
    files = {kind: str(folder / f"{name}.{kind}") for kind in ("certificate", "key", "ca")}
    issued.private_key_pem.write_to_path(files["key"])
    Path(files["certificate"]).write_bytes(b"".join(b.bytes() for b in issued.cert_chain_pems))
    (believed or ca).cert_pem.write_to_path(files["ca"])
    return files


class Wire:
    """One end of a pair of sockets whose buffers hold little and move a little at a time."""

    def __init__(self, random: Random, capacity: int = 100_000) -> None:
        self.random = random
        self.capacity = capacity
        self.arrived = bytearray()
        self.ended = False
        self.other: Wire = self
        self.most = capacity

    def send(self, content):
        room = min(self.capacity - len(self.other.arrived), len(content))
        if room <= 0 or self.random.random() < 0.2:
            raise BlockingIOError
        count = self.random.randint(1, room)
        self.other.arrived += content[:count]
        return count

    def recv(self, size):
        if not self.arrived:
            if self.ended:
                return b""
            raise BlockingIOError
        count = min(size, self.most, len(self.arrived))
        taken = bytes(self.arrived[:count])
        del self.arrived[:count]
        return taken

    def close(self):
        self.other.ended = True


class Turns:
    """A host on which waiting is letting the others run."""

    async def wait_readable(self, what):
        await trio.lowlevel.checkpoint()

    wait_writable = wait_readable


def wires(seed: int) -> tuple[Wire, Wire]:
    one, other = Wire(Random(seed)), Wire(Random(seed + 1))
    one.other, other.other = other, one
    return one, other


async def shaken(one: Wire, other: Wire, tmp_path) -> tuple[TlsSocket, TlsSocket]:
    here = TlsFiles(**write_files(tmp_path, "n0")).load("n0")
    there = TlsFiles(**write_files(tmp_path, "n1")).load("n1")
    dialler = TlsSocket(one, here.dialling, server_side=False)
    listener = TlsSocket(other, there.listening, server_side=True)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dialler.shake_hands, Turns())
            nursery.start_soon(listener.shake_hands, Turns())
    return dialler, listener


@pytest.mark.parametrize("seed", range(20))
async def test_what_is_sent_arrives_in_order_whatever_the_socket_takes(tmp_path, seed):
    """The sender repeats what was not counted, cut anew, as `PeerLink` does after a full socket."""
    random = Random(seed)
    one, other = wires(seed)
    dialler, listener = await shaken(one, other, tmp_path)
    content = random.randbytes(1_500_000)
    unsent = deque([content])
    received = bytearray()
    buffer = memoryview(bytearray(READ_MIN_BYTES))
    refusals = turns = 0
    while len(received) < len(content):
        turns += 1
        assert turns < 2_000_000, "bytes were lost on the way"
        if unsent:
            parts = [memoryview(part) for part in unsent]
            try:
                sent = dialler.sendmsg(parts) if random.random() < 0.5 else dialler.send(parts[0])
            except BlockingIOError:
                refusals += 1
                sent = 0
            rest = b"".join(parts)[sent:]
            cuts = sorted(random.randrange(len(rest)) for _ in range(3)) if rest else []
            places = zip([0, *cuts], [*cuts, len(rest)], strict=True)
            unsent = deque(rest[start:end] for start, end in places if end > start)
        other.most = random.choice([1, 100, 17_000, 100_000])
        try:
            count = listener.recv_into(buffer)
        except BlockingIOError:
            continue
        received += buffer[:count]

    assert content == bytes(received)
    assert refusals > 0


@pytest.mark.parametrize("size", [READ_MIN_BYTES, READ_MIN_BYTES + 1, 100_000])
async def test_no_read_leaves_anything_behind_that_could_be_read(tmp_path, size):
    """Records of the largest size, one in part, and then as much as the reader asks for."""
    one, other = wires(1)
    dialler, listener = await shaken(one, other, tmp_path)
    one.send = lambda content: (other.arrived.extend(content), len(content))[1]
    for content in (bytes(16384), bytes(16384), b"x" * 5, bytes(16384), bytes(16384), bytes(9)):
        dialler.send(content)
    received = 0
    buffer = memoryview(bytearray(size))
    while other.arrived:
        other.most = 16_390 if received == 0 else size
        try:
            received += listener.recv_into(buffer)
        except BlockingIOError:
            received += 0
        assert 0 == listener._received.pending
        assert 0 == listener._tls.pending()

    assert 4 * 16384 + 14 == received


async def test_what_comes_with_the_end_of_the_handshake_is_there_to_be_read(tmp_path):
    """The listener's last read of the handshake takes the dialler's first words with it."""
    one, other = wires(1)
    here = TlsFiles(**write_files(tmp_path, "n0")).load("n0")
    dialler = TlsSocket(one, here.dialling, server_side=False)
    listener = TlsSocket(other, here.listening, server_side=True)
    for wire in (one, other):
        wire.send = lambda content, wire=wire: (wire.other.arrived.extend(content), len(content))[1]
    assert not dialler._try_handshake()
    dialler._push()
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listener.shake_hands, Turns())
            while not one.arrived:
                await trio.lowlevel.checkpoint()
            dialler._received.write(one.recv(100_000))
            assert dialler._try_handshake()
            dialler.send(b"hello")  # in one piece with the end of the handshake

    assert not other.arrived
    assert b"hello" == listener.recv(READ_MIN_BYTES)
    with pytest.raises(BlockingIOError):
        listener.recv(READ_MIN_BYTES)


async def test_a_changed_byte_ends_the_connection_behind_what_was_whole(tmp_path):
    one, other = wires(1)
    dialler, listener = await shaken(one, other, tmp_path)
    one.send = lambda content: (other.arrived.extend(content), len(content))[1]
    dialler.send(b"whole")
    dialler.send(b"broken")
    other.arrived[-1] ^= 1

    assert b"whole" == listener.recv(READ_MIN_BYTES)
    with pytest.raises(TlsError, match="breaks the rules of TLS: decryption failed or bad record"):
        listener.recv(READ_MIN_BYTES)


async def test_the_end_of_the_bytes_is_the_end(tmp_path):
    one, other = wires(1)
    dialler, listener = await shaken(one, other, tmp_path)
    dialler.close()

    assert b"" == listener.recv(READ_MIN_BYTES)


async def test_a_reader_without_room_for_two_records_is_a_bug(tmp_path):
    _dialler, listener = await shaken(*wires(1), tmp_path)
    with pytest.raises(AssertionError, match="left behind"):
        listener.recv(READ_MIN_BYTES - 1)


@pytest.mark.parametrize("content", [b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\x22\0\0\0\x1e\x8d\0"])
async def test_who_does_not_speak_tls_is_told_apart(tmp_path, content):
    _one, other = wires(1)
    files = TlsFiles(**write_files(tmp_path, "n0")).load("n0")
    other.arrived += content
    with pytest.raises(NotTls, match="does not speak TLS"):
        await TlsSocket(other, files.listening, server_side=True).shake_hands(Turns())


async def test_older_versions_are_refused(tmp_path):
    one, other = wires(1)
    files = TlsFiles(**write_files(tmp_path, "n0")).load("n0")
    files.dialling.minimum_version = ssl.TLSVersion.TLSv1_2
    files.dialling.maximum_version = ssl.TLSVersion.TLSv1_2
    reasons = []

    async def shake(sock):
        try:
            await sock.shake_hands(Turns())
        except TlsError as error:
            reasons.append(str(error))

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shake, TlsSocket(one, files.dialling, server_side=False))
            nursery.start_soon(shake, TlsSocket(other, files.listening, server_side=True))

    assert ["breaks the rules of TLS: unsupported protocol", "refuses us: protocol version"] == (
        sorted(reasons)
    )


# ---- files


def test_all_files_or_none():
    assert TlsFiles.of(certificate="", key="", ca="") is None
    assert TlsFiles("c", "k", "a") == TlsFiles.of(certificate="c", key="k", ca="a")
    with pytest.raises(ValueError, match=r"^tls_key and tls_ca missing: "):
        TlsFiles.of(certificate="c", key="", ca="")


def expired(folder):
    past = datetime.now(UTC) - timedelta(days=2)
    return write_files(folder, "n0", not_before=past, not_after=past + timedelta(days=1))


def without(kind):
    def files(folder):
        written = write_files(folder, "n0")
        os.unlink(written[kind])
        return written

    return files


def rubbish(kind):
    def files(folder):
        written = write_files(folder, "n0")
        Path(written[kind]).write_bytes(b"rubbish")
        return written

    return files


def folder_instead(folder):
    written = write_files(folder, "n0")
    return written | {"ca": str(folder)}


def anothers_key(folder):
    return write_files(folder, "n0") | {"key": write_files(folder, "n1")["key"]}


def encrypted(folder):
    written = write_files(folder, "n0")
    key = load_pem_private_key(Path(written["key"]).read_bytes(), None)
    Path(written["key"]).write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    )
    return written


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (without("certificate"), "tls_certificate = .*n0.certificate': No such file"),
        (without("key"), "tls_key = .*n0.key': No such file"),
        (without("ca"), "tls_ca = .*n0.ca': No such file"),
        (folder_instead, "tls_ca = .*: Is a directory"),
        (rubbish("certificate"), "n0.certificate' and tls_key = .* are no certificate and its key"),
        (rubbish("key"), "tls_key = .*n0.key' are no certificate and its key"),
        (rubbish("ca"), "tls_ca = .*n0.ca': no certificates in PEM"),
        (anothers_key, "n1.key' are no certificate and its key in PEM: key values mismatch"),
        (encrypted, "tls_key = .*n0.key': it is encrypted"),
        (expired, "does not pass under tls_ca = .*: certificate has expired"),
        (
            lambda folder: write_files(folder, "n0", believed=trustme.CA()),
            "does not pass under tls_ca = .*: unable to get local issuer certificate",
        ),
        (
            lambda folder: write_files(folder, "n1"),
            "tls_certificate = .* is for 'n1': 'n0' must be a DNS entry of its subjectAltName",
        ),
        (
            lambda folder: write_files(folder, "n7", common_name="n0"),
            "is for 'n7': 'n0' must be a DNS entry",
        ),
    ],
)
def test_files_that_are_of_no_use_are_named(tmp_path, make, complaint):
    assert TlsFiles(**write_files(tmp_path / "good", "n0")).load("n0").expires
    with pytest.raises(ValueError, match=complaint):
        TlsFiles(**make(tmp_path)).load("n0")


def test_names_are_matched_letter_by_letter(tmp_path):
    with pytest.raises(ValueError, match=r"is for '\*\.a\.b'"):
        TlsFiles(**write_files(tmp_path, "*.a.b")).load("n0.a.b")


def test_a_record_is_never_longer_than_believed():
    assert tls.RECORD_MAX_BYTES > 5 + (1 << 14) + 256
