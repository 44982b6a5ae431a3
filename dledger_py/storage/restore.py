"""From a backup to the data folder of a member of a new group.

The entries of the backup stay as they are, byte for byte; behind them comes one entry of a new
term, with the configuration of the new group. So folders that are made of one backup with one
configuration have the same log, whoever's they are, and the new group begins with all its members
at one place. Whose folder it is stands in the headers, which are written anew; the birth is new, so
that whoever knew the old group's folders takes this one for a stranger.

Law: *term and vote come last.* The first segment has its header before anything else is there, and
without a hard state beside a log recovery refuses the folder: an interrupted restore is never
opened, and can be removed. Until then each file need only be durable before the next is begun.

Elsewhere: what a backup is (`backup`), who belongs to the new group (the ledger).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from dledger_py.storage.appender import create_segment, mark_successor
from dledger_py.storage.backup import check_backup, check_empty
from dledger_py.storage.birth import Birth, create_birth
from dledger_py.storage.files import File, FileSystem
from dledger_py.storage.formats import (
    HEADER_BLOCK_BYTES,
    KIND_CONFIG,
    Attest,
    End,
    HardState,
    Identity,
    attest_offset,
    encode_attest,
    encode_entry,
    encode_successor,
)
from dledger_py.storage.hard_state import create_hard_state
from dledger_py.storage.manifest import BackupFile, BadBackup, Manifest
from dledger_py.storage.recovery import LOCK_NAME
from dledger_py.storage.retention import mark_start
from dledger_py.storage.snapshots import open_snapshots
from dledger_py.storage.start_configuration import (
    read_start_configuration,
    write_start_configuration,
)
from dledger_py.storage.survey import (
    SCAN_BYTES,
    SegmentFound,
    check_continues,
    find_segments,
    walks,
)
from dledger_py.storage.switching import SNAPSHOTS_NAME


def restore(
    files: FileSystem,
    backup: str,
    directory: str,
    identity: Identity,
    configuration: bytes,
    birth: int,
    on_file: Callable[[BackupFile], None] = lambda file: None,
) -> End:
    """Make the folder of a member that does not exist yet; where its log ends.

    Blocks: reads the backup twice. Durability: on disk on return.
    Raises BadBackup if anything in the backup is not as it was written; NotEmpty if the folder is
    not; NoLog if there is no backup; OSError.
    """
    check_empty(files, directory)
    checked = check_backup(files, backup, on_file)
    if checked.damage:
        raise BadBackup("; ".join(checked.damage))
    manifest = checked.manifest
    files.make_directory(directory)
    with ExitStack() as after:
        after.callback(files.lock(f"{directory}/{LOCK_NAME}").release)
        end = _copy_log(files, backup, manifest, directory, identity, configuration)
        if manifest.start.index:
            index, payload = read_start_configuration(files, backup)
            write_start_configuration(files, directory, index, payload)
        if manifest.snapshot:
            kept = open_snapshots(files, f"{backup}/{SNAPSHOTS_NAME}", manifest.identity)
            snapshot = kept.read(manifest.snapshot)
            new = open_snapshots(files, f"{directory}/{SNAPSHOTS_NAME}", identity)
            new.write(snapshot.place, (snapshot.body,))
        create_birth(files, directory, Birth(birth, older=False))
        create_hard_state(files, directory, identity, HardState(end.term, None, end.index))
    return end


def _copy_log(
    files: FileSystem,
    backup: str,
    manifest: Manifest,
    directory: str,
    identity: Identity,
    configuration: bytes,
) -> End:
    found = _segments(files, backup)
    end = manifest.start
    for number, segment in enumerate(found):
        check_continues(segment, end)
        claim = Attest(2 * number, end.position, end.index, end.term)
        new = create_segment(files, directory, identity, end, claim)
        try:
            if not number and end.index:
                mark_start(files, new.path, end)
            end = _copy_entries(files, segment, new)
            if segment is found[-1]:
                if end != manifest.end:
                    raise BadBackup(f"{backup}: its log ends {end}, not {manifest.end}")
                end = _append(new, segment.start, end, manifest.term, configuration)
            if segment is found[-1]:
                _attest(new, claim.seq + 2, end)
        finally:
            new.close()
        if segment is not found[-1]:
            mark_successor(files, new.path, encode_successor(end))
    return end


def _segments(files: FileSystem, backup: str) -> list[SegmentFound]:
    good = []
    for segment in find_segments(files, backup, files.list(backup)):
        if not isinstance(segment, SegmentFound):
            raise segment
        good.append(segment)
    return good


def _copy_entries(files: FileSystem, segment: SegmentFound, new: File) -> End:
    end = segment.header.before
    file = files.open(segment.path)
    try:
        buffer = memoryview(bytearray(SCAN_BYTES))
        for walked, view, offset, bad in walks(file, segment.start, end, buffer):
            if bad is not None:
                raise BadBackup(f"{segment.path}, byte {bad.at}: {bad.reason}")
            new.pwrite(view[: walked.at], offset)
            end = walked.end
    finally:
        file.close()
    return end


def _append(new: File, start: int, end: End, known_term: int, configuration: bytes) -> End:
    """One entry more, of a term that nobody has heard of."""
    term = max(known_term, end.term) + 1
    head, crc, after = encode_entry(end, term, KIND_CONFIG, configuration)
    new.pwrite(head + crc + configuration, HEADER_BLOCK_BYTES + end.position - start)
    return after


def _attest(new: File, seq: int, end: End) -> None:
    for each in (seq, seq + 1):
        claim = Attest(each, end.position, end.index, end.term)
        new.pwrite(encode_attest(claim), attest_offset(each))
    new.fdatasync()
