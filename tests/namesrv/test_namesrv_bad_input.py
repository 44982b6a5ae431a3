"""What nobody sends a name server on purpose: it refuses it in words of its own, and goes on."""

import random
from pathlib import Path
from typing import Any

import structlog
import trio

from dledger_py.client.connection import open_connection
from dledger_py.remoting.commands.routing import GetClusterInfo
from namesrv.app import NameServer
from namesrv.config import NamesrvConfig
from tests.broker.test_bad_input import EXCEPTION, answer_to, random_body, random_fields

CODES = (
    *(100, 101, 102, 103, 104, 105, 106, 205, 206, 216, 217, 219, 224, 304, 311, 318, 319, 322),
    *(327, 901, 904, 9999),
)
ROUNDS = 40


async def test_random_fields_of_the_right_names_are_answered(tmp_path: Path) -> None:
    rng = random.Random(5)
    faults: list[Any] = []
    server = NameServer(NamesrvConfig(listen="127.0.0.1:0", data_dir=tmp_path))
    async with trio.open_nursery() as nursery:
        ((host, port),) = await nursery.start(server.run)
        with structlog.testing.capture_logs() as logged:
            async with open_connection(host, port) as client:
                for _ in range(ROUNDS):
                    for code in CODES:
                        wire, body = random_fields(rng, code), random_body(rng, code)
                        frame = await answer_to(client, code, wire, body)
                        if frame.code == 1 and EXCEPTION.match(frame.remark or ""):
                            faults.append((code, frame.remark, wire, body[:80]))
                await client.call(GetClusterInfo())
        nursery.cancel_scope.cancel()
    faults += [each for each in logged if each["log_level"] in ("error", "critical")]

    assert [] == faults
