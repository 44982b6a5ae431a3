"""Two clusters in turn: what is made of their figures."""

import os
from pathlib import Path
from typing import Any

from attrs import define

from bench import versus
from bench.versus import Comparison, Kind, compared, side_of

KIND = Kind(title="of a kind", words=("--in-flight", 4), count=100)


@define
class Scripted:
    """A side whose bursts are known."""

    name: str
    rates: list[float]
    log: list[str]

    def burst(self, generator: Path, kind: Kind) -> versus.Figures:
        assert (Path("load"), KIND) == (generator, kind)
        self.log.append(self.name)
        return self.rates.pop(0), 1.0, 2.0, 20.0, 10.0


def test_sides_are_loaded_in_turn_and_the_first_round_does_not_count() -> None:
    log: list[str] = []
    sides: list[Any] = [
        Scripted("before", [1.0, 100.0, 200.0, 50.0], log),
        Scripted("after", [1.0, 110.0, 100.0, 60.0], log),
    ]
    (found,) = compared(sides, [KIND], 3, Path("load"))

    assert ["after", "before", "before", "after", "after", "before", "before", "after"] == log
    assert [100.0, 200.0, 50.0] == [figures[0] for figures in found.by_side["before"]]


def test_a_ratio_is_the_median_of_those_of_rounds() -> None:
    found = Comparison(
        KIND,
        {
            "before": [(rate, 1.0, 2.0, 20.0, 10.0) for rate in (100.0, 200.0, 50.0)],
            "after": [(rate, 1.5, 2.5, 25.0, 11.0) for rate in (110.0, 100.0, 60.0)],
        },
    )
    title, before, after = found.lines()
    assert "of a kind" == title
    assert before.split()[:2] == ["100/s", "1.00"]
    assert after.split()[:2] == ["100/s", "1.10"]
    assert after.endswith("leader  25.0 µs  follower  11.0 µs   after")


def test_a_cluster_is_known_by_what_is_said_of_it() -> None:
    def server(name: str, role: str, pid: int) -> dict[str, object]:
        return {"name": name, "role": role, "pid": pid, "address": f"127.0.0.1:{pid}"}

    own = os.getpid()
    side = side_of(
        "here",
        {
            "servers": [
                server("namesrv", "", 1),
                server("n0", "follower", own),
                server("n1", "leader", own),
                server("n2", "follower", own),
            ]
        },
    )
    assert (f"127.0.0.1:{own}", own, [own, own]) == (
        side.leader,
        side.leader_pid,
        side.follower_pids,
    )
    assert side.memory().count("MB") == 2
