"""Medians, ratios and Markdown from rows whose answers are known."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bench.peers import report

Row = dict[str, Any]


def row(peer: str, number: int, *, workload: str = "1k-64", **figures: Any) -> Row:
    plain = {
        "round": number,
        "peer": peer,
        "like": {"nats": "ours-async", "rabbitmq": "ours-sync"}.get(peer, peer),
        "promise": f"what {peer} promises",
        "version": "1.2",
        "workload": workload,
        "title": f"the load {workload}",
        "load": "send",
        "per_s": 100.0,
        "p50_ms": 1.0,
        "p99_ms": 2.0,
        "p999_ms": 3.0,
        "server_us": 50.0,
        "client_us": 1.0,
        "rss_mb": 30.0,
        "foreign_cpu": 0.01,
    }
    return plain | figures


def gap(peer: str, number: int, gap_ms: float, *, ended: bool = True) -> Row:
    figures = {"load": "gap", "gap_ms": gap_ms, "gap_ended": ended}
    return row(peer, number, workload="leader-kill", **figures)


# The machine is half as fast in the second round, and somebody disturbs rabbitmq in the third.
ROWS = [
    row("ours-sync", 1, per_s=400.0),
    row("rabbitmq", 1, per_s=200.0),
    row("ours-sync", 2, per_s=200.0),
    row("rabbitmq", 2, per_s=100.0),
    row("ours-sync", 3, per_s=400.0),
    row("rabbitmq", 3, per_s=20.0),
]


def test_a_median_is_of_all_rounds() -> None:
    found = report.medians(ROWS)

    assert 400.0 == found["1k-64", "ours-sync"]["per_s"]
    assert 100.0 == found["1k-64", "rabbitmq"]["per_s"]
    assert 3 == found["1k-64", "rabbitmq"]["rounds"]


def test_a_ratio_is_taken_within_its_round() -> None:
    """The ratio of the medians would be 4: it compares a fast round of ours with a slow one of
    theirs."""
    assert {("1k-64", "rabbitmq"): 2.0} == report.ratios(ROWS, "per_s")


def test_each_system_is_compared_with_the_policy_that_promises_the_same() -> None:
    rows = [
        row("ours-sync", 1, per_s=100.0),
        row("ours-async", 1, per_s=300.0),
        row("rabbitmq", 1, per_s=50.0),
        row("nats", 1, per_s=50.0),
    ]

    found = report.ratios(rows, "per_s")

    assert {("1k-64", "rabbitmq"): 2.0, ("1k-64", "nats"): 6.0} == found


@pytest.mark.parametrize(
    "odd",
    [
        [],
        [row("ours-sync", 2)],
        [{"peer": "ours-sync", "round": 1, "workload": "1k-64", "failed": "no answer"}],
        [row("ours-sync", 1, per_s=0.0)],
    ],
    ids=["missing", "of another round", "failed", "zero"],
)
def test_a_round_without_both_gives_no_ratio(odd: list[Row]) -> None:
    assert {} == report.ratios([*odd, row("rabbitmq", 1)], "per_s")


def test_better_is_more_of_throughput_and_less_of_everything_else() -> None:
    rows = [
        row("ours-async", 1, per_s=50.0, p50_ms=1.02, p99_ms=9.0, server_us=5.0),
        row("nats", 1, per_s=100.0, p50_ms=1.0, p99_ms=3.0, server_us=50.0),
    ]

    assert {("1k-64", "nats"): ["*0.50*", "1.02", "*3.00*", "**0.10**", "1.00", ""]} == (
        report.verdicts(rows)
    )


def test_where_the_generator_sets_the_pace_throughput_is_no_win() -> None:
    rows = [
        row("ours-async", 1, load="e2e", per_s=500.0),
        row("nats", 1, load="e2e", per_s=100.0),
    ]

    assert {("1k-64", "nats"): ["", "1.00", "1.00", "1.00", "1.00", ""]} == report.verdicts(rows)


def test_of_a_leader_kill_only_the_gap_is_judged() -> None:
    rows = [gap("ours-sync", 1, 100.0), gap("rabbitmq", 1, 400.0)]

    assert {("leader-kill", "rabbitmq"): ["", "", "", "", "", "**0.25**"]} == report.verdicts(rows)


def test_markdown_has_the_figures_the_promises_and_the_losses() -> None:
    rows = [*ROWS, gap("ours-sync", 1, 100.0), gap("rabbitmq", 1, 50.0)]

    text = report.markdown(rows)

    assert "| rabbitmq | 1.2 | what rabbitmq promises | ours-sync |" in text
    assert "| rabbitmq | 100 | 2.00 | 1.00 | 1.00 |" in text
    assert "| system | longest gap | ratio |\n|---|---:|---:|" in text
    assert "| rabbitmq | 50 ms | 2.00 |" in text
    glance = text.partition("### At a glance")[2].partition("###")[0]
    assert "| the load 1k-64 | rabbitmq | **2.00** | 1.00 |" in glance
    assert "| the load leader-kill | rabbitmq |  |  |  |  |  | *2.00* |" in glance


def test_fewer_topics_are_named_beside_the_system() -> None:
    rows = [row("ours-async", 1, topics=1_000), row("rabbitmq", 1, topics=100)]

    text = report.markdown(rows)

    assert "| ours-async (1,000 topics) | 100 |" in text
    assert "| rabbitmq (100 topics) | 100 |" in text


def test_a_gap_that_had_not_ended_is_called_so() -> None:
    rows = [gap("nats", 1, 15_000.0, ended=False), gap("nats", 2, 100.0), gap("nats", 3, 14_500.0)]

    assert "| nats | 14,500 ms (1 not over when the run ended) |" in report.markdown(rows)


def test_what_was_skipped_or_failed_is_said() -> None:
    rows = [
        *ROWS,
        {"peer": "nats", "promise": "", "skipped": "go is not installed: apt install golang"},
        row("rocketmq", 2) | {"failed": "busy\nand more"},
    ]

    missing = report.markdown(rows).partition("### Not measured")[2]

    assert "- nats skipped: go is not installed: apt install golang" in missing
    assert "- rocketmq failed in round 2 at “the load 1k-64”: busy\n" in missing


def test_the_table_for_people_shows_every_system() -> None:
    console = Console(file=StringIO(), width=200)

    report.print_table([*ROWS, gap("ours-sync", 1, 100.0)], console)

    assert isinstance(console.file, StringIO)
    shown = console.file.getvalue()
    assert all(word in shown for word in ("rabbitmq", "ours-sync", "100 ms", "the load 1k-64"))


def test_a_second_file_counts_as_further_rounds(tmp_path: Path) -> None:
    paths = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    paths[0].write_text("".join(json.dumps(each) + "\n" for each in ROWS))
    paths[1].write_text(json.dumps(row("ours-sync", 1)) + "\n")

    assert 4 == report.read(paths)[-1]["round"]


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="comes with the extra `bench`")
    from bench.peers import picture

    rows = [*ROWS, gap("ours-sync", 1, 100.0), row("nats", 1, workload="e2e", load="e2e")]
    path = tmp_path / "results.png"

    picture.draw(report.medians(rows), {each["workload"]: each["title"] for each in rows}, path)

    assert path.read_bytes().startswith(b"\x89PNG")
