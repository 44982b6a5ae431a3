"""The manual says what the declarations say."""

from pathlib import Path

from dledger_py.remoting.protocol_table import protocol_page

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"


def test_the_protocol_page_is_fresh() -> None:
    """If not: python -m dledger_py.remoting.protocol_table > docs/protocol.md"""
    assert PAGE.read_text() == protocol_page()


def test_every_request_says_what_it_does() -> None:
    rows = [line.split(" | ") for line in protocol_page().splitlines() if line.startswith("| ")]

    assert [row[1] for row in rows if len(row) == 6 and not row[5].strip(" |")] == []
