"""What the rows say: medians over rounds, ratios within a round, as a table, Markdown and picture.

    python -m bench.peers.report results.jsonl              # a table for people
    python -m bench.peers.report results.jsonl --markdown   # the results of docs/performance.md

A ratio is ours divided by theirs in the same round, and the median of the rounds' ratios is shown:
what slows the machine down for some minutes slows both. Each system is compared with that of our
two flush policies whose promise comes nearest to its own.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from attrs import frozen
from rich.console import Console
from rich.table import Table

Row = dict[str, Any]

METRICS: Final = (
    "per_s", "p50_ms", "p99_ms", "p999_ms", "gap_ms", "server_us", "client_us", "rss_mb",
    "foreign_cpu", "topics",
)  # fmt: skip

QUIET: Final = 0.05
"""Share of the machine that others may use before a round is called noisy."""


@frozen(kw_only=True)
class Judged:
    """A metric that tells better from worse."""

    name: str
    title: str
    more_is_better: bool = False


JUDGED: Final = (
    Judged(name="per_s", title="throughput", more_is_better=True),
    Judged(name="p50_ms", title="p50"),
    Judged(name="p99_ms", title="p99"),
    Judged(name="server_us", title="server CPU"),
    Judged(name="rss_mb", title="memory"),
    Judged(name="gap_ms", title="gap"),
)
NOT_JUDGED: Final = {
    "e2e": ("per_s",),  # the generator sets it
    "gap": tuple(judged.name for judged in JUDGED if judged.name != "gap_ms"),
}
"""By load: what says nothing there."""

EVEN: Final = 0.05
"""Nearer to 1 than this, a ratio is called neither a win nor a loss."""


def measured(rows: Iterable[Row]) -> list[Row]:
    """The rows that hold figures."""
    return [row for row in rows if "workload" in row and "failed" not in row]


def medians(rows: Iterable[Row]) -> dict[tuple[str, str], dict[str, float]]:
    """By workload and peer: each metric's median, and `rounds`, how many there are."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in measured(rows):
        groups.setdefault((row["workload"], row["peer"]), []).append(row)
    return {
        key: {
            metric: statistics.median(row[metric] for row in group)
            for metric in METRICS
            if all(metric in row for row in group)
        }
        | {"rounds": len(group)}
        for key, group in groups.items()
    }


def ratios(rows: Iterable[Row], metric: str) -> dict[tuple[str, str], float]:
    """By workload and peer: the median over rounds of ours / theirs, ours being the one that the
    peer is like. Rounds in which either is missing or zero do not count."""
    by_place = {(row["workload"], row["round"], row["peer"]): row for row in measured(rows)}
    found: dict[tuple[str, str], list[float]] = {}
    for (workload, number, peer), row in by_place.items():
        ours = by_place.get((workload, number, row["like"]))
        if peer != row["like"] and ours is not None and ours.get(metric) and row.get(metric):
            found.setdefault((workload, peer), []).append(ours[metric] / row[metric])
    return {key: statistics.median(values) for key, values in found.items()}


def verdict(judged: Judged, ratio: float) -> str:
    """A ratio as it is shown where it is judged: bold if ours is better, slanted if it is worse."""
    if abs(ratio - 1) <= EVEN:
        return f"{ratio:.2f}"
    mark = "**" if (ratio > 1) == judged.more_is_better else "*"
    return f"{mark}{ratio:.2f}{mark}"


def verdicts(rows: Sequence[Row]) -> dict[tuple[str, str], list[str]]:
    """By workload and peer: each ratio that tells better from worse, in the order of `JUDGED`;
    empty where there is none."""
    loads = {row["workload"]: row["load"] for row in measured(rows)}
    found: dict[tuple[str, str], list[str]] = {}
    for place, judged in enumerate(JUDGED):
        for key, ratio in ratios(rows, judged.name).items():
            if judged.name in NOT_JUDGED.get(loads[key[0]], ()):
                continue
            found.setdefault(key, [""] * len(JUDGED))[place] = verdict(judged, ratio)
    return found


