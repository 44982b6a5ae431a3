"""Members that prove to each other who they are, and those that cannot."""

from __future__ import annotations

import re
import ssl
import subprocess
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
import trustme
from structlog.testing import capture_logs

from dledger_py.ledger import repairing
from dledger_py.ledger.credentials import Credentials
from dledger_py.ledger.fetch_client import FetchFailed, open_fetch
from dledger_py.ledger.fetch_frames import decode_last_word
from dledger_py.ledger.peer_frames import Hello, encode_hello
from dledger_py.ledger.peer_link import HELLO_TIMEOUT_S, PeerListener, open_listener
from dledger_py.ledger.reception import Reception
from dledger_py.runtime.host import RealHost
from dledger_py.runtime.tls import TlsFiles, TlsSocket
from tests.ledger.test_fetch_lane import hello_to
from tests.ledger.test_group import closed_by_the_other_side, commands, commit_all
from tests.ledger.test_peer_link import Inbox, link_to, running
from tests.ledger.test_refusals import said
from tests.ledger.test_repair import Disks, filled, places
from tests.runtime.test_tls import CA, write_files

HOST = RealHost()
FOREIGN_CA = trustme.CA()


@pytest.fixture
def certified(tmp_path):
    """The settings of a member: `certified("n0")`; they may be made in an odd way."""

    def settings(name, **how):
        files = write_files(tmp_path / "tls" / name, name, **how)
        return {f"tls_{kind}": file for kind, file in files.items()}

    return settings


def credentials(name, settings):
    return Credentials(name, TlsFiles(**{kind[4:]: file for kind, file in settings.items()}))


# ---- members of one CA


async def test_a_group_over_tls_elects_commits_and_fails_over(open_group, certified):
    async with open_group(3, own_settings=certified) as group:
        await group.start()
        leader = await group.wait_leader()
        large = [b"%d" % n * 700_000 for n in range(6)]  # many records each, and some in part
        await commit_all(leader, [*commands(20), *large])
        await group.wait_applied(26)
        links = [link for m in group.members.values() for link in m.ledger.parts.links.all()]
        assert {TlsSocket} == {type(link._socket) for link in links}
        await group.stop(leader.name)
        successor = await group.wait_leader(but=leader.name)
        await commit_all(successor, commands(5, first=20))
        await group.start(leader.name)
        await group.wait_applied(31)

        for member in group.members.values():
            assert [*commands(20), *large, *commands(5, first=20)] == member.machine.commands


async def test_a_member_repairs_itself_over_tls(open_group, certified, tmp_path, monkeypatch):
    monkeypatch.setattr(repairing, "RETRY_S", 0.01)
    disks = Disks()
    async with open_group(3, files=disks, own_settings=certified) as group:
        _leader, name = await filled(group)
        disks.flip(tmp_path, name, places(disks.log_bytes(tmp_path, name))[20])
        with capture_logs() as logs:
            await group.start(name)
        await group.wait_applied(40)

        assert commands(40) == group.members[name].machine.commands
        assert said(logs, "log.repaired")


async def test_the_fetch_lane_speaks_tls_only_and_carries_the_log(open_group, certified):
    async with open_group(2, own_settings=certified) as group:
        await group.start()
        await group.wait_heard()
        leader = await group.wait_leader()
        await commit_all(leader, [b"%d" % n * 300_000 for n in range(4)])
        hello, address = hello_to(leader), leader.ledger.peer_address
        own = credentials(hello.sender, certified(hello.sender))
        async with open_fetch(hello, [address], HOST, own) as fetch:
            told = await fetch.describe()
            got = bytearray()
            while len(got) < told.commit_position:
                got += await fetch.read_log(len(got))
        async with open_fetch(hello, [address], HOST) as fetch:
            with pytest.raises(FetchFailed, match="only TLS is spoken here"):
                await fetch.describe()

        assert bytes(leader.ledger.log.read_bytes(0, told.commit_position)) == got
        assert len(got) > 1_200_000


