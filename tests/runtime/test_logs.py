"""JSON for machines, lines for people, nothing on standard output."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from dledger_py.runtime import logs


@pytest.fixture(autouse=True)
def restore() -> Iterator[None]:
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def test_a_line_is_one_json_object_with_what_was_bound() -> None:
    stream = io.StringIO()
    logs.configure(stream=stream)  # a test's streams are no terminals
    structlog.contextvars.bind_contextvars(node="n1")
    structlog.get_logger().info("raft.leader_elected", term=7, data_dir=Path("/x"))

    line = json.loads(stream.getvalue())
    assert line.pop("timestamp").endswith("Z")
    expected = {
        "event": "raft.leader_elected",
        "level": "info",
        "node": "n1",
        "term": 7,
        "data_dir": "PosixPath('/x')",
    }
    assert expected == line


def test_a_traceback_stays_in_its_line() -> None:
    stream = io.StringIO()
    logs.configure(stream=stream)
    error = ExceptionGroup("several", [ValueError("inner")])
    structlog.get_logger().error("actor.crashed", exc_info=error)

    (line,) = stream.getvalue().splitlines()
    assert "ValueError: inner" in json.loads(line)["exception"]


def test_what_is_below_the_level_is_left_out() -> None:
    stream = io.StringIO()
    logs.configure(level="warning", stream=stream)
    structlog.get_logger().info("raft.ticked")
    structlog.get_logger().warning("raft.stalled")

    assert ["raft.stalled"] == [json.loads(x)["event"] for x in stream.getvalue().splitlines()]


def test_people_get_plain_lines() -> None:
    stream = io.StringIO()
    logs.configure(json=False, stream=stream)
    structlog.get_logger().info("raft.leader_elected", term=7)

    assert "raft.leader_elected" in stream.getvalue()
    assert "term=7" in stream.getvalue()


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="log level 'loud': one of debug, info"):
        logs.configure(level="loud")
