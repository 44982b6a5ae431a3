"""Record what unmodified clients say to a broker: `python tests/interop/record.py [CLIENT …]`.

Each client sends and consumes, and tries some of its features, against a cluster of one broker,
with a tap in between. What it asked the broker, byte for byte, and the shapes of the answers are
kept in `recorded/CLIENT.json`; `test_recorded.py` asks a broker the same again. The frames of one
kind are much alike, so only the first of each connection are kept.
"""

from __future__ import annotations

import argparse
import base64
import json
import struct
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from pathlib import Path

import trio
from attrs import define, field
from features import Check
from programs import BUILD, HERE, PROGRAMS, Program
from scenario import Result, Scenario
from shapes import shape

from dledger_py.client.connection import parse_address
from dledger_py.cluster.local import LocalCluster

CHECKS = ("sends", "orderly", "tags")
LIMIT_S = 90
SENDS = frozenset({10, 310, 320})
PULLS = frozenset({11, 361})
SENDS_KEPT = 6
KEPT = dict.fromkeys(SENDS, SENDS_KEPT) | dict.fromkeys(PULLS, 8)
OTHERS_KEPT = 2
QUERY_OFFSET = 14
STEADY = frozenset({0, 22})
"""Codes of answers that do not depend on who came first: done, and nothing found."""

ONE_WAY = 2
OURS = "PYTHON"
"""The language that our own tools name."""

_PREFIX = struct.Struct(">II")


@define(eq=False)
class Exchange:
    connection: int
    header: bytes
    body: bytes
    answer: dict[str, object] | None = None
    held: bool = False
    """Perhaps: something was sent before it was answered."""


@define
class Recorder:
    """Everything that was asked and answered through the taps of one client, in order."""

    exchanges: list[Exchange] = field(factory=list)
    _connections: int = 0

    def connected(self) -> int:
        self._connections += 1
        return self._connections

    def sent_after(self, exchange: Exchange) -> bool:
        later = self.exchanges[self.exchanges.index(exchange) + 1 :]
        return any(json.loads(each.header)["code"] in SENDS for each in later)

    def kept(self) -> list[Exchange]:
        """The first of each kind, and only what was answered at once whatever came before."""
        seen: Counter[tuple[object, ...]] = Counter()
        kept = []
        for exchange in self.exchanges:
            header = json.loads(exchange.header)
            code, fields = header["code"], header.get("extFields") or {}
            if header.get("language") == OURS:
                continue
            if not header["flag"] & ONE_WAY and (exchange.answer or {}).get("code") not in STEADY:
                continue
            if code in PULLS and (exchange.held or str(fields.get("queueOffset")) != "0"):
                continue
            if code == QUERY_OFFSET and (exchange.answer or {}).get("code") == 0:
                continue  # for what has been committed, which may be among what is not kept
            batch = str(fields.get("batch", fields.get("m")))
            kind = exchange.connection, code, header["flag"], batch
            seen[kind] += 1
            if seen[kind] <= KEPT.get(code, OTHERS_KEPT):
                kept.append(exchange)
        return kept


@define
class Tap:
    """Passes frames on, and tells what it saw; `rewritten` may change the body of an answer."""

    target: tuple[str, int]
    recorder: Recorder | None = None
    rewritten: Callable[[bytes], bytes] = lambda body: body

    async def serve(self, stream: trio.SocketStream) -> None:
        try:
            server = await trio.open_tcp_stream(*self.target)
        except OSError:
            await stream.aclose()
            return
        number = self.recorder.connected() if self.recorder else 0
        pending: dict[int, Exchange] = {}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._requests, stream, server, number, pending, nursery)
            nursery.start_soon(self._answers, server, stream, pending, nursery)
        await stream.aclose()
        await server.aclose()

    async def _requests(
        self,
        client: trio.SocketStream,
        server: trio.SocketStream,
        number: int,
        pending: dict[int, Exchange],
        nursery: trio.Nursery,
    ) -> None:
        async for header, body in frames(client):
            told = json.loads(header)
            if self.recorder is not None and not told["flag"] & 1:
                exchange = pending[told["opaque"]] = Exchange(number, header, body)
                self.recorder.exchanges.append(exchange)
            await _pass_on(server, header, body)
        nursery.cancel_scope.cancel()

    async def _answers(
        self,
        server: trio.SocketStream,
        client: trio.SocketStream,
        pending: dict[int, Exchange],
        nursery: trio.Nursery,
    ) -> None:
        async for header, body in frames(server):
            told = json.loads(header)
            if told["flag"] & 1 and (exchange := pending.pop(told["opaque"], None)):
                exchange.answer = shape(told, body)
                if self.recorder is not None:
                    exchange.held = self.recorder.sent_after(exchange)
            await _pass_on(client, header, self.rewritten(body))
        nursery.cancel_scope.cancel()