# ---- who is refused


async def test_members_with_and_without_tls_refuse_each_other_and_say_why_once(
    open_group, certified
):
    async with open_group(
        2, own_settings=lambda n: certified(n) if n == "n0" else {}, redial_max_ms=20
    ) as group:
        with capture_logs() as logs:
            await group.start()
            links = [link for m in group.members.values() for link in m.ledger.parts.links.all()]
            while any(link.statistics().dials < 5 for link in links):
                await trio.lowlevel.checkpoint()

        refusals = [each["reason"] for each in said(logs, "peer.refused")]
        dials = [each["reason"] for each in said(logs, "peer.dial_refused")]
        assert [
            "does not speak TLS",
            "speaks TLS, and tls_certificate is not set here",
        ] == sorted(refusals)
        assert [
            "closed the connection in the handshake; does it speak TLS?",
            "only TLS is spoken here, and tls_certificate is not set there",
        ] == sorted(dials)
        assert "leader" not in {m.ledger.view.role for m in group.members.values()}


async def test_a_member_of_a_foreign_ca_is_refused_and_both_sides_say_why(open_group, certified):
    def own(name):
        return certified(name) if name == "n0" else certified(name, ca=FOREIGN_CA)

    async with open_group(2, own_settings=own, redial_max_ms=20) as group:
        with capture_logs() as logs:
            await group.start()
            while len(said(logs, "peer.dial_refused")) < 2:
                await trio.lowlevel.checkpoint()
            # A dialler that has no time left breaks off without a word, and is refused for that.
            told = "refuses us: unknown ca"
            while told not in {each["reason"] for each in said(logs, "peer.refused")}:
                await trio.lowlevel.checkpoint()

        dials = {each["peer"]: each["reason"] for each in said(logs, "peer.dial_refused")}
        foreign = "its certificate does not pass: self-signed certificate in certificate chain"
        assert {"n0": foreign, "n1": foreign} == dials


async def test_a_member_at_anothers_address_is_not_taken_for_it(open_group, certified):
    async with open_group(3, own_settings=certified, redial_max_ms=20) as group:
        await group.start("n1", "n2")
        wrong = group.peers | {"n1": group.peers["n2"]}
        with capture_logs() as logs:
            await group.start("n0", peers=wrong)
            while not said(logs, "peer.dial_refused", peer="n1"):
                await trio.lowlevel.checkpoint()
        (refused,) = said(logs, "peer.dial_refused", peer="n1")

        assert "its certificate is for 'n2', not for 'n1'" == refused["reason"]
        assert group.peers["n2"] == refused["address"]


@asynccontextmanager
async def listening(certified):
    """A listener of "b", the inbox of whom it admits, and what it logs."""
    sock = open_listener("127.0.0.1", 0)
    inbox = Inbox()
    acceptor = PeerListener(sock, lambda hello: inbox, HOST, credentials("b", certified("b")))
    with capture_logs() as logs:
        async with running(acceptor=acceptor):
            with trio.fail_after(20):
                yield sock, inbox, logs
    sock.close()


HELLO = encode_hello(Hello(cluster="c", group="g", sender="a", receiver="b", incarnation=1))


async def dialled(listener, context):
    """A dialler that believes everybody, and has shaken hands as far as it can tell."""
    sock = await HOST.dial(*listener.getsockname())
    tls = TlsSocket(sock, context, server_side=False)
    await tls.shake_hands(HOST)
    return tls


async def answer_of(tls):
    """What comes back until the end; **raises** what a reader is told instead."""
    received = b""
    while True:
        await HOST.wait_readable(tls)
        try:
            content = tls.recv(64 << 10)
        except BlockingIOError:
            continue
        if not content:
            return received
        received += content


