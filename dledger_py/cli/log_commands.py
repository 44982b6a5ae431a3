"""`dledger log …`: what is in the data directory of a member that does not run.

Read-only. The looking is `dledger_py.storage.inspection`'s; here it becomes lines and JSON. Those
commands that make something of a directory are `backup_commands`.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from dledger_py.cli.backup_commands import verify_backup
from dledger_py.cli.exits import DONE, FAILED, UNREACHABLE, fail
from dledger_py.cli.output import columns, print_json, print_table, say

if TYPE_CHECKING:
    from dledger_py.storage.inspection import DumpedEntry, Finding, Inspection, SegmentSummary

LIMIT = 1000
"""Entries a dump shows unless told otherwise: a screen or two too many, and no more than that."""

PREVIEW_BYTES = 24
"""Of each payload, in a table; enough for a command's tag and the first names in it."""

PREVIEW_MAX_BYTES = 64 * 1024

_KINDS = {0: "no-op", 1: "command", 2: "config"}

_directory = click.argument("directory", metavar="DIR", type=click.Path())


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def log() -> None:
    """Look into members' data directories, copy them, and begin groups anew with them."""


@log.command()
@_directory
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def verify(directory: str, as_json: bool) -> None:
    """Check every byte that has a checksum. Exit code 0: sound; 1: damaged; 3: no log there.

    Of a stopped member; changes nothing. Sound means that the member will start; a torn tail,
    which a crash leaves, is sound. Or of a backup: sound means that it is all there, and as it was.
    """
    from dledger_py.storage import RealFiles
    from dledger_py.storage.backup import is_backup
    from dledger_py.storage.inspection import inspect

    if is_backup(RealFiles(), directory):
        verify_backup(directory, as_json=as_json)
    with _told(directory):
        found = inspect(RealFiles(), directory.rstrip("/") or "/")
    if as_json:
        print_json(_as_document(found))
    else:
        _print_inspection(found)
    raise click.exceptions.Exit(DONE if found.sound else FAILED)


@log.command()
@_directory
@click.option("--from", "first", type=click.IntRange(1), default=1, help="First index.")
@click.option("--to", "last", type=click.IntRange(1), help="Last index.")
@click.option(
    "--limit", type=click.IntRange(1), default=LIMIT, show_default=True, help="Entries at most."
)
@click.option(
    "--preview",
    "preview_bytes",
    type=click.IntRange(0, PREVIEW_MAX_BYTES),
    default=PREVIEW_BYTES,
    show_default=True,
    help="Bytes of each payload to show.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def dump(
    directory: str, first: int, last: int | None, limit: int, preview_bytes: int, as_json: bool
) -> None:
    """Show entries of a stopped member or a backup.

    Exit code 1: an entry cannot be read; those before it are shown.
    """
    from dledger_py.storage import Corrupt, RealFiles
    from dledger_py.storage.inspection import dump as entries_of

    show = _DumpLines(as_json=as_json, preview_bytes=preview_bytes)
    with _told(directory):
        entries = entries_of(
            RealFiles(), directory.rstrip("/") or "/", first, preview_bytes=preview_bytes
        )
        try:
            more = show.all(_up_to(entries, last), limit)
            sys.stdout.flush()
        except BrokenPipeError:  # `| head` has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return
        except Corrupt as error:
            fail(
                f"{error.file}, byte {error.offset}: {error.reason}; what that means: "
                f"dledger log verify {directory}",
                FAILED,
            )
    if more is not None:
        print(f"dledger: more from --from {more}", file=sys.stderr)


@contextmanager
def _told(directory: str) -> Iterator[None]:
    """Errors of looking, as lines and codes."""
    from dledger_py.storage import DirectoryInUse
    from dledger_py.storage.inspection import NoLog

    try:
        yield
    except NoLog as error:
        fail(str(error), UNREACHABLE)
    except DirectoryInUse:
        fail(f"{directory}: a running member has it open; stop it first (nothing was read)", FAILED)


# -- verify


def _print_inspection(found: "Inspection") -> None:
    state = found.hard_state
    say(str(found.identity) if found.identity else "nobody's: no identity can be read")
    if state is not None:
        say(f"term {state.term}, vote {state.vote or 'none'}, committed at least {state.commit}")
    shape = columns(
        "Segment", ">Size", ">First", ">Last", ">Terms", ">Entries", ">Attested", "State"
    )
    print_table(shape, [_row(segment) for segment in found.segments])
    for finding in found.findings:
        if finding is not found.first_damage:
            say(f"{finding.severity.value}: {_place(finding)}: {finding.reason}")
            say(f"  {finding.meaning}; {finding.advice}")
    damage = found.first_damage
    if damage is not None:
        say(f"DAMAGED: {_place(damage)}: {damage.reason}", style="bold red")
        say(f"  it is {damage.meaning}.")
        say(f"  {damage.advice}.")
        return
    entries = sum(segment.entries for segment in found.segments)
    tail = " after the torn tail is cut" if found.torn_tail else ""
    say(f"sound{tail}: {entries} entries", style="green")


