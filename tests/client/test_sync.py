"""The client without async: the same names, in threads."""

import inspect
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from attrs import define

import dledger_py.client.client as async_client
from dledger_py.client import (
    ClientClosed,
    ConsumerFailed,
    Message,
    NoReply,
    Sql,
    TransactionState,
    Unreachable,
    retry,
    sharing,
    sync,
)
from dledger_py.client.consumer import Consumer
from dledger_py.client.retry import BackOff
from dledger_py.remoting.wire.frame import encode_response
from tests.client.fake_broker import BEAT, SEND, Cluster, running_cluster
from tests.client.test_replying import SEND_REPLY
from tests.client.test_transactions import COMMIT, ROLLBACK, Desk

BACKENDS = pytest.mark.parametrize("backend", ["trio", "asyncio"])


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "UNBALANCED_S", 0.01)
    monkeypatch.setattr(retry, "REDELIVERY_BACK_OFF", BackOff(0.001, 0.01))


@define
class Servers:
    """Fake ones, in a thread of their own."""

    portal: BlockingPortal
    cluster: Cluster

    @property
    def address(self) -> str:
        return self.cluster.names.address

    def fill(self, count: int) -> None:
        for number in range(count):
            self.cluster.store.append("t", 0, b"%d" % number, f"UNIQ_KEY\x01u{number}\x02")

    def wait_for(self, condition: Any) -> None:
        self.portal.call(self.cluster.broker.wait_for, condition)


@pytest.fixture
def servers() -> Iterator[Servers]:
    with (
        start_blocking_portal("trio") as portal,
        portal.wrap_async_context_manager(running_cluster()) as cluster,
    ):
        yield Servers(portal, cluster)


def parameters(function: Any) -> dict[str, Any]:
    found = inspect.signature(function).parameters
    return {name: (each.kind, each.default) for name, each in found.items() if name != "self"}


def public(kind: type) -> set[str]:
    return {name for name in vars(kind) if not name.startswith("_")}


def test_the_names_are_those_of_the_async_client() -> None:
    assert public(sync.Client) == public(async_client.Client)
    for name in public(async_client.Client):
        assert parameters(getattr(sync.Client, name)) == parameters(
            getattr(async_client.Client, name)
        ), name
    assert public(Message) == public(sync.Message)
    for name in public(Message):
        assert parameters(getattr(sync.Message, name)) == parameters(getattr(Message, name)), name
    assert "queues" in public(Consumer) & public(sync.Consumer)
    here, there = parameters(sync.connect), parameters(async_client.connect)
    assert set(there) - set(here) == {"surroundings"}
    assert set(here) - set(there) == {"backend"}


@BACKENDS
def test_sending_and_consuming(servers: Servers, backend: Any) -> None:
    with sync.connect(servers.address, backend=backend) as mq:
        receipt = mq.send("t", b"one", tag="x", keys=["k"])
        mq.send_batch("t", [b"two", b"three"])
        seen = []
        with mq.consumer("g", "t", from_="first") as messages:
            for message in messages:
                with message.ack_on_success():
                    seen.append((message.body, message.message_id, message.tag))
                if len(seen) == 3:
                    break
            assert messages.receive(timeout_s=0.01) is None
            assert "t" in {queue.topic for queue in messages.queues}

        assert seen[0] == (b"one", receipt.message_id, "x")
        assert mq.committed_offset("g", "t", 0) == 3
        assert mq.max_offset("t", 0) == 3
        assert [each.body for each in mq.pull("t", 0, 1).messages] == [b"two", b"three"]
    assert "dledger client" not in {thread.name for thread in threading.enumerate()}


@BACKENDS
def test_a_block_that_fails_gives_its_message_back(servers: Servers, backend: Any) -> None:
    servers.fill(2)
    with sync.connect(servers.address, backend=backend) as mq:
        attempts = []
        with mq.consumer("g", "t", from_="first") as messages:
            for message in messages:
                with message.ack_on_success(retry_after=0):
                    attempts.append((message.message_id, message.delivery_attempt))
                    if attempts == [("u0", 1)]:
                        raise ValueError("no")
                if len(attempts) == 3:
                    break

    assert sorted(attempts) == [("u0", 1), ("u0", 2), ("u1", 1)]
    assert servers.cluster.store.committed["g", "t", 0] == 2


def test_several_threads_share_one_consumer(servers: Servers) -> None:
    servers.fill(40)
    servers.cluster.names.route("u", servers.cluster.broker)
    seen: list[bytes] = []
    with (
        sync.connect(servers.address) as mq,
        mq.consumer("g", "t", from_="first") as messages,
    ):

        def work() -> None:
            while len(seen) < 40:
                message = messages.receive(timeout_s=0.02)
                if message is not None:
                    message.ack()
                    mq.send("u", b"done")
                    seen.append(message.body)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert {b"%d" % number for number in range(40)} == set(seen)
    assert len(servers.cluster.store.queues["u", 0]) == 40