async def frames(stream: trio.SocketStream) -> AsyncIterator[tuple[bytes, bytes]]:
    """Header and body of every frame, until the connection ends."""
    buffer = b""
    while True:
        while len(buffer) >= 8:
            size, header_size = _PREFIX.unpack_from(buffer)
            if len(buffer) < 4 + size:
                break
            yield buffer[8 : 8 + header_size], buffer[8 + header_size : 4 + size]
            buffer = buffer[4 + size :]
        try:
            chunk = await stream.receive_some()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
        if not chunk:
            return
        buffer += chunk


async def _pass_on(stream: trio.SocketStream, header: bytes, body: bytes) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        size = _PREFIX.pack(4 + len(header) + len(body), len(header))
        await stream.send_all(size + header + body)


async def record(program: Program, folder: Path) -> list[Result]:
    """Play what is to be recorded, and write it down if all went well."""
    recorder = Recorder()
    results: list[Result] = []
    topics: list[str] = []
    async with LocalCluster(folder / "cluster", nodes=1).running() as cluster:
        await cluster.wait_leaders()
        (member,) = cluster.members.values()
        async with trio.open_nursery() as nursery:
            broker = Tap(parse_address(member.address), recorder)
            tapped = await _listen(nursery, broker)
            namesrv = Tap(
                parse_address(cluster.namesrv_address),
                rewritten=lambda body: body.replace(member.address.encode(), tapped.encode()),
            )
            address = await _listen(nursery, namesrv)
            steady = Scenario(
                program=program,
                name="recorded",
                namesrv=address,
                folder=folder / "steady",
                count=SENDS_KEPT,
                interval_ms=0,
                limit_s=LIMIT_S,
            )
            topics.append(f"interop-{program.name}-recorded")
            results.append(await steady.run())
            for name in CHECKS:
                if name in program.checks:
                    check = Check(
                        program=program,
                        name=name,
                        namesrv=address,
                        broker=tapped,
                        folder=folder / name,
                        limit_s=LIMIT_S,
                    )
                    topics.append(check.topic)
                    results.append(await check.run())
            nursery.cancel_scope.cancel()
    if any(result.faults for result in results):
        return results
    target = HERE / "recorded" / f"{program.name}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(_file(program.client.title, topics, recorder.kept()))
    return results


def _file(client: str, topics: Sequence[str], exchanges: Sequence[Exchange]) -> str:
    """One exchange a line."""
    lines = ",\n".join(json.dumps(_written(exchange)) for exchange in exchanges)
    head = f'"client": {json.dumps(client)},\n"topics": {json.dumps(topics)}'
    return f'{{{head},\n"exchanges": [\n{lines}\n]}}\n'


def _written(exchange: Exchange) -> dict[str, object]:
    return {
        "connection": exchange.connection,
        "header": exchange.header.decode(),
        "body": base64.b64encode(exchange.body).decode(),
        "answer": exchange.answer,
    }


async def _listen(nursery: trio.Nursery, tap: Tap) -> str:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, tap.serve, [listener])
    return f"127.0.0.1:{listener.socket.getsockname()[1]}"


def main() -> int:
    names = [program.name for program in PROGRAMS]
    parser = argparse.ArgumentParser(prog="record.py", description=__doc__.splitlines()[0])
    parser.add_argument("clients", nargs="*", metavar="CLIENT", help=f"of {', '.join(names)}")
    wanted = parser.parse_args().clients or names
    failed = False
    for program in PROGRAMS:
        if program.name in wanted:
            program.build()
            folder = Path(tempfile.mkdtemp(prefix=f"record-{program.name}-", dir=BUILD))
            for result in trio.run(record, program, folder):
                print(program.name, result.scenario, "; ".join(result.faults) or "ok", flush=True)
                failed = failed or bool(result.faults)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
