"""A whole name server on a real socket, and as a process."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from dledger_py.actors import FailStop
from dledger_py.client.connection import Connection, open_connection
from dledger_py.remoting.commands import routing
from dledger_py.remoting.commands.registrations import RegisterBody, encode_registration
from dledger_py.remoting.commands.topics import TopicConfig, TopicTable
from namesrv.app import NameServer
from namesrv.config import NamesrvConfig
from namesrv.kv_file import KvFile

TOPICS = encode_registration(
    RegisterBody(
        topic_config_serialize_wrapper=TopicTable(
            topic_config_table={name: TopicConfig(topic_name=name) for name in ("A", "B")}
        )
    )
)


@asynccontextmanager
async def running(
    directory: Path, *, expiry_scan_ms: int = 5000, clock: list[int] | None = None
) -> AsyncIterator[tuple[NameServer, int]]:
    config = NamesrvConfig(listen="127.0.0.1:0", data_dir=directory, expiry_scan_ms=expiry_scan_ms)
    server = NameServer(config) if clock is None else NameServer(config, lambda: clock[0])
    async with trio.open_nursery() as nursery:
        addresses = await nursery.start(server.run)
        yield server, addresses[0][1]
        nursery.cancel_scope.cancel()


async def register(connection: Connection, name: str = "broker-a") -> None:
    request = routing.RegisterBroker(
        broker_name=name, broker_addr="10.0.0.1:1", cluster_name="c", broker_id=0
    )
    await connection.call(request, TOPICS)


async def test_a_broker_is_in_the_route_until_its_connection_ends(tmp_path: Path) -> None:
    codes = []
    with trio.fail_after(5):
        async with running(tmp_path) as (_, port), open_connection("127.0.0.1", port) as client:
            async with open_connection("127.0.0.1", port) as broker:
                await register(broker)
                known = await client.call(routing.GetRoute(topic="A"))
            while 17 not in codes:  # the end of a connection is seen a turn later
                answer = await client.call(routing.GetRoute(topic="A"), accept=(0, 17))
                codes.append(answer.code)

    assert b'"brokerAddrs":{"0":"10.0.0.1:1"}' in known.body


async def test_a_silent_broker_expires(tmp_path: Path) -> None:
    clock = [0]
    with trio.fail_after(5):
        async with (
            running(tmp_path, expiry_scan_ms=1, clock=clock) as (server, port),
            open_connection("127.0.0.1", port) as broker,
        ):
            await register(broker)
            before = server.table.statistics().members
            clock[0] = 120_001
            while server.table.statistics().members:
                await trio.lowlevel.checkpoint()

    assert before == 1


async def test_entries_outlive_the_name_server(tmp_path: Path) -> None:
    entry = {"namespace": "ns", "key": "k"}
    with trio.fail_after(5):
        async with running(tmp_path) as (_, port), open_connection("127.0.0.1", port) as client:
            await client.call(routing.PutSetting(**entry, value="v"))
        async with running(tmp_path) as (_, port), open_connection("127.0.0.1", port) as client:
            reply = await client.call(routing.GetSetting(**entry))

    assert reply.header.value == "v"
    assert os.listdir(tmp_path) == ["kvConfig.json"]


def test_entries_that_cannot_be_read_stop_the_start(tmp_path: Path) -> None:
    (tmp_path / "kvConfig.json").write_text("{")

    with pytest.raises(FailStop, match=r"kvConfig\.json"):
        KvFile(tmp_path).load()


def test_the_process_says_when_it_serves_and_stops_when_told(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    command = [sys.executable, "-m", "namesrv", "--set", "listen=127.0.0.1:0"]
    with (
        subprocess.Popen(
            [*command, "--set", f"data_dir={tmp_path}"],
            pass_fds=(write_end,),
            env={**os.environ, "DLEDGER_READY_FD": str(write_end)},
            stderr=subprocess.PIPE,
        ) as process,
        os.fdopen(read_end) as ready,
    ):
        os.close(write_end)
        line = json.loads(ready.readline())
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=20)

    assert line["addresses"][0].startswith("127.0.0.1:")
    assert code == 0


@pytest.mark.parametrize(
    "settings, code, words",
    [
        (["listen=127.0.0.1:{taken}"], 70, "is in use"),
        (["listen=nonsense"], 78, "host:port is expected"),
        (["liten=x:1"], 78, "did you mean listen"),
        (["log_level=loud"], 78, "log level"),
        (["listen=127.0.0.1:0", "data_dir={used}"], 70, "another process is running"),
        (["listen=127.0.0.1:0", "data_dir={file}/below"], 70, "cannot be used"),
    ],
)
def test_a_start_that_fails_says_why_in_one_line(
    tmp_path: Path, settings: list[str], code: int, words: str
) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        KvFile(tmp_path / "used").held(),
    ):
        port = taken.getsockname()[1]
        file = tmp_path / "file"
        file.touch()
        named = {"taken": port, "used": tmp_path / "used", "file": file}
        options = [w for s in settings for w in ("--set", s.format(**named))]
        ended = subprocess.run(
            [sys.executable, "-m", "namesrv", "--set", f"data_dir={tmp_path}", *options],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )

    assert ended.returncode == code
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr
    assert 1 == len(ended.stderr.splitlines())
