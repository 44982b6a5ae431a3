"""How fast is the ledger alone: three processes on loopback, no protocol above it.

    python -m bench.ledger_path --seconds 3
    python -m bench.ledger_path --seconds 3 --tls     # members with certificates

One JSON line per load: rate, latency and what each process paid in processor time per commit. The
load is a closed loop inside the leader's process, so no client is measured, but its cost is on the
leader's bill. With `--profile FILE` the leader's last load runs under cProfile.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from time import perf_counter

import structlog
import trio

from dledger_py.ledger import Applied, Committed, Ledger, LedgerConfig, LedgerError, open_ledger

LOADS: tuple[tuple[int, int], ...] = (
    (64 << 10, 1),
    (64 << 10, 8),
    (1 << 10, 1),
    (1 << 10, 8),
    (1 << 10, 64),
)
"""(payload bytes, in flight): a turn's batch of a busy broker, and single messages."""


class Counting:
    """The cheapest machine there is."""

    def __init__(self) -> None:
        self.count = 0

    def apply(self, committed: Committed) -> Applied:
        self.count += 1
        return Applied(reply=self.count)


class Loop:
    """Keeps a number of proposals in flight and notes how long each took."""

    def __init__(self, ledger: Ledger, payload: bytes) -> None:
        self._ledger = ledger
        self._payload = payload
        self._running = True
        self.latencies_s: list[float] = []
        self.refused: list[LedgerError] = []

    def propose(self) -> None:
        began = perf_counter()

        def settle(result: object) -> None:
            if isinstance(result, LedgerError):
                self.refused.append(result)
                return
            self.latencies_s.append(perf_counter() - began)
            if self._running:
                self.propose()

        self._ledger.propose(self._payload, settle)

    async def run(self, in_flight: int, seconds: float) -> None:
        for _ in range(in_flight):
            self.propose()
        await trio.sleep(seconds)
        self._running = False


async def member(
    name: str, peers: dict[str, str], folder: str, flush: str, profile: str, *, tls: bool
) -> None:
    config = LedgerConfig(
        node=name,
        peers=peers,
        data_dir=f"{folder}/{name}",
        flush="async" if flush == "async" else "sync",
        election_timeout_ms=2000,
        tls_certificate=f"{folder}/{name}.certificate" if tls else "",
        tls_key=f"{folder}/{name}.key" if tls else "",
        tls_ca=f"{folder}/{name}.ca" if tls else "",
    )
    ready = trio.Event()
    async with open_ledger(config, Counting()) as ledger:
        ledger.on_role_change(lambda view: ready.set() if view.ready else None)
        gc.freeze()
        await ready.wait()
        await trio.sleep(0.5)  # the other followers find their leader
        print(json.dumps({"leader": name}), flush=True)
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            size, in_flight, seconds, last = json.loads(line)
            loop = Loop(ledger, os.urandom(size))
            with profiled(profile if last else ""):
                began = perf_counter()
                await loop.run(in_flight, seconds)
                took_s = perf_counter() - began
            print(json.dumps(summary(loop, took_s)), flush=True)


@contextmanager
def profiled(file: str) -> Iterator[None]:
    if not file:
        yield
        return
    profile = cProfile.Profile()
    profile.enable()
    try:
        yield
    finally:
        profile.disable()
        profile.dump_stats(file)


def summary(loop: Loop, took_s: float) -> dict[str, float]:
    latencies = sorted(loop.latencies_s) or [0.0]
    return {
        "commits": len(loop.latencies_s),
        "commits_per_s": round(len(loop.latencies_s) / took_s),
        "p50_ms": round(latencies[len(latencies) // 2] * 1000, 3),
        "p99_ms": round(latencies[len(latencies) * 99 // 100] * 1000, 3),
        "refused": len(loop.refused),
    }


def cpu_s(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--flush", choices=("sync", "async"), default="sync")
    parser.add_argument("--profile", default="", help="cProfile output of the leader's last load")
    parser.add_argument("--load", action="append", help="payload bytes x in flight, as 1024x8")
    parser.add_argument("--folder", default=None)
    parser.add_argument("--tls", action="store_true", help="members speak TLS")
    parser.add_argument("--member", help=argparse.SUPPRESS)
    parser.add_argument("--peers", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.member:
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
        peers = json.loads(chosen.peers)
        run = partial(member, tls=chosen.tls)
        trio.run(run, chosen.member, peers, chosen.folder, chosen.flush, chosen.profile)
        return
    loads = LOADS
    if chosen.load:
        loads = tuple((int(a), int(b)) for a, b in (load.split("x") for load in chosen.load))
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        compare(folder, loads, chosen)


def compare(folder: str, loads: tuple[tuple[int, int], ...], chosen: argparse.Namespace) -> None:
    peers = {f"n{number}": f"127.0.0.1:{free_port()}" for number in range(3)}
    common = ["--peers", json.dumps(peers), "--folder", folder, "--flush", chosen.flush]
    common += ["--profile", chosen.profile]
    if chosen.tls:
        common.append("--tls")
        certify(folder, peers)
    members = {
        name: subprocess.Popen(
            [sys.executable, "-m", "bench.ledger_path", "--member", name, *common],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=open(f"{folder}/{name}.txt", "w"),  # noqa: SIM115 - the child's for its life
            text=True,
        )
        for name in peers
    }
    try:
        leader = wait_leader(members)
        for place, (size, in_flight) in enumerate(loads):
            before = {name: cpu_s(process.pid) for name, process in members.items()}
            load = (size, in_flight, chosen.seconds, place == len(loads) - 1)
            assert leader.stdin is not None
            assert leader.stdout is not None
            leader.stdin.write(json.dumps(load) + "\n")
            leader.stdin.flush()
            result = json.loads(leader.stdout.readline())
            for name, process in members.items():
                role = "leader" if process is leader else f"follower_{name}"
                used_s = cpu_s(process.pid) - before[name]
                result[f"{role}_cpu_us"] = round(used_s * 1e6 / max(result["commits"], 1))
            line = {
                "payload_bytes": size,
                "in_flight": in_flight,
                "flush": chosen.flush,
                "tls": chosen.tls,
                **result,
            }
            print(json.dumps(line), flush=True)
    finally:
        for process in members.values():
            process.send_signal(signal.SIGKILL)
            process.wait()


def certify(folder: str, names: Iterable[str]) -> None:
    """A certificate for each member, of a CA made for this run."""
    import trustme  # of the tests, and needed for this only

    ca = trustme.CA()
    for name in names:
        issued = ca.issue_cert(name)
        issued.cert_chain_pems[0].write_to_path(f"{folder}/{name}.certificate")
        issued.private_key_pem.write_to_path(f"{folder}/{name}.key")
        ca.cert_pem.write_to_path(f"{folder}/{name}.ca")


def wait_leader(members: dict[str, subprocess.Popen[str]]) -> subprocess.Popen[str]:
    """The member that says it leads; the others say nothing."""
    outputs = {process.stdout: process for process in members.values() if process.stdout}
    ready, _, _ = select.select(list(outputs), [], [], 20.0)
    assert ready, "no leader within 20 s"
    ready[0].readline()
    return outputs[ready[0]]


if __name__ == "__main__":
    main()
