"""What a run comes to: every judge's findings, and the figures that are told and not judged."""

import statistics
from collections.abc import Callable, Sequence

from attrs import frozen

from chaos.checkers.history import Acknowledged, History, Received
from chaos.checkers.messages import CHECKERS, Gap, duplicates, stalled, write_gaps

Checker = Callable[[History], tuple[str, ...]]


@frozen(kw_only=True)
class Verdict:
    """What the judges found."""

    findings: tuple[str, ...]
    gaps: tuple[Gap, ...]
    acknowledged: int
    received: int
    duplicates: int
    told: tuple[str, ...] = ()
    """Further figures, a line each."""

    @property
    def passed(self) -> bool:
        return not self.findings


def judge(
    history: History,
    *,
    gap_max_s: float = float("inf"),
    findings: Sequence[str] = (),
    further: Sequence[Checker] = (),
    told: Sequence[str] = (),
) -> Verdict:
    """All judges on one history; `findings` are what the scenario saw by itself, `further` are
    judges of its own, and `told` are figures of its own.

    `gap_max_s` is the longest time without an acknowledged send that is still right.
    """
    gaps = write_gaps(history)
    found = [
        f"{checker.__name__}: {finding}"
        for checker in (*CHECKERS, *further)
        for finding in checker(history)
    ]
    found += [f"stalled: {finding}" for finding in stalled(gaps, at_most_s=gap_max_s)]
    return Verdict(
        findings=(*findings, *found),
        gaps=gaps,
        acknowledged=sum(1 for _ in history.of(Acknowledged)),
        received=sum(1 for _ in history.of(Received)),
        duplicates=duplicates(history),
        told=tuple(told),
    )


def report(verdict: Verdict) -> str:
    """The verdict for people: each fault with its gap, the median of each kind, the findings."""
    lines = [
        f"  {number:3} {' '.join(gap.nodes)} {gap.what}; longest write gap"
        f" {gap.seconds * 1000:6.0f} ms"
        for number, gap in enumerate(verdict.gaps, 1)
    ]
    for what in dict.fromkeys(gap.what for gap in verdict.gaps):
        ms = [gap.seconds * 1000 for gap in verdict.gaps if gap.what == what]
        lines.append(
            f"  {what}: {len(ms)} times, median gap {statistics.median(ms):.0f} ms,"
            f" longest {max(ms):.0f} ms"
        )
    lines.append(
        f"  {verdict.acknowledged} sends acknowledged, {verdict.received} deliveries,"
        f" {verdict.duplicates} duplicates stored"
    )
    lines += [f"  {line}" for line in verdict.told]
    lines += [f"  FAILED {finding}" for finding in verdict.findings[:FINDINGS_SHOWN]]
    lines.append("passed: nothing lost, nothing rewound" if verdict.passed else "FAILED")
    return "\n".join(lines)


FINDINGS_SHOWN = 50
"""One fault often breaks hundreds of messages in the same way."""
