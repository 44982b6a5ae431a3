"""The load generator: one process, one or more connections, a fixed number of requests in flight.

It speaks the broker's protocol over blocking sockets and does nothing per message that can be done
once, so that the broker is what is measured: frames are made from a template in which only the
request id changes, and of an answer only code and id are read.

    python -m bench.load send  --address 127.0.0.1:10911 --topic T --in-flight 64 --count 20000
    python -m bench.load drain --address 127.0.0.1:10911 --topic T --queues 4

Prints one JSON line: rate, latencies, and the processor time it took itself.
"""

import argparse
import json
import socket
import struct
import sys
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from dledger_py.remoting.commands.pulling import CARRIES_SUBSCRIPTION, PullMessage
from dledger_py.remoting.commands.sending import SendMessage
from dledger_py.remoting.wire import schema
from dledger_py.remoting.wire.codes import RequestCode
from dledger_py.remoting.wire.frame import encode_request

FIRST_OPAQUE = 1_000_000_000  # ten digits: the id is overwritten in place
RECEIVE_BYTES = 1 << 20
FAILED_MAX = 10  # refused sends after which the run is given up


class Answer(msgspec.Struct):
    """What is read of an answer's header."""

    code: int
    opaque: int
    remark: str | None = None
    ext: dict[str, str] = msgspec.field(name="extFields", default_factory=dict)


_decode = msgspec.json.Decoder(Answer).decode
_PREFIX = struct.Struct(">II")


class Template:
    """A request whose id can be changed without encoding it again."""

    def __init__(self, request: schema.Request[Any], body: bytes = b"") -> None:
        whole = encode_request(request.code, FIRST_OPAQUE, schema.encode(request), body)
        self._parts = whole.split(b"%d" % FIRST_OPAQUE)

    def with_id(self, opaque: int) -> bytes:
        return (b"%d" % opaque).join(self._parts)


class Wire:
    """One connection."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = bytearray()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def answers(self) -> Iterator[tuple[Answer, int]]:
        """All complete answers of one receive, with the size of their bodies."""
        data = self._socket.recv(RECEIVE_BYTES)
        if not data:
            raise ConnectionError("the broker closed the connection")
        rest = self._rest
        rest += data
        at = 0
        while len(rest) - at >= 8:
            length, kind = _PREFIX.unpack_from(rest, at)
            if len(rest) - at < length + 4:
                break
            body_at = at + 8 + (kind & 0xFFFFFF)
            yield _decode(rest[at + 8 : body_at]), at + 4 + length - body_at
            at += 4 + length
        del rest[:at]


def send(address: str, topic: str, in_flight: int, count: int, body_bytes: int) -> dict[str, float]:
    """A closed loop of single sends. Raises: RuntimeError if sends are refused."""
    wire = Wire(address)
    body = b"x" * body_bytes
    templates = [
        Template(
            SendMessage(
                producer_group="bench",
                topic=topic,
                queue_id=queue_id,
                default_topic="TBW102",
                born_timestamp=int(time.time() * 1000),
                # As every Apache client but Node's, the message brings its unique id along.
                properties=f"UNIQ_KEY\x01{'0' * 22}{FIRST_OPAQUE}\x02TAGS\x01bench\x02",
            ),
            body,
        )
        for queue_id in range(4)
    ]
    _create(wire, templates[0])
    began: dict[int, float] = {}
    latencies: list[float] = []
    refused = 0
    opaque = FIRST_OPAQUE
    clock = time.perf_counter

    def more(number: int) -> bytes:
        nonlocal opaque
        now = clock()
        parts = []
        for _ in range(number):
            opaque += 1
            began[opaque] = now
            parts.append(templates[opaque & 3].with_id(opaque))
        return b"".join(parts)

    start, cpu = clock(), time.process_time()
    wire.send(more(min(in_flight, count)))
    while len(latencies) < count:
        done = 0
        now = clock()
        for answer, _size in wire.answers():
            now = now if done else clock()
            latencies.append(now - began.pop(answer.opaque))
            done += 1
            if answer.code != 0:
                refused += 1
                if refused > FAILED_MAX:
                    raise RuntimeError(f"sends are refused: {answer.code} {answer.remark}")
        wanted = min(done, count - (opaque - FIRST_OPAQUE))
        if wanted > 0:
            wire.send(more(wanted))
    return _figures(latencies, clock() - start, time.process_time() - cpu) | {"refused": refused}


def _create(wire: Wire, template: Template) -> None:
    """One send in advance, so that the topic exists."""
    wire.send(template.with_id(FIRST_OPAQUE))
    while not list(wire.answers()):
        pass


def drain(address: str, topic: str, queues: int) -> dict[str, float]:
    """Read all queues from their beginning, one pull in flight for each."""
    wire = Wire(address)
    offsets = dict.fromkeys(range(queues), 0)

    def pull(queue_id: int) -> bytes:
        request = PullMessage(
            consumer_group="bench-drain",
            topic=topic,
            queue_id=queue_id,
            queue_offset=offsets[queue_id],
            max_msg_nums=32,
            sys_flag=CARRIES_SUBSCRIPTION,
            subscription="*",
        )
        return encode_request(RequestCode.PULL_MESSAGE, queue_id + 1, schema.encode(request))

    clock = time.perf_counter
    messages = body_bytes = 0
    latencies = []
    began = dict.fromkeys(offsets, clock())
    start, cpu = clock(), time.process_time()
    wire.send(b"".join(pull(queue_id) for queue_id in offsets))
    open_queues = set(offsets)
    while open_queues:
        for answer, size in list(wire.answers()):
            queue_id = answer.opaque - 1
            latencies.append(clock() - began[queue_id])
            if answer.code != 0:
                open_queues.discard(queue_id)
                continue
            following = int(answer.ext["nextBeginOffset"])
            messages += following - offsets[queue_id]
            body_bytes += size
            offsets[queue_id] = following
            began[queue_id] = clock()
            wire.send(pull(queue_id))
    seconds = clock() - start
    figures = _figures(latencies, seconds, time.process_time() - cpu)
    return figures | {"count": messages, "per_s": messages / seconds, "bytes": body_bytes}


def _figures(latencies: list[float], seconds: float, cpu_s: float) -> dict[str, float]:
    ordered = sorted(latencies)

    def percentile(share: float) -> float:
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000

    return {
        "count": len(ordered),
        "seconds": seconds,
        "per_s": len(ordered) / seconds,
        "p50_ms": percentile(0.5),
        "p99_ms": percentile(0.99),
        "p999_ms": percentile(0.999),
        "client_cpu_s": cpu_s,
    }


def main() -> int:
    """Run one load and print its figures."""
    parser = argparse.ArgumentParser(prog="bench.load", description=__doc__)
    parser.add_argument("load", choices=("send", "drain"))
    parser.add_argument("--address", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--body-bytes", type=int, default=1024)
    parser.add_argument("--queues", type=int, default=4)
    options = parser.parse_args()
    if options.load == "send":
        figures = send(
            options.address, options.topic, options.in_flight, options.count, options.body_bytes
        )
    else:
        figures = drain(options.address, options.topic, options.queues)
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