def troubles(rows: Iterable[Row]) -> list[str]:
    """What was skipped or failed, in sentences."""
    return [
        f"{row['peer']} {what}{_where(row)}: {row[what].splitlines()[0]}"
        for row in rows
        for what in ("skipped", "failed")
        if what in row
    ]


# -- for people ------------------------------------------------------------------------------------


def markdown(rows: Sequence[Row]) -> str:
    """The results section of docs/performance.md, whole."""
    parts = [_about(rows), _promises(rows), "### At a glance\n\n" + _glance(rows)]
    found, workloads = medians(rows), _titles(rows)
    for workload, title in workloads.items():
        parts.append(f"### {title}\n\n{_workload_table(rows, found, workload)}")
    parts.append("### Not measured\n\n" + _listed(troubles(rows)))
    return "\n\n".join(parts) + "\n"


def print_table(rows: Sequence[Row], console: Console) -> None:
    """One table of all medians, with the ratio of throughputs (or gaps)."""
    table = Table(title="medians; ratio: ours / theirs in the same round")
    table.add_column("load")
    table.add_column("system")
    for name in _COLUMNS:
        table.add_column(name, justify="right")
    found = medians(rows)
    for workload, title in _titles(rows).items():
        for number, (peer, cells) in enumerate(_lines(rows, found, workload)):
            table.add_row(title if number == 0 else "", peer, *cells)
        table.add_section()
    console.print(table)
    for line in troubles(rows):
        console.print(line, markup=False)


def write_all(rows: Sequence[Row], folder: Path) -> None:
    """Table to the terminal; results.md and results.png into a folder."""
    print_table(rows, Console(width=None if sys.stdout.isatty() else 160))
    (folder / "results.md").write_text(markdown(rows))
    try:
        from bench.peers import picture  # its library is an extra
    except ImportError as error:
        print(f"no picture: {error}; pip install -e '.[bench]'", file=sys.stderr)
    else:
        picture.draw(medians(rows), _titles(rows), folder / "results.png")
    print(f"results.jsonl, results.md and results.png are in {folder}", file=sys.stderr)


_COLUMNS: Final = (
    "per s", "ratio", "p50 ms", "ratio", "p99 ms", "ratio", "p99.9 ms", "server µs", "ratio",
    "client µs", "RSS MB", "others",
)  # fmt: skip


def _lines(
    rows: Sequence[Row], found: Mapping[tuple[str, str], Mapping[str, float]], workload: str
) -> Iterable[tuple[str, list[str]]]:
    """The systems and their cells under `_COLUMNS`."""
    by_metric = {judged.name: ratios(rows, judged.name) for judged in JUDGED}
    for (name, peer), figures in found.items():
        if name != workload:
            continue

        def times(metric: str, key: tuple[str, str] = (name, peer)) -> str:
            ratio = by_metric[metric].get(key)
            return "" if ratio is None else f"{ratio:.2f}"

        if "topics" in figures:
            peer = f"{peer} ({figures['topics']:,.0f} topics)"
        if "gap_ms" in figures:
            gap = [f"{figures['gap_ms']:,.0f} ms{_unended(rows, name, peer)}", times("gap_ms")]
            yield peer, gap + [""] * (len(_COLUMNS) - len(gap))
            continue
        yield (
            peer,
            [
                f"{figures['per_s']:,.0f}",
                times("per_s"),
                f"{figures['p50_ms']:.2f}",
                times("p50_ms"),
                f"{figures['p99_ms']:.2f}",
                times("p99_ms"),
                f"{figures['p999_ms']:.2f}",
                f"{figures['server_us']:.0f}",
                times("server_us"),
                f"{figures['client_us']:.1f}",
                f"{figures['rss_mb']:.0f}",
                f"{figures['foreign_cpu']:.0%}",
            ],
        )


