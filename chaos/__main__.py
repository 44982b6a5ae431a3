"""`python -m chaos [SCENARIO] [options]`: hurt a real cluster under load, then judge.

Status 0 if every judge is content, 1 if not. Without a scenario, leaders are killed.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from chaos import cut_off, full_disk, leader_kills, membership, pauses, semantics
from chaos.judging import Verdict, report
from chaos.load import Say
from dledger_py.runtime import logs

Run = Callable[[Path, Say], Awaitable[Verdict]]


def main() -> int:
    """Run the scenario and print the verdict."""
    options = _parser().parse_args(_with_default(sys.argv[1:]))
    logs.configure(level="warning")
    scenario: Callable[[argparse.Namespace], tuple[str, Run]] = options.prepare
    title, run = scenario(options)
    directory = options.data or Path(tempfile.mkdtemp(prefix="dledger-chaos-"))
    passed = False
    try:
        verdict = trio.run(run, directory, _say)
        passed = verdict.passed
        print(f"\n{title}\n{report(verdict)}")
    finally:
        if not passed:
            print(f"the members' data and logs are in {directory}")
        elif options.data is None:
            shutil.rmtree(directory)
    return 0 if passed else 1


def _say(text: str) -> None:
    print(text, flush=True)


def _with_default(words: list[str]) -> list[str]:
    named = bool(words) and not words[0].startswith("-")
    return words if named or {"-h", "--help"} & set(words) else ["leader-kills", *words]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    scenarios = parser.add_subparsers(required=True, metavar="SCENARIO")

    kills = scenarios.add_parser("leader-kills", parents=[_common(10)], help="SIGKILL the leader")
    kills.add_argument("--groups", type=int, default=1, help="broker groups on the nodes")
    kills.add_argument("--all", action="store_true", help="kill every node at once")
    kills.add_argument("--flush", choices=("sync", "async"), default="sync")
    kills.add_argument(
        "--snapshot-every",
        type=int,
        default=0,
        metavar="BYTES",
        help="restarts begin at snapshots this far apart, not at the log's beginning",
    )
    kills.set_defaults(prepare=_leader_kills)

    cut = scenarios.add_parser(
        "cut-off", parents=[_common(10)], help="let the leader and its peers not hear each other"
    )
    cut.add_argument("--one-way", action="store_true", help="cut one direction, in turns")
    cut.set_defaults(prepare=_cut_off)

    full = scenarios.add_parser(
        "full-disk",
        parents=[_common(1)],
        help="let disks run low and full (needs to mount)",
    )
    full.add_argument("--who", choices=full_disk.CASES, help="whose disks (default: all in turn)")
    full.set_defaults(prepare=_full_disk)

    change = scenarios.add_parser(
        "membership", parents=[_common(1)], help="add, remove and replace members"
    )
    change.set_defaults(prepare=_membership)

    pause = scenarios.add_parser(
        "pauses", parents=[_common(12)], help="SIGSTOP leader and followers for a while"
    )
    pause.set_defaults(prepare=_pauses)

    kept = scenarios.add_parser(
        "semantics",
        parents=[_common(10)],
        help="SIGKILL leaders under delays, transactions, consuming in order and retries",
    )
    kept.add_argument("--groups", type=int, default=1, help="broker groups on the nodes")
    kept.add_argument(
        "--who",
        choices=semantics.WHO,
        default="leader",
        help="whom to kill; or stop leader and followers for a while (default: leader)",
    )
    kept.set_defaults(prepare=_semantics)
    return parser


def _common(times: int) -> argparse.ArgumentParser:
    """What every scenario takes. One for each: a parser's defaults are shared with its children."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--nodes", type=int, default=3, help="members of the group (default 3)")
    common.add_argument("--times", type=int, default=times, help=f"how often (default {times})")
    common.add_argument("--data", type=Path, help="keep the cluster's data here")
    return common


def _leader_kills(options: argparse.Namespace) -> tuple[str, Run]:
    plan = leader_kills.Plan(
        times=options.times,
        kill_all=options.all,
        nodes=options.nodes,
        groups=options.groups,
        flush=options.flush,
        snapshot_every_bytes=options.snapshot_every,
    )
    whom = "all nodes" if plan.kill_all else "the leader"
    groups = "" if plan.groups == 1 else f" with {plan.groups} groups"
    title = f"{plan.nodes} nodes{groups}, flush {plan.flush}, {whom} killed {plan.times} times"
    return title, lambda directory, say: leader_kills.run(directory, plan, say=say)


def _cut_off(options: argparse.Namespace) -> tuple[str, Run]:
    plan = cut_off.Plan(times=options.times, nodes=options.nodes, one_way=options.one_way)
    how = "one way" if plan.one_way else "both ways"
    title = f"{plan.nodes} nodes, the leader cut off from its peers {plan.times} times, {how}"
    return title, lambda directory, say: cut_off.run(directory, plan, say=say)


def _full_disk(options: argparse.Namespace) -> tuple[str, Run]:
    cases = (options.who,) if options.who else full_disk.CASES
    plan = full_disk.Plan(times=options.times, nodes=options.nodes, cases=cases)
    title = f"{plan.nodes} nodes, disks low and full, in turn of: {', '.join(cases)}"
    return title, lambda directory, say: full_disk.run(directory, plan, say=say)


def _pauses(options: argparse.Namespace) -> tuple[str, Run]:
    plan = pauses.Plan(times=options.times, nodes=options.nodes)
    title = f"{plan.nodes} nodes, leader and followers paused {plan.times} times"
    return title, lambda directory, say: pauses.run(directory, plan, say=say)


def _semantics(options: argparse.Namespace) -> tuple[str, Run]:
    plan = semantics.Plan(
        times=options.times, who=options.who, nodes=options.nodes, groups=options.groups
    )
    groups = "" if plan.groups == 1 else f" with {plan.groups} groups"
    what = {
        "leader": "the leader killed",
        "all": "all nodes killed",
        "paused": "leader and followers paused",
    }[plan.who]
    title = f"{plan.nodes} nodes{groups}, {what} {plan.times} times"
    return title, lambda directory, say: semantics.run(directory, plan, say=say)


def _membership(options: argparse.Namespace) -> tuple[str, Run]:
    plan = membership.Plan(times=options.times, nodes=options.nodes)
    title = f"{plan.nodes} nodes, members added, removed and replaced {plan.times} times"
    return title, lambda directory, say: membership.run(directory, plan, say=say)


if __name__ == "__main__":
    sys.exit(main())
