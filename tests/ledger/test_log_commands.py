"""Commands read again from a log."""

import pytest

from dledger_py.ledger import log_commands
from dledger_py.ledger.log_commands import commands_between, payloads_between
from dledger_py.storage import Log
from dledger_py.storage.formats import KIND_COMMAND, KIND_NOOP
from dledger_py.storage.lying import LyingFiles
from tests.storage.log_scenes import Entry, open_log

SEGMENT_BYTES = 1000


@pytest.fixture
def log(monkeypatch) -> Log:
    """Forty entries, every tenth no command, in several files and reads."""
    monkeypatch.setattr(log_commands, "READ_BYTES", 300)
    log = open_log(LyingFiles(), segment_size_bytes=SEGMENT_BYTES).log
    for index in range(1, 41):
        kind = KIND_NOOP if index % 10 == 0 else KIND_COMMAND
        log.write([log.seal([Entry(index, 1, kind, b"command %d" % index * (index % 4))])])
    return log


def expected(first: int, last: int) -> list[bytes]:
    return [b"command %d" % n * (n % 4) for n in range(first, last + 1) if n % 10]


@pytest.mark.parametrize(("first", "last"), [(1, 40), (7, 23), (10, 10), (40, 40), (9, 8)])
def test_they_are_those_from_one_entry_up_to_another(log, first, last) -> None:
    commands = list(commands_between(log, first, last))
    payloads = list(payloads_between(log, first, last))

    assert expected(first, last) == [bytes(each.payload) for each in commands]
    assert expected(first, last) == [bytes(data[at:end]) for data, at, end, _place in payloads]
    assert [each.position for each in commands] == [place for _data, _at, _end, place in payloads]
    for each in commands:
        assert each.payload == log.read_bytes(each.position, len(each.payload))


@pytest.mark.parametrize("read", [commands_between, payloads_between])
def test_what_the_log_has_not_is_said(log, read) -> None:
    with pytest.raises(LookupError):
        list(read(log, 39, 41))
    log.seal([Entry(41, 1, KIND_COMMAND, b"sealed")])
    with pytest.raises(LookupError, match="entry 41 is not written yet"):
        list(read(log, 39, 41))