def _row(segment: "SegmentSummary") -> tuple[object, ...]:
    name = segment.file.rpartition("/")[2]
    worst = [finding.severity.value for finding in segment.findings]
    state = next((each for each in ("damage", "torn tail", "note") if each in worst), "sound")
    if not segment.entries:
        return name, segment.size_bytes, "", "", "", 0, segment.attested_position, state
    terms = f"{segment.first_term}-{segment.last_term}"
    if segment.first_term == segment.last_term:
        terms = str(segment.first_term)
    first, last = segment.first_index, segment.last_index
    attested = segment.attested_position
    return name, segment.size_bytes, first, last, terms, segment.entries, attested, state


def _place(finding: "Finding") -> str:
    entry = "" if finding.index is None else f", entry {finding.index}"
    return f"{finding.file}, byte {finding.offset}{entry}"


def _as_document(found: "Inspection") -> dict[str, Any]:
    identity, state = found.identity, found.hard_state
    first = found.first_damage
    return {
        "directory": found.directory,
        "sound": found.sound,
        "identity": identity
        and {"cluster": identity.cluster, "group": identity.group, "member": identity.member},
        "hardState": state and {"term": state.term, "vote": state.vote, "commit": state.commit},
        "firstDamage": first and _finding_document(first),
        "findings": [_finding_document(finding) for finding in found.findings],
        "segments": [_segment_document(segment) for segment in found.segments],
    }


def _finding_document(finding: "Finding") -> dict[str, Any]:
    return {
        "severity": finding.severity.name.lower(),
        "file": finding.file,
        "byte": finding.offset,
        "index": finding.index,
        "reason": finding.reason,
        "meaning": finding.meaning,
        "advice": finding.advice,
    }


def _segment_document(segment: "SegmentSummary") -> dict[str, Any]:
    return {
        "file": segment.file,
        "sizeBytes": segment.size_bytes,
        "startPosition": segment.start_position,
        "endPosition": segment.end_position,
        "firstIndex": segment.first_index,
        "lastIndex": segment.last_index,
        "firstTerm": segment.first_term,
        "lastTerm": segment.last_term,
        "entries": segment.entries,
        "attestedPosition": segment.attested_position,
        "followed": segment.followed,
        "startsLog": segment.starts_log,
    }


# -- dump


class _DumpLines:
    """Entries as they come: a dump of a whole log must not gather in memory."""

    def __init__(self, *, as_json: bool, preview_bytes: int) -> None:
        self._as_json = as_json
        self._preview_bytes = preview_bytes

    def all(self, entries: "Iterator[DumpedEntry]", limit: int) -> int | None:
        """Print at most `limit`; the index of the next one, if there is one."""
        if not self._as_json:
            print(
                _TABLE.format("#Index", "#Term", "#Kind", "#Position", "#Size", "#Crc", "#Payload")
            )
        for count, entry in enumerate(entries):
            if count == limit:
                return entry.index
            print(self._json(entry) if self._as_json else self._line(entry))
        return None

    def _line(self, entry: "DumpedEntry") -> str:
        kind = _KINDS.get(entry.kind, str(entry.kind))
        crc = f"{entry.crc:08x}"
        place = (entry.index, entry.term, kind, entry.position, entry.size_bytes, crc)
        return _TABLE.format(*place, _preview(entry)).rstrip()

    def _json(self, entry: "DumpedEntry") -> str:
        return json.dumps(
            {
                "index": entry.index,
                "term": entry.term,
                "kind": _KINDS.get(entry.kind, str(entry.kind)),
                "position": entry.position,
                "sizeBytes": entry.size_bytes,
                "crc": f"{entry.crc:08x}",
                "payloadHex": entry.preview.hex(),
                "payloadText": _text(entry.preview),
            }
        )


def _up_to(entries: "Iterator[DumpedEntry]", last: int | None) -> "Iterator[DumpedEntry]":
    """Does not look at what comes behind `last`: it may be damaged."""
    for entry in entries:
        if last is not None and entry.index > last:
            return
        yield entry
        if entry.index == last:
            return


_TABLE = "{:>10}  {:>6}  {:<7}  {:>14}  {:>8}  {:<8}  {}"


def _preview(entry: "DumpedEntry") -> str:
    more = "…" if len(entry.preview) < entry.size_bytes and entry.preview else ""
    return f"{entry.preview.hex(' ', -4)}{more}  {_text(entry.preview)}{more}"


def _text(content: bytes) -> str:
    """ASCII, a dot for what is none: nothing a terminal would obey."""
    return "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in content)
