"""`dledger log backup`, `restore`, `rescue`: copies of a member's log, and groups that begin anew.

What is done is `dledger_py.storage.backup`'s and `dledger_py.ledger.founding`'s; here are the
words.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from secrets import randbits
from typing import TYPE_CHECKING, Any, NoReturn

import click

from dledger_py.cli.exits import DONE, FAILED, UNREACHABLE, USAGE, fail
from dledger_py.cli.output import columns, print_json, print_table, program, say

if TYPE_CHECKING:
    from dledger_py.ledger.founding import Reach
    from dledger_py.storage.manifest import BackupFile, Manifest

PATIENCE_S = 5.0
"""How long a backup waits until a running member knows that what it has is committed: it writes
that down once a second."""

LOOK_S = 0.1

_json = click.option("--json", "as_json", is_flag=True, help="For programs; no progress.")


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path())
@click.argument("to", metavar="TO", type=click.Path())
@click.option(
    "--patience",
    "patience_s",
    type=click.FloatRange(0),
    default=PATIENCE_S,
    show_default=True,
    help="Seconds to wait until a running member knows that its last entries are committed.",
)
@click.option(
    "--whole-log",
    "whole",
    is_flag=True,
    help="With what is not known to be committed. Of a stopped member, to save a lost group.",
)
@_json
def backup(directory: str, to: str, patience_s: float, whole: bool, as_json: bool) -> None:
    """Copy the committed log of a member, running or not, from its data directory DIR to TO.

    What the member had on its disk when the command began is in it. TO is new or empty.
    """
    from dledger_py.ledger.founding import members_of
    from dledger_py.storage import RealFiles
    from dledger_py.storage.backup import back_up

    with _told(directory):
        made = back_up(
            RealFiles(),
            _trimmed(directory),
            _trimmed(to),
            taken=datetime.now(UTC).isoformat(timespec="seconds"),
            members_of=members_of,
            keep_waiting=_patience(0 if whole else patience_s),
            on_file=_progress("copied", as_json=as_json),
            whole=whole,
        )
    if as_json:
        print_json(_as_document(to, made.manifest, ()) | {"leftOut": made.left_out})
        return
    if made.left_out:
        print(
            f"dledger: {made.left_out} entries behind it are not known to be committed: left out",
            file=sys.stderr,
        )
    say(f"complete: {_summary(made.manifest)}", style="green")


def verify_backup(directory: str, *, as_json: bool) -> NoReturn:
    """`dledger log verify` of a backup."""
    from dledger_py.storage import RealFiles
    from dledger_py.storage.backup import check_backup

    with _told(directory):
        found = check_backup(RealFiles(), _trimmed(directory))
    if as_json:
        print_json(_as_document(directory, found.manifest, found.damage))
    else:
        manifest = found.manifest
        say(f"a backup of {manifest.identity}, taken {manifest.taken}")
        members = ", ".join(manifest.members) or "not in the log"
        say(f"members: {members}; term {manifest.term}; committed up to {manifest.committed}")
        for line in found.damage:
            say(f"DAMAGED: {line}", style="bold red")
        if not found.damage:
            say(f"sound: {_summary(manifest)}", style="green")
    raise click.exceptions.Exit(FAILED if found.damage else DONE)


@click.command()
@click.argument("source", metavar="BACKUP", type=click.Path())
@click.argument("directory", metavar="DIR", type=click.Path())
@click.option("--member", required=True, help="Whose data directory DIR is to be.")
@click.option("--members", required=True, help="Everybody in the new group: n0,n1,n2.")
@click.option("--cluster", help="cluster_id of the new group; the old one's if left out.")
@click.option("--group", help="broker_name of the new group; the old one's if left out.")
@_json
def restore(
    source: str,
    directory: str,
    member: str,
    members: str,
    cluster: str | None,
    group: str | None,
    as_json: bool,
) -> None:
    """Make the data directory DIR of one member of a new group from a backup.

    Once for each of the members, from the same backup and with the same --members; then start them.
    """
    from dledger_py.ledger.founding import found_from_backup
    from dledger_py.storage import RealFiles

    names = [name.strip() for name in members.split(",")]
    with _told(source):
        founded = found_from_backup(
            RealFiles(),
            _trimmed(source),
            _trimmed(directory),
            member=member,
            members=names,
            cluster=cluster,
            group=group,
            random_bits=randbits,
            on_file=_progress("checked", as_json=as_json),
        )
    end = founded.end
    if as_json:
        print_json(
            {
                "directory": directory,
                "member": member,
                "members": list(founded.voters),
                "cluster": founded.identity.cluster,
                "group": founded.identity.group,
                "lastIndex": end.index,
                "lastTerm": end.term,
            }
        )
        return
    say(
        f"restored: {directory} is {founded.identity} of {', '.join(founded.voters)};"
        f" {end.index} entries, term {end.term}",
        style="green",
    )
    for other in founded.voters:
        if other != member:
            say(f"  {other} is made from the same backup, with the same --members")


@click.command()
@click.argument("directories", metavar="DIR…", nargs=-1, required=True, type=click.Path())
@click.option(
    "--accept-data-loss",
    "accepted",
    is_flag=True,
    help="Do it, in the one DIR given. Without this nothing is changed.",
)
@_json
def rescue(directories: tuple[str, ...], accepted: bool, as_json: bool) -> None:
    """Let one stopped member go on alone, when the majority of its group is lost for good.

    Without --accept-data-loss: how far the log of each DIR reaches, and what would be lost.
    """
    from dledger_py.ledger.founding import reach
    from dledger_py.storage import RealFiles

    if accepted and len(directories) != 1:
        fail("a group is rescued by one member: give the one DIR whose log reaches furthest", USAGE)
    found = []
    for directory in directories:
        with _told(directory):
            found.append(reach(RealFiles(), _trimmed(directory)))
    found.sort(key=lambda each: (each.last_term, each.last_index), reverse=True)
    groups = {(each.identity.cluster, each.identity.group) for each in found}
    if len(groups) > 1:
        fail(f"these are of {len(groups)} groups: {', '.join(map(str, sorted(groups)))}")
    if not accepted:
        _show_reach(found, as_json=as_json)
        return
    _rescue(found[0], as_json=as_json)


def _show_reach(found: "list[Reach]", *, as_json: bool) -> None:
    best = found[0]
    if as_json:
        print_json({"reach": [_reach_document(each) for each in found], "rescued": False})
        return
    shape = columns("Directory", "Member", ">Last term", ">Last index", ">Committed", "Members")
    rows = [
        (
            each.directory,
            each.identity.member,
            each.last_term,
            each.last_index,
            each.committed,
            ",".join(each.members),
        )
        for each in found
    ]
    print_table(shape, rows)
    _warn(best)
    say(
        f"Nothing was changed. To do it: {program()} log rescue --accept-data-loss {best.directory}"
    )


def _warn(best: "Reach") -> None:
    member = best.identity.member
    others = ", ".join(best.others) or "the others"
    say(
        f"WARNING: {member} would go on alone, with entries up to {best.last_index}.\n"
        f"  Lost is what was acknowledged and only {others} had. Committed are at least"
        f" {best.committed}; how many more there were is not known here.\n"
        f"  Kept is all that {member} has, also what nobody was told of.\n"
        f"  {others}: never start them on the folders they had; remove these first. {member} will"
        " not hear them, but a majority of them would go on as the group it was.",
        style="bold red",
    )


def _rescue(found: "Reach", *, as_json: bool) -> None:
    from dledger_py.ledger.founding import rescue
    from dledger_py.storage import RealFiles

    if not as_json:
        _warn(found)
    with _told(found.directory):
        founded = rescue(RealFiles(), found.directory, randbits)
    if as_json:
        print_json({"reach": [_reach_document(found)], "rescued": True, "term": founded.end.term})
        return
    member = founded.identity.member
    say(f"rescued: {member} is the only member, from term {founded.end.term} on", style="green")
    say(
        f"  start it, then add others, with empty folders and ledger.join = true:"
        f" {program()} admin addMember"
    )


@contextmanager
def _told(directory: str) -> Iterator[None]:
    """Errors, as lines and codes."""
    from dledger_py.ledger.founding import WrongNames
    from dledger_py.storage import Corrupt, DirectoryInUse
    from dledger_py.storage.backup import NotBackedUp, NotEmpty
    from dledger_py.storage.inspection import NoLog
    from dledger_py.storage.manifest import BadBackup

    try:
        yield
    except NoLog as error:
        fail(str(error), UNREACHABLE)
    except WrongNames as error:
        fail(str(error), USAGE)
    except DirectoryInUse:
        fail(f"{directory}: a running member has it open; stop it first", FAILED)
    except (NotEmpty, NotBackedUp, BadBackup) as error:
        fail(str(error), FAILED)
    except Corrupt as error:
        fail(
            f"{error.file}, byte {error.offset}: {error.reason}; what that means:"
            f" {program()} log verify {directory}",
            FAILED,
        )


def _patience(seconds: float) -> Callable[[], bool]:
    """Waits a moment, as long as there are any left."""
    deadline = time.monotonic() + seconds

    def keep_waiting() -> bool:
        if time.monotonic() >= deadline:
            return False
        time.sleep(LOOK_S)
        return True

    return keep_waiting


def _progress(verb: str, *, as_json: bool) -> "Callable[[BackupFile], None]":
    def told(file: "BackupFile") -> None:
        if not as_json:
            say(f"{verb} {file.name}, {_size(file.size_bytes)}")

    return told


def _summary(manifest: "Manifest") -> str:
    first = manifest.start.index + 1
    return (
        f"entries {first} to {manifest.end.index} of {manifest.identity.member}, term"
        f" {manifest.end.term}; {len(manifest.files)} files, {_size(manifest.size_bytes)}"
    )


def _size(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 20):.1f} MiB"


def _trimmed(directory: str) -> str:
    return directory.rstrip("/") or "/"


def _as_document(directory: str, manifest: "Manifest", damage: tuple[str, ...]) -> dict[str, Any]:
    identity = manifest.identity
    return {
        "backup": directory,
        "sound": not damage,
        "damage": list(damage),
        "identity": {
            "cluster": identity.cluster,
            "group": identity.group,
            "member": identity.member,
        },
        "taken": manifest.taken,
        "members": list(manifest.members),
        "term": manifest.term,
        "committed": manifest.committed,
        "firstIndex": manifest.start.index + 1,
        "lastIndex": manifest.end.index,
        "lastTerm": manifest.end.term,
        "endPosition": manifest.end.position,
        "snapshot": manifest.snapshot,
        "files": len(manifest.files),
        "sizeBytes": manifest.size_bytes,
    }


def _reach_document(found: "Reach") -> dict[str, Any]:
    return {
        "directory": found.directory,
        "member": found.identity.member,
        "lastTerm": found.last_term,
        "lastIndex": found.last_index,
        "committed": found.committed,
        "members": list(found.members),
    }
