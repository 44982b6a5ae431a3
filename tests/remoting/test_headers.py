"""Header dialects of real clients, and both serialisations against each other."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dledger_py.remoting.wire.frame import BINARY, JSON, Frame, Framer, encode_frame

GO_HEARTBEAT = (
    b'{"code":34,"language":"GO","version":317,"opaque":5,"flag":0,"remark":"","extFields":null}'
)
ALI_ONS_SEND = (
    b'{"code":310,"flag":0,"language":"JAVA","opaque":8,"version":121,"extFields":{'
    b'"a":"pg","b":"T","c":"TBW102","d":4,"e":0,"f":0,"g":1700000000000,"h":0,'
    b'"i":"","j":0,"k":false,"l":null,"m":true,"ratio":0.5}}'
)
CPP_PULL = (
    b'{"code":"11","extFields":{"queueId":3,"topic":"T","Signature":""},"flag":0,"language":"CPP",'
    b'"opaque":9,"serializeTypeCurrentRPC":"JSON","version":333}\n'
)


def read(header: bytes) -> Frame:
    (frame,) = Framer().feed(struct.pack(">II", 4 + len(header), len(header)) + header)
    return frame


def test_go_sends_null_for_no_fields() -> None:
    frame = read(GO_HEARTBEAT)

    assert (frame.code, frame.language, frame.version) == (34, "GO", 317)
    assert frame.fields == {}


def test_ali_ons_sends_raw_numbers_and_booleans() -> None:
    assert read(ALI_ONS_SEND).fields == {
        "a": "pg",
        "b": "T",
        "c": "TBW102",
        "d": "4",
        "e": "0",
        "f": "0",
        "g": "1700000000000",
        "h": "0",
        "i": "",
        "j": "0",
        "k": "false",
        "m": "true",
        "ratio": "0.5",
    }


def test_cpp_sends_a_line_feed_and_mixed_values() -> None:
    frame = read(CPP_PULL)

    assert (frame.code, frame.language) == (11, "CPP")
    assert frame.fields == {"queueId": "3", "topic": "T", "Signature": ""}


@pytest.mark.parametrize(
    "header, language",
    [
        (b'{"language":9}', "GO"),
        (b'{"language":99}', "OTHER"),
        (b'{"language":null}', "OTHER"),
        (b'{"language":"COBOL"}', "COBOL"),
        (b"{}", "JAVA"),
    ],
)
def test_a_language_is_never_a_failure(header: bytes, language: str) -> None:
    assert read(header).language == language


def test_null_members_are_absent_members() -> None:
    frame = read(b'{"code":null,"flag":null,"opaque":null,"version":null,"remark":null}')

    assert (frame.code, frame.flag, frame.opaque, frame.version) == (0, 0, 0, 0)
    assert frame.remark is None


def test_a_header_cannot_name_our_own_bookkeeping() -> None:
    frame = read(b'{"code":1,"body":"AAAA","size":7,"serialization":1}')

    assert (frame.body, frame.serialization) == (b"", JSON)
    assert frame.size == 8 + 51


@pytest.mark.parametrize(
    "cut_off, code",
    [(3442, 200050), (3443, 200051), (3445, 200053), (3446, 200054), (3543, 200151)],
)
def test_pop_codes_survive_sixteen_bits(cut_off: int, code: int) -> None:
    request = Frame(code=code, serialization=BINARY)
    data = encode_frame(request)

    assert int.from_bytes(data[8:10], "big") == cut_off
    assert Framer().feed(data)[0].code == code
    # A response's number is a result code and stays what it is.
    response = encode_frame(Frame(code=cut_off, flag=1, serialization=BINARY))
    assert Framer().feed(response)[0].code == cut_off


int32 = st.integers(-(2**31), 2**31 - 1)
int16 = st.integers(-(2**15), 2**15 - 1)
text = st.text(st.characters(codec="utf-8"), min_size=1)
frames = st.builds(
    Frame,
    code=st.integers(0, 2000),  # pop codes are mapped, see above
    flag=int32,
    opaque=int32,
    version=int16,
    language=st.sampled_from(["JAVA", "GO", "CPP", "OTHER", "PYTHON"]),
    remark=st.none() | text,
    fields=st.dictionaries(text, text, max_size=8),
    body=st.binary(max_size=64),
    serialization=st.sampled_from([JSON, BINARY]),
)


@given(st.lists(frames, max_size=4), st.integers(1, 40))
def test_frames_of_both_kinds_come_back_equal_however_they_are_cut(
    sent: list[Frame], step: int
) -> None:
    data = b"".join(map(encode_frame, sent))
    framer = Framer()
    received = []
    for at in range(0, len(data), step):
        received += framer.feed(data[at : at + step])

    for frame in sent:
        frame.size = len(encode_frame(frame))
    assert received == sent
