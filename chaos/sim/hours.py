"""Many seeds in a row: by number or by simulated hours, through one profile or all, and what came
of them in figures.
"""

import time
from collections.abc import Iterator, Sequence

from attrs import define, field

from chaos.sim.run import Result, run

Setting = tuple[str, int]
"""A profile and a number of members."""


@define
class Totals:
    """The sums over many runs."""

    began: float = field(factory=time.monotonic)
    runs: int = 0
    simulated_s: float = 0.0
    events: int = 0
    elections: int = 0
    committed: int = 0
    acknowledged: int = 0
    reads: int = 0
    transfers: int = 0
    changes: int = 0
    drops: int = 0
    installs: int = 0
    faults: dict[str, int] = field(factory=dict)
    trace: int = 0

    def add(self, result: Result) -> None:
        self.runs += 1
        self.simulated_s += result.simulated_s
        self.events += result.events
        self.elections += result.elections
        self.committed += result.committed
        self.acknowledged += result.acknowledged
        self.reads += result.reads
        self.transfers += result.transfers
        self.changes += result.changes
        self.drops += result.drops
        self.installs += result.installs
        self.trace = result.trace
        for kind, times in result.faults:
            self.faults[kind] = self.faults.get(kind, 0) + times

    def tell(self) -> str:
        """The figures in a few lines, the last trace among them: equal runs end in equal ones."""
        took = time.monotonic() - self.began
        faults = ", ".join(f"{times} {kind}" for kind, times in sorted(self.faults.items()))
        return (
            f"{self.runs} runs held: {self.simulated_s / 3600:.2f} simulated hours"
            f" in {took:.1f} s ({self.simulated_s / took:.0f} times real time,"
            f" {self.simulated_s / took / 60:.2f} hours per minute)\n"
            f"  {self.events} events, {self.elections} elections, {self.committed} entries,"
            f" {self.reads} reads, {self.transfers} transfers, {self.changes} changes,"
            f" {self.drops} drops, {self.installs} copies\n"
            f"  faults: {faults or 'none'}\n"
            f"  last trace {self.trace:08x}"
        )


def results(
    first_seed: int, settings: Sequence[Setting], runs: int, hours: float, seconds: float
) -> Iterator[Result]:
    """Every seed under the next setting in turn: `runs` of them, or if `hours` is not 0, until so
    many hours have been simulated.
    """
    simulated_s = 0.0
    count = 0
    while simulated_s < hours * 3600 if hours else count < runs:
        profile, members = settings[count % len(settings)]
        result = run(first_seed + count, profile, members, seconds)
        simulated_s += result.simulated_s
        count += 1
        yield result
