"""Which codes are answered, which are refused by name, and that the manual says the same."""

import re
from pathlib import Path

import pytest

from broker.app import Broker
from broker.config import BrokerConfig
from broker.rooms.unsupported import UNSUPPORTED, with_refusals
from dledger_py.remoting.wire.frame import Framer, encode_request
from tests.broker.rooms_kit import Connection, Desk

PAGE = Path(__file__).resolve().parents[2] / "docs" / "compatibility.md"


@pytest.fixture
def broker(tmp_path) -> Broker:
    return Broker(BrokerConfig(data_dir=tmp_path, namesrv=()))


def listed(title: str) -> set[int]:
    """The codes in the table under a heading of the manual."""
    section = PAGE.read_text().split(f"## {title}\n")[1].split("\n## ")[0]
    codes: set[int] = set()
    for first, last in re.findall(r"^\| (\d+)(?:-(\d+))? \|", section, re.MULTILINE):
        codes |= set(range(int(first), int(last or first) + 1))
    return codes


def test_the_manual_lists_what_is_served(broker) -> None:
    assert sorted(broker.routes.by_code.keys() - UNSUPPORTED.keys()) == sorted(listed("Served"))


def test_the_manual_lists_what_is_refused() -> None:
    assert sorted(UNSUPPORTED) == sorted(listed("Refused by name"))


def test_known_codes_are_refused_by_name(tmp_path) -> None:
    desk, client = Desk(tmp_path), Connection(1)
    for code in UNSUPPORTED:
        (frame,) = Framer().feed(encode_request(code, code, {"any": "thing"}, b"body"))
        desk.routes.answer(client, frame)

    assert {3} == {answer.code for answer in client.answers}
    assert {
        code: f"{what} is not supported by this broker yet" for code, what in UNSUPPORTED.items()
    } == {answer.opaque: answer.remark for answer in client.answers}


def test_a_code_that_is_served_cannot_be_listed_as_refused(broker) -> None:
    with pytest.raises(TypeError, match="513"):
        with_refusals(broker.routes)