def _workload_table(
    rows: Sequence[Row], found: Mapping[tuple[str, str], Mapping[str, float]], workload: str
) -> str:
    lines = list(_lines(rows, found, workload))
    head: tuple[str, ...] = ("system", *_COLUMNS)
    if not any(any(cells[2:]) for _, cells in lines):
        head = ("system", "longest gap", "ratio")
        lines = [(peer, cells[:2]) for peer, cells in lines]
    table = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    table += ["| " + " | ".join((peer, *cells)) + " |" for peer, cells in lines]
    return "\n".join(table)


def _about(rows: Sequence[Row]) -> str:
    machine: Row = next((row["machine"] for row in rows if "machine" in row), {})
    figures = measured(rows)
    noisy = sum(row.get("foreign_cpu", 0) > QUIET for row in figures)
    rounds = max((row["round"] for row in figures), default=0)
    return (
        f"{machine.get('at', '?')}; {machine.get('cores', '?')} cores ({machine.get('cpu', '?')}),"
        f" {machine.get('memory_gb', '?')} GB, Linux {machine.get('kernel', '?')}, Python"
        f" {machine.get('python', '?')}. Medians of {rounds} rounds. In {noisy} of {len(figures)}"
        f" measurements others used more than {QUIET:.0%} of the machine."
        " A ratio is ours / theirs in the same round, ours with the flush policy named below."
    )


def _glance(rows: Sequence[Row]) -> str:
    """All that is judged, a line for each workload and peer."""
    head = ["workload", "beside", *(judged.title for judged in JUDGED)]
    table = ["| " + " | ".join(head) + " |", "|---|---" + "|---:" * len(JUDGED) + "|"]
    judged_as = verdicts(rows)
    for workload, title in _titles(rows).items():
        lines = [(peer, cells) for (name, peer), cells in judged_as.items() if name == workload]
        for number, (peer, cells) in enumerate(lines):
            table.append("| " + " | ".join((title if not number else "", peer, *cells)) + " |")
    meaning = (
        f"Ours / theirs. **Ours is better** or *worse* by more than {EVEN:.0%}: more throughput,"
        " less of everything else."
    )
    return meaning + "\n\n" + "\n".join(table)


def _promises(rows: Sequence[Row]) -> str:
    lines = ["| system | release | when the answer comes, the message is | compared with |"]
    lines.append("|---|---|---|---|")
    seen = set()
    for row in measured(rows):
        if row["peer"] not in seen:
            seen.add(row["peer"])
            like = "" if row["like"] == row["peer"] else row["like"]
            lines.append(f"| {row['peer']} | {row['version']} | {row['promise']} | {like} |")
    return "\n".join(lines)


def _titles(rows: Sequence[Row]) -> dict[str, str]:
    return {row["workload"]: row["title"] for row in rows if "workload" in row}


def _unended(rows: Sequence[Row], workload: str, peer: str) -> str:
    """Says so if sends were not accepted again as long as one looked."""
    count = sum(
        not row["gap_ended"]
        for row in measured(rows)
        if (row["workload"], row["peer"]) == (workload, peer)
    )
    return f" ({count} not over when the run ended)" if count else ""


def _where(row: Row) -> str:
    where = [f"in round {row['round']}"] if "round" in row else []
    if "title" in row:
        where.append(f"at “{row['title']}”")
    return " " + " ".join(where) if where else ""


def _listed(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines) if lines else "Nothing."


def main() -> int:
    """Show the results of earlier runs; several files count as one run with more rounds."""
    parser = argparse.ArgumentParser(prog="bench.peers.report", description=__doc__)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    rows = read(options.results)
    if options.markdown:
        sys.stdout.write(markdown(rows))
    else:
        print_table(rows, Console(width=None if sys.stdout.isatty() else 160))
    return 0


def read(paths: Iterable[Path]) -> list[Row]:
    """The rows of some runs; a later one's rounds are counted on from those before."""
    rows: list[Row] = []
    for path in paths:
        before = max((row["round"] for row in rows if "round" in row), default=0)
        for line in path.read_text().splitlines():
            row = json.loads(line)
            if "round" in row:
                row["round"] += before
            rows.append(row)
    return rows


if __name__ == "__main__":
    sys.exit(main())
