"""The load generator in C: what it counts is what a client reads, and it never hangs.

Against our own brokers only; RabbitMQ's and NATS's protocols are exercised where they are measured.
"""

import json
import os
import re
import shutil
import signal
import struct
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from dledger_py.client import Client, Message, NoRoute, Queue, connect
from dledger_py.cluster.local import LocalCluster

SOURCES = Path(__file__).resolve().parents[2] / "bench" / "generator"
DEADLINE_S = 180
DIALECTS = ("remoting", "amqp", "nats")


@pytest.fixture(scope="session")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = os.environ.get("CC", "cc")
    missing = [tool for tool in ("make", compiler) if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"the generator is compiled, and there is no {' and no '.join(missing)}")
    binary = tmp_path_factory.mktemp("generator") / "load"
    subprocess.run(["make", "-C", SOURCES, f"CC={compiler}", f"BINARY={binary}"], check=True)
    return binary


def words(load: str, topic: str, *addresses: str, **options: object) -> list[str]:
    options = {"dialect": "remoting"} | options
    named = [
        word
        for name, value in options.items()
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    return [load, "--topic", topic, "--address", ",".join(addresses), *named]


async def measure(generator: Path, *arguments: str) -> dict[str, Any]:
    """The figures of one run."""
    done = await trio.run_process([generator, *arguments], capture_stdout=True)
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


async def complaint(generator: Path, *arguments: str) -> str:
    """What it says when it fails."""
    done = await trio.run_process(
        [generator, *arguments], check=False, capture_stdout=True, capture_stderr=True
    )
    assert (1, b"") == (done.returncode, done.stdout)
    return done.stderr.decode()


@asynccontextmanager
async def one_broker(directory: Path) -> AsyncIterator[tuple[LocalCluster, str, Client]]:
    """A cluster of one, its address, and a client of it."""
    async with LocalCluster(directory, nodes=1).running() as cluster:
        leader = await cluster.wait_leader()
        async with connect(cluster.namesrv_address, timeout_s=60) as mq:
            yield cluster, cluster.members[leader].address, mq


async def queues_of(mq: Client, topic: str) -> tuple[Queue, ...]:
    """As soon as the name server knows them: the broker tells it after it has taken messages."""
    while True:
        try:
            return await mq.queues(topic)
        except NoRoute:
            await trio.lowlevel.checkpoint()


async def stored(mq: Client, topic: str) -> list[Message]:
    found: list[Message] = []
    for queue in await queues_of(mq, topic):
        offset, end = 0, await mq.max_offset(topic, queue.queue_id)
        while offset < end:
            result = await mq.pull(topic, queue.queue_id, offset)
            found += result.messages
            assert result.next_offset > offset
            offset = result.next_offset
    return found


async def stored_count(mq: Client, topic: str) -> int:
    queues = await queues_of(mq, topic)
    return sum([await mq.max_offset(topic, queue.queue_id) for queue in queues])


@pytest.mark.e2e
async def test_what_was_sent_is_stored_and_drained(generator: Path, tmp_path: Path) -> None:
    with trio.fail_after(DEADLINE_S):
        async with one_broker(tmp_path) as (_, address, mq):
            sending = words("send", "Single", address, connections=3, in_flight=5)
            options = ["--count", "300", "--warm", "40", "--body-bytes", "100"]
            sent = await measure(generator, *sending, *options)
            messages = await stored(mq, "Single")
            drained = await measure(generator, *words("drain", "Single", address, count=341))

    first = [message for message in messages if message.body == b"first"]  # it made the topic
    others = [message for message in messages if message.body == b"x" * 100]
    assert (300, 30_000, 0) == (sent["count"], sent["bytes"], sent["refused"])
    assert (1, 340) == (len(first), len(others))
    assert 340 == len({message.message_id for message in others})
    assert {"bench"} == {message.tag for message in others}
    assert (341, 34_005) == (drained["count"], drained["bytes"])
    assert 0 < sent["p50_ms"] <= sent["p99_ms"] <= sent["p999_ms"] <= sent["max_ms"]


@pytest.mark.e2e
async def test_batches_and_topics_are_counted_by_message(generator: Path, tmp_path: Path) -> None:
    with trio.fail_after(DEADLINE_S):
        async with one_broker(tmp_path) as (_, address, mq):
            prepared = await measure(generator, *words("prepare", "Many", address, topics=3))
            sending = words("send", "Many", address, topics=3, batch=16, in_flight=4)
            sent = await measure(generator, *sending, "--count", "960", "--body-bytes", "50")
            topics = [await stored(mq, f"Many-{number}") for number in range(3)]

    bodies = [message.body for topic in topics for message in topic]
    ids = {message.message_id for topic in topics for message in topic}
    assert (3, 960, 48_000) == (prepared["count"], sent["count"], sent["bytes"])
    assert [322, 322, 322] == [len(topic) for topic in topics]  # prepare and send begin with one
    assert 960 == bodies.count(b"x" * 50)
    assert len(bodies) == len(ids)


@pytest.mark.e2e
async def test_each_group_gets_each_message_once(generator: Path, tmp_path: Path) -> None:
    with trio.fail_after(DEADLINE_S):
        async with one_broker(tmp_path) as (_, address, mq):
            publishing = words("e2e", "Ways", address, rate=200, seconds=1, groups=3)
            figures = [await measure(generator, *publishing) for _ in range(2)]
            count = await stored_count(mq, "Ways")

    assert [(200, 600, 0)] * 2 == [
        (each["count"], each["delivered"], each["duplicates"]) for each in figures
    ]
    assert 2 * (1 + 200) == count


@pytest.mark.e2e
async def test_a_stall_is_charged_to_all_that_was_due(generator: Path, tmp_path: Path) -> None:
    """A client that waited with its messages would see the stall in a few of them only."""
    figures: dict[str, Any] = {}

    async def publish(address: str) -> None:
        words_ = words("e2e", "Stalled", address, rate=200, seconds=1)
        figures.update(await measure(generator, *words_))

    with trio.fail_after(DEADLINE_S):
        async with one_broker(tmp_path) as (cluster, address, mq):
            await measure(generator, *words("prepare", "Stalled", address))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(publish, address)
                while await stored_count(mq, "Stalled") < 10:
                    await trio.lowlevel.checkpoint()
                (node,) = cluster.members
                cluster.pause(node)
                await trio.sleep(1)  # the stall itself, not a wait for something
                cluster.resume(node)

    assert 200 == figures["delivered"]
    assert figures["p50_ms"] > 300


@pytest.mark.e2e
async def test_the_gap_ends_with_another_leader(generator: Path, tmp_path: Path) -> None:
    with trio.fail_after(DEADLINE_S):
        async with LocalCluster(tmp_path).running() as cluster:
            leader = await cluster.wait_leader()
            nodes = sorted(cluster.members, key=lambda node: node != leader)  # the leader first
            addresses = [cluster.members[node].address for node in nodes]
            sending = words("gap", "Survivors", *addresses, seconds=8)
            process = await trio.lowlevel.open_process(
                [generator, *sending], stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            assert process.stdout is not None
            assert process.stderr is not None
            assert b"ready\n" == await process.stderr.receive_some()
            await cluster.kill(leader)
            figures = json.loads(b"".join([part async for part in process.stdout]))
            assert 0 == await process.wait()
            async with connect(cluster.namesrv_address, timeout_s=60) as mq:
                count = await stored_count(mq, "Survivors")

    assert figures["lost_connections"] >= 1
    assert 0 < figures["gap_ms"] < 7500  # it ended
    assert 0 < figures["count"] <= count


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("load", ("send", "drain", "e2e", "gap", "prepare"))
async def test_silence_ends_in_a_complaint(generator: Path, load: str, dialect: str) -> None:
    async def say_nothing(stream: trio.SocketStream) -> None:
        async for _ in stream:
            pass

    options = {"dialect": dialect, "timeout": 0.3}
    if load in {"send", "drain"}:
        options["count"] = 1
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, say_nothing, [listener])
        address = f"127.0.0.1:{listener.socket.getsockname()[1]}"
        with trio.fail_after(DEADLINE_S):
            said = await complaint(generator, *words(load, "T", address, **options))
        nursery.cancel_scope.cancel()

    assert address in said
    assert "no answer" in said or "nothing for 0.3 s" in said


async def test_silence_in_the_middle_ends_in_a_complaint(generator: Path) -> None:
    async def answer_first(stream: trio.SocketStream) -> None:
        request = await stream.receive_some()
        opaque = re.search(rb'"opaque":(\d+)', request)
        assert opaque is not None
        header = b'{"code":0,"flag":1,"opaque":%b}' % opaque[1]
        await stream.send_all(struct.pack(">II", 4 + len(header), len(header)) + header)
        async for _ in stream:
            pass

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, answer_first, [listener])
        address = f"127.0.0.1:{listener.socket.getsockname()[1]}"
        sending = words("send", "T", address, count=10, in_flight=3, timeout=0.3)
        with trio.fail_after(DEADLINE_S):
            said = await complaint(generator, *sending)
        nursery.cancel_scope.cancel()

    assert f"load: {address}: nothing for 0.3 s; accepted 1 requests" in said


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_server_that_hangs_up_is_named(generator: Path, dialect: str) -> None:
    async def hang_up(stream: trio.SocketStream) -> None:
        await stream.receive_some()

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, hang_up, [listener])
        address = f"127.0.0.1:{listener.socket.getsockname()[1]}"
        with trio.fail_after(DEADLINE_S):
            said = await complaint(
                generator, *words("send", "T", address, count=1, dialect=dialect)
            )
        nursery.cancel_scope.cancel()

    assert f"load: {address}: the server closed the connection\n" == said


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (words("send", "T", "127.0.0.1:1"), "--count are needed"),
        (words("send", "T", "127.0.0.1:1", count=0), "--count 0: a number from 1 to"),
        (words("send", "T", "127.0.0.1:1", count=1.5), "--count 1.5: a whole number"),
        (words("send", "a.b", "127.0.0.1:1", count=1), "--topic a.b: 1 to 100 letters"),
        (words("send", "T", "here", count=1), "an address is HOST:PORT, not 'here'"),
        (words("send", "T", "127.0.0.1:1", count=1, dialect="http"), "--dialect http: there are"),
        (words("e2e", "T", "127.0.0.1:1", body_bytes=8), "--body-bytes 8: at least 24"),
        (words("e2e", "T", "127.0.0.1:1", batch=8), "--batch: batches are sent by"),
        (words("fly", "T", "127.0.0.1:1"), "load send "),
    ],
)
async def test_wrong_words_are_refused(
    generator: Path, arguments: list[str], expected: str
) -> None:
    assert expected in await complaint(generator, *arguments)


async def test_nobody_there_is_a_complaint(generator: Path) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = f"127.0.0.1:{listener.socket.getsockname()[1]}"
    await listener.aclose()

    said = await complaint(generator, *words("send", "T", address, count=1))

    assert f"load: {address}: Connection refused\n" == said


async def test_it_dies_when_told_to(generator: Path) -> None:
    """Nothing of it stays behind a run that is given up."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = f"127.0.0.1:{listener.socket.getsockname()[1]}"
    async with listener:
        process = await trio.lowlevel.open_process([generator, *words("gap", "T", address)])
        async with await listener.accept():
            process.send_signal(signal.SIGTERM)
            with trio.fail_after(DEADLINE_S):
                await process.wait()

    assert -signal.SIGTERM == process.returncode