def credulous(settings=None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if settings is not None:
        context.load_cert_chain(settings["tls_certificate"], settings["tls_key"])
    return context


def expired():
    past = datetime.now(UTC) - timedelta(days=2)
    return {"not_before": past, "not_after": past + timedelta(days=1)}


@pytest.mark.parametrize(
    ("how", "reason", "told"),
    [
        (None, "shows no certificate", "certificate required"),
        (expired, "its certificate does not pass: certificate has expired", "certificate expired"),
        (
            lambda: {"ca": FOREIGN_CA},
            "its certificate does not pass: unable to get local issuer certificate",
            "unknown ca",
        ),
    ],
)
async def test_who_proves_nothing_is_refused_before_its_hello_is_read(certified, how, reason, told):
    async with listening(certified) as (listener, inbox, logs):
        tls = await dialled(listener, credulous(certified("a", **how()) if how else None))
        tls.send(HELLO)
        with pytest.raises(OSError, match=f"refuses us: {told}"):
            await answer_of(tls)
        tls.close()
        (refused,) = said(logs, "peer.refused")

    assert reason == refused["reason"]
    assert refused["remote"].startswith("('127.0.0.1', ")
    assert [] == inbox.events


async def test_a_link_tells_the_alert_that_comes_after_its_handshake(certified):
    """As when a member was given a certificate of the next CA before all know that CA."""
    settings = certified("a", ca=FOREIGN_CA)
    both = CA.cert_pem.bytes() + FOREIGN_CA.cert_pem.bytes()
    await trio.Path(settings["tls_ca"]).write_bytes(both)
    async with listening(certified) as (listener, _inbox, logs):
        link = link_to(listener, [], credentials=credentials("a", settings), redial_max_s=0.01)
        async with running(link=link):
            while link.statistics().dials < 4:
                await trio.lowlevel.checkpoint()
        (told,) = said(logs, "peer.dial_refused")
        (refused,) = said(logs, "peer.refused")

    assert "refuses us: unknown ca" == told["reason"]
    assert refused["reason"].startswith("its certificate does not pass: ")


async def test_a_hello_that_another_member_could_have_overheard_is_of_no_use(certified):
    async with listening(certified) as (listener, inbox, logs):
        tls = await dialled(listener, credulous(certified("c")))
        tls.send(HELLO)
        last_word = decode_last_word(await answer_of(tls))
        tls.close()
        honest = await dialled(listener, credulous(certified("a")))
        honest.send(HELLO)
        await inbox.until(lambda: inbox.events)
        honest.close()

    assert "'a' came with a certificate for 'c'" == last_word
    assert [last_word] == [each["reason"] for each in said(logs, "peer.refused")]
    assert "found a" == inbox.events[0]


async def test_who_dawdles_with_the_handshake_is_shown_out(certified, mock_clock):
    """Others are served meanwhile."""
    async with listening(certified) as (listener, inbox, logs):
        whole = ssl.MemoryBIO()
        with pytest.raises(ssl.SSLWantReadError):
            credulous().wrap_bio(ssl.MemoryBIO(), whole).do_handshake()
        slow = await trio.open_tcp_stream(*listener.getsockname())
        await slow.send_all(whole.read()[:100])
        honest = await dialled(listener, credulous(certified("a")))
        honest.send(HELLO)
        await inbox.until(lambda: inbox.events)
        assert [] == said(logs, "peer.refused")
        mock_clock.jump(HELLO_TIMEOUT_S)
        await closed_by_the_other_side(slow)
        honest.close()

    assert ["no hello within 5 s"] == [each["reason"] for each in said(logs, "peer.refused")]


async def test_who_shakes_hands_and_is_silent_then_is_shown_out(certified, mock_clock):
    async with listening(certified) as (listener, _inbox, logs):
        tls = await dialled(listener, credulous(certified("a")))
        mock_clock.jump(HELLO_TIMEOUT_S)
        assert b"" == await answer_of(tls)
        tls.close()

    assert ["no hello within 5 s"] == [each["reason"] for each in said(logs, "peer.refused")]


async def test_a_peer_that_never_shakes_hands_does_not_hold_the_dialler(certified):
    sock = open_listener("127.0.0.1", 0)
    link = link_to(sock, [], connect_timeout_s=0.01, credentials=credentials("a", certified("a")))
    async with running(link=link):
        with trio.fail_after(20):
            while link.statistics().dials < 3:
                await trio.lowlevel.checkpoint()
    sock.close()

    assert not link.statistics().connected


async def test_groups_that_share_a_listener_share_its_tls(certified):
    sock = open_listener("127.0.0.1", 0)
    inbox = Inbox()
    reception = Reception(sock, HOST, credentials("b", certified("b")))
    reception.open("g", lambda hello: inbox)
    async with running(reception=reception):
        with trio.fail_after(20):
            tls = await dialled(sock, credulous(certified("a")))
            tls.send(HELLO)
            await inbox.until(lambda: inbox.events)
            tls.close()
            async with await trio.open_tcp_stream(*sock.getsockname()) as plain:
                await plain.send_all(HELLO)
                heard = b"".join([content async for content in plain])
    sock.close()

    assert "only TLS is spoken here" in decode_last_word(heard)


# ---- renewal


def serial(tls):
    return tls._tls.getpeercert()["serialNumber"]


def write_half(file):
    path = Path(file)
    path.write_bytes(path.read_bytes()[:100])


async def test_renewed_files_are_used_from_the_next_connection_on(certified, tmp_path):
    async with listening(certified) as (listener, inbox, logs):
        context = credulous(certified("a"))
        context.verify_mode = ssl.CERT_REQUIRED
        CA.configure_trust(context)
        first = await dialled(listener, context)
        again = await dialled(listener, context)
        files = certified("b")  # written anew, in place
        renewed = await dialled(listener, context)
        write_half(files["tls_certificate"])
        broken = await dialled(listener, context)
        still_broken = await dialled(listener, context)
        serials = [serial(each) for each in (first, again, renewed, broken, still_broken)]
        first.send(HELLO)  # open connections stay
        await inbox.until(lambda: inbox.events)
        for each in (first, again, renewed, broken, still_broken):
            each.close()
        failed = said(logs, "tls.not_loaded")

    assert serials[0] == serials[1] != serials[2]
    assert [serials[2]] * 2 == serials[3:]
    assert 1 == len(failed)
    assert "are no certificate and its key" in failed[0]["reason"]


async def test_a_dialler_shows_its_renewed_certificate(certified):
    a = certified("a", not_after=datetime.now(UTC) + timedelta(days=1))
    async with listening(certified) as (listener, inbox, _logs):
        own = credentials("a", a)
        sock = await HOST.dial(*listener.getsockname())
        (await own.meet(sock, "b", HOST)).close()
        certified("a", ca=FOREIGN_CA)  # nobody would believe it: so it is seen to be used
        sock = await HOST.dial(*listener.getsockname())
        with pytest.raises(OSError, match="its certificate does not pass"):
            await own.meet(sock, "b", HOST)

    assert -1 == sock.fileno()
    assert [] == inbox.events


# ---- what the documentation says


@pytest.mark.e2e
def test_the_commands_of_the_documentation_make_certificates_that_members_take(tmp_path):
    page = (Path(__file__).parents[2] / "docs/operations.md").read_text()
    (commands,) = re.findall(r"```sh\n(openssl .*?)```", page, re.DOTALL)
    subprocess.run(["bash", "-ec", commands], cwd=tmp_path, check=True, capture_output=True)
    for node in ("n0", "n1", "n2"):
        files = TlsFiles(f"{tmp_path}/{node}.pem", f"{tmp_path}/{node}.key", f"{tmp_path}/ca.pem")

        assert files.load(node).expires
    with pytest.raises(ValueError, match="'n1' must be a DNS entry"):
        files.load("n1")
