"""What is measured: a table, and the load generator's words for each row.

Counts are not in the table. What lasts some seconds is 1,500 messages here and 300,000 there, so
each system's own count is found once by a short probe and then kept for all rounds (`rounds`).
"""

import subprocess
from pathlib import Path
from typing import Final, Literal

from attrs import frozen

from bench.peers.peer import tool

GENERATOR: Final = Path(__file__).resolve().parents[1] / "generator"

Kind = Literal["send", "drain", "e2e", "gap"]


@frozen(kw_only=True)
class Workload:
    """One row of the table."""

    name: str
    title: str
    kind: Kind = "send"
    in_flight: int = 1
    connections: int = 1
    body_bytes: int = 1024
    batch: int = 1
    topics: int = 1
    groups: int = 1
    rate: int = 0
    """Messages per second, where the generator sets the pace."""
    probe: int = 0
    """Messages whose rate decides how many are sent."""
    count: int = 0
    """Messages, where they are fixed."""
    seconds: float = 0.0
    """How long, where the time is fixed."""


def _sends(body_bytes: int, size: str) -> tuple[Workload, ...]:
    return tuple(
        Workload(
            name=f"{size}-{in_flight}",
            title=f"{body_bytes:,} B, {in_flight} in flight",
            body_bytes=body_bytes,
            in_flight=in_flight,
            probe=300 if in_flight == 1 else 5_000,
        )
        for in_flight in (1, 64, 256)
    )


WORKLOADS: Final = (
    *_sends(1024, "1k"),
    *_sends(128, "128b"),
    Workload(
        name="64-clients",
        title="1,024 B, 64 connections with 1 in flight each",
        connections=64,
        probe=5_000,
    ),
    Workload(
        name="batch",
        title="batches of 32 of 1,024 B, 8 in flight",
        in_flight=8,
        batch=32,
        probe=16_000,
    ),
    Workload(name="drain", title="drain of stored 1,024 B messages", kind="drain", count=200_000),
    Workload(name="e2e", title="end to end at 500/s, 1,024 B", kind="e2e", rate=500, seconds=10),
    Workload(
        name="fan-out",
        title="end to end at 2,000/s to 4 groups, 1,024 B",
        kind="e2e",
        rate=2_000,
        groups=4,
        seconds=6,
    ),
    Workload(
        name="topics",
        title="1,024 B, 64 in flight, over many topics",
        in_flight=64,
        topics=1_000,
        probe=5_000,
    ),
    Workload(
        name="leader-kill",
        title="SIGKILL of the leader: longest time without an accepted send",
        kind="gap",
        in_flight=16,
        seconds=12,
    ),
)
"""In this order on each cluster: the one that kills a server is the last."""

BY_NAME: Final = {workload.name: workload for workload in WORKLOADS}


def send_words(workload: Workload, *, topic: str, topics: int, count: int, warm: int) -> list[str]:
    """Arguments of `load send`."""
    words = ["send", "--topic", topic, "--count", str(count), "--warm", str(warm)]
    words += ["--in-flight", str(workload.in_flight), "--body-bytes", str(workload.body_bytes)]
    words += ["--connections", str(workload.connections), "--batch", str(workload.batch)]
    return [*words, "--topics", str(topics)]


def e2e_words(workload: Workload, *, topic: str, seconds: float) -> list[str]:
    """Arguments of `load e2e`: its first second does not count."""
    words = ["e2e", "--topic", topic, "--rate", str(workload.rate), "--seconds", f"{seconds:g}"]
    words += ["--body-bytes", str(workload.body_bytes), "--groups", str(workload.groups)]
    return [*words, "--warm", str(workload.rate)]


def built_generator() -> Path:
    """The load generator, compiled if it is not. **Raises** PeerMissing without a compiler."""
    tool("cc", install="apt install gcc")
    make = tool("make", install="apt install make")
    subprocess.run([make, "--quiet", "-C", str(GENERATOR)], check=True)
    return GENERATOR / "load"
