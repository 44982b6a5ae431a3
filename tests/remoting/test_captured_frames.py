"""Frames captured from real clients, one per file in tests/golden/remoting.

# how and when it was captured
client: Java 5.3.3
code: 310
hex: 000000…          (may go on over several lines)
"""

import re
from pathlib import Path

import pytest
from attrs import frozen

from dledger_py.remoting.commands.heartbeats import decode_heartbeat
from dledger_py.remoting.commands.registrations import decode_registration
from dledger_py.remoting.protocol_table import import_vocabulary
from dledger_py.remoting.wire.codes import RequestCode
from dledger_py.remoting.wire.frame import Framer
from dledger_py.remoting.wire.message import split_batch_body
from dledger_py.remoting.wire.schema import decode_request, spelling

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


def test_the_form_of_these_files_is_read() -> None:
    text = """# the published vector
client: Java 5.3.3
code: 105
hex: 0000002d 01000029 0069 00 01df 00000001 00000000 00000000 00000014
     0005 746f706963 00000009 546f70696354657374
"""

    assert getattr(understood(read(text)), "topic", None) == "TopicTest"