@BACKENDS
def test_transactions_and_their_check(servers: Servers, backend: Any) -> None:
    made = Desk(servers.cluster)
    checked = []

    def check(message: Any) -> TransactionState:
        checked.append((message.message_id, threading.current_thread()))
        return TransactionState.COMMIT

    connecting = sync.connect(
        servers.address, producer_group="payers", check=check, backend=backend
    )
    with connecting as mq:
        with mq.transaction("t", b"pay") as transaction:
            assert transaction.message_id
        with pytest.raises(ZeroDivisionError), mq.transaction("t", b"pay"):
            raise ZeroDivisionError
        assert made.verdicts == [COMMIT, ROLLBACK]

        servers.cluster.store.append("t", 0, b"x", "PGROUP\x01payers\x02UNIQ_KEY\x01u\x02")
        made.halves[9] = servers.cluster.store.queues["t", 0][-1]
        servers.wait_for(lambda: bool(servers.cluster.broker.requests_of(BEAT)))
        servers.portal.call(made.ask, 9)
        servers.wait_for(lambda: len(made.ended) == 3)

    assert made.ended[2] == (9, COMMIT, True)
    assert [unique_id for unique_id, _ in checked] == ["u"]


def test_errors_are_those_of_the_async_client(servers: Servers) -> None:
    with (
        sync.connect(servers.address) as mq,
        mq.consumer("g", {"t": Sql("a >")}) as messages,
    ):
        with pytest.raises(ValueError, match="at most 4194304 fit"):
            mq.send("t", b"x" * 5_000_000)
        with pytest.raises(NoReply):
            mq.request("t", b"ping", timeout_s=1)
        message = mq.pull("t", 0, 0).messages[0]
        with pytest.raises(RuntimeError, match="nobody to acknowledge"):
            message.ack()
        assert messages.receive(timeout_s=0.01) is None

    with pytest.raises(ClientClosed):
        mq.send("t", b"late")
    with pytest.raises(ClientClosed):
        messages.receive(timeout_s=1)
    with pytest.raises(ClientClosed), mq.transaction("t", b"late"):
        pytest.fail("the client is closed")
    with pytest.raises(Unreachable), sync.connect("127.0.0.1:1", timeout_s=0.1):
        pytest.fail("nobody listens there")


@BACKENDS
def test_a_thread_that_still_consumes_hears_that_the_client_is_closed(
    servers: Servers, backend: Any
) -> None:
    raised: list[BaseException] = []
    joined = threading.Event()

    def work(mq: sync.Client) -> None:
        try:
            with mq.consumer("g", "t", from_="first") as messages:
                joined.set()
                for message in messages:
                    message.ack()
        except (ClientClosed, ConsumerFailed) as error:
            raised.append(error)

    with sync.connect(servers.address, backend=backend) as mq:
        thread = threading.Thread(target=work, args=(mq,))
        thread.start()
        assert joined.wait(10)
        servers.wait_for(lambda: bool(servers.cluster.broker.held))
    thread.join(10)

    assert not thread.is_alive()
    assert len(raised) == 1


def test_a_request_is_answered(servers: Servers) -> None:
    """By a consumer of the same client: the broker hands the reply on."""
    replied = []

    def reply(peer: Any, frame: Any) -> bytes:
        replied.append(frame.body)
        return encode_response(frame, 0, {"msgId": "0", "queueId": "0", "queueOffset": "0"})

    servers.cluster.broker.handlers[SEND_REPLY] = reply
    servers.cluster.names.route("c_REPLY_TOPIC", servers.cluster.broker)
    servers.cluster.store.append("t", 0, b"ping", "REPLY_TO_CLIENT\x01x\x02CLUSTER\x01c\x02")
    with (
        sync.connect(servers.address) as mq,
        mq.consumer("g", "t", from_="first") as messages,
    ):
        message = next(messages)
        with message.ack_on_success():
            message.reply(b"pong")

    assert replied == [b"pong"]


FORKS = """
import os, sys
from dledger_py.client import ClientForked
from dledger_py.client.sync import connect

with connect(sys.argv[1]) as mq:
    mq.send("t", b"parent")
    child = os.fork()
    if child == 0:
        try:
            mq.send("t", b"child")
        except ClientForked as error:
            print(error, flush=True)
    else:
        assert os.waitpid(child, 0)[1] == 0
        mq.send("t", b"parent again")
if child == 0:
    os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_is_told_and_harms_nobody(servers: Servers) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKS, servers.address],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=Path(__file__).resolve().parents[2],
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert "belongs to the parent process (connect again in each process" in done.stdout
    assert len(servers.cluster.broker.requests_of(SEND)) == 2


INTERRUPTED = """
import signal, sys, threading
from dledger_py.client.sync import connect

signal.signal(signal.SIGALRM, signal.default_int_handler)
with connect(sys.argv[1]) as mq:
    try:
        with mq.consumer("g", "t", from_="first") as messages:
            next(messages).ack()
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            next(messages)
    except KeyboardInterrupt:
        print("interrupted", mq.committed_offset("g", "t", 0))
"""


def test_ctrl_c_ends_the_wait_and_commits(servers: Servers) -> None:
    servers.fill(1)
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, servers.address],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=Path(__file__).resolve().parents[2],
        check=False,
    )

    assert (done.returncode, done.stdout) == (0, "interrupted 1\n"), done.stderr
