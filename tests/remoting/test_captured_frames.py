"""Frames captured from real clients, one per file in tests/golden/remoting.

# how and when it was captured
client: Java 5.3.3
code: 310
hex: 000000…          (may go on over several lines)
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from attrs import frozen

from dledger_py.remoting.commands.clients import ConsumerIds
from dledger_py.remoting.commands.heartbeats import decode_heartbeat
from dledger_py.remoting.commands.json_bodies import decode_body
from dledger_py.remoting.commands.registrations import decode_registration
from dledger_py.remoting.commands.routes import ClusterInfo, TopicRoute
from dledger_py.remoting.protocol_table import import_vocabulary
from dledger_py.remoting.wire.codes import RequestCode
from dledger_py.remoting.wire.frame import Framer
from dledger_py.remoting.wire.message import decode_records, split_batch_body
from dledger_py.remoting.wire.schema import decode, decode_request, encode, reply_type, spelling

import_vocabulary()

FOLDER = Path(__file__).parents[1] / "golden" / "remoting"
FILES = sorted(FOLDER.glob("*.txt"))
BODIES = {
    RequestCode.HEART_BEAT: decode_heartbeat,
    RequestCode.REGISTER_BROKER: decode_registration,
    RequestCode.SEND_BATCH_MESSAGE: split_batch_body,
}


@frozen
class Capture:
    client: str
    code: int
    data: bytes


def read(text: str) -> Capture:
    members: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        found = re.match(r"(client|code|hex)\s*:\s*(.*)", line)
        if found:
            name, value = found.groups()
            members[name] = value
        else:
            members[name] += line
    return Capture(members["client"], int(members["code"]), bytes.fromhex(members["hex"]))


def understood(capture: Capture) -> object:
    (frame,) = Framer().feed(capture.data)
    assert frame.code == capture.code
    assert not frame.is_response
    declared = spelling(frame.code)
    assert declared is not None, f"code {frame.code} is declared by no class"
    request = decode_request(frame.code, frame.fields)
    body = BODIES.get(RequestCode(frame.code))
    if body is not None:
        body(frame.body)
    return request


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_real_clients_frame_is_understood(path: Path) -> None:
    understood(read(path.read_text()))


ANSWERS = sorted((FOLDER / "responses").glob("*.txt"))
ANSWER_BODIES: dict[int, Callable[[bytes], object]] = {
    RequestCode.GET_ROUTEINFO_BY_TOPIC: partial(decode_body, TopicRoute),
    RequestCode.GET_BROKER_CLUSTER_INFO: partial(decode_body, ClusterInfo),
    RequestCode.GET_CONSUMER_LIST_BY_GROUP: partial(decode_body, ConsumerIds),
    RequestCode.PULL_MESSAGE: decode_records,
}


@pytest.mark.parametrize("path", ANSWERS, ids=lambda path: path.stem)
def test_a_real_servers_answer_is_understood(path: Path) -> None:
    """What our client and tools would make of it: header, body, and every field known."""
    capture = read(path.read_text())
    (frame,) = Framer().feed(capture.data)
    assert (frame.code, frame.is_response) == (capture.code, True)
    asked = int(re.findall(r"-(\d+)", path.stem)[0])
    declared = spelling(asked)
    if declared is None or frame.code != 0:
        return
    reply = reply_type(declared.request)
    if reply is not None:
        header = decode(reply, frame.fields)
        assert encode(header) == frame.fields
    if asked in ANSWER_BODIES and frame.body:
        assert ANSWER_BODIES[asked](frame.body)


def test_the_form_of_these_files_is_read() -> None:
    text = """# the published vector
client: Java 5.3.3
code: 105
hex: 0000002d 01000029 0069 00 01df 00000001 00000000 00000000 00000014
     0005 746f706963 00000009 546f70696354657374
"""

    assert getattr(understood(read(text)), "topic", None) == "TopicTest"
