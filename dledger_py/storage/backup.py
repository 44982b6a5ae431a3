"""A copy of one member's log, to be kept elsewhere: what is committed, and nothing else.

    manifest.json                         what it is, and the SHA-256 of all others (`manifest`)
    00000000000000000000.log …            segments, cut behind the last entry of the backup
    snapshots/00000000000000000829.snapshot
    configuration-00000000000000000000    where the log does not begin with its first entry

The files look like those of a data folder, and `inspection.dump` reads them. But no member starts
on them: there is no hard state. A member that came back to an older log under its own name would
have forgotten what it acknowledged; `restore` founds a new group.

Laws:

1. *The member may run.* Its lock is not needed and nothing of its is changed. How far the log is
   committed is told by the hard state and by the newest snapshot; that is read first, and entries
   up to there are never changed again. Whatever is behind it is not looked at.
2. *What was on this disk when the backup began is in it*, if the member learns soon enough that it
   is committed: `keep_waiting` says how long that may take.
3. *What is dropped meanwhile is no loss*: retention takes the oldest files, and then the copy is
   begun again.
4. *The manifest gets its name last*, when all else is durable. Until then the folder holds an
   unfinished one, and is no backup.

Of a member that does not run the whole log may be wanted, with what is not known to be committed:
for the last folder of a group that is lost otherwise.

Blocking. Elsewhere: what is made of a backup (`restore`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from hashlib import sha256
from typing import TYPE_CHECKING, Final, TypeVar

from attrs import define, field, frozen
from crc32c import crc32c

from dledger_py.storage.files import DirectoryInUse, File, FileSystem
from dledger_py.storage.formats import (
    ENTRY_HEADER_BYTES,
    KIND_CONFIG,
    START_OFFSETS,
    Attest,
    Corrupt,
    End,
    HardRecord,
    SegmentHeader,
    Walk,
    encode_header_block,
    encode_start,
    entry_crc,
    segment_name,
)
from dledger_py.storage.hard_state import HARD_STATE_NAME, read_hard_state
from dledger_py.storage.inspection import NoLog
from dledger_py.storage.manifest import (
    MANIFEST_MAX_BYTES,
    MANIFEST_NAME,
    UNFINISHED_NAME,
    BackupFile,
    BadBackup,
    Manifest,
    decode_manifest,
    encode_manifest,
)
from dledger_py.storage.recovery import LOCK_NAME
from dledger_py.storage.snapshot_format import (
    HEADER_BLOCK_BYTES,
    decode_header,
    snapshot_index,
    snapshot_name,
)
from dledger_py.storage.start_configuration import configuration_name, read_start_configuration
from dledger_py.storage.start_configuration import encode as encode_configuration
from dledger_py.storage.survey import (
    SCAN_BYTES,
    SegmentFound,
    check_continues,
    find_segments,
    read_at,
    walks,
)
from dledger_py.storage.switching import SNAPSHOTS_NAME

if TYPE_CHECKING:
    from hashlib import _Hash

T = TypeVar("T")

ATTEMPTS: Final = 5
"""How often a copy is begun again because files were dropped. Each takes longer than dropping the
oldest file does, which happens once for each new one."""


class NotBackedUp(Exception):
    """Nothing was copied, or what was copied is no backup. Kind: refused."""


class NotEmpty(Exception):
    """A folder that is to be filled has something in it. Kind: refused; nothing was changed."""


@frozen(kw_only=True)
class BackedUp:
    """What was copied. `left_out`: entries behind it that are not known to be committed."""

    manifest: Manifest
    left_out: int


@frozen(kw_only=True)
class Checked:
    """A backup that was looked at: `damage` says what is not as it was, one line each."""

    manifest: Manifest
    damage: tuple[str, ...]


def back_up(
    files: FileSystem,
    directory: str,
    to: str,
    *,
    taken: str,
    members_of: Callable[[bytes], tuple[str, ...]],
    keep_waiting: Callable[[], bool] = lambda: False,
    on_file: Callable[[BackupFile], None] = lambda file: None,
    whole: bool = False,
) -> BackedUp:
    """Copy a member's committed log to a new or empty folder.

    `members_of` reads the payload of a CONFIG entry. `keep_waiting` waits a moment and says whether
    to go on: while a running member does not know yet that all it has is committed. With `whole`
    the member must not run, and all intact entries are taken.

    Durability: on disk on return.
    Raises NoLog; NotEmpty; NotBackedUp; Corrupt if the log is damaged; OSError.
    """
    try:
        names = files.list(directory)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NoLog(f"{directory}: no such directory") from error
    if HARD_STATE_NAME not in names:
        raise NoLog(f"{directory}: no log in it (no {HARD_STATE_NAME})")
    check_empty(files, to)
    with ExitStack() as after:
        running = False
        if LOCK_NAME in names:
            try:
                after.callback(files.lock(f"{directory}/{LOCK_NAME}").release)
            except DirectoryInUse:
                running = True
        if running and whole:
            raise NotBackedUp(
                f"{directory}: a running member has it open, and may still take back what is not"
                " committed: stop it for a copy of the whole log"
            )
        backing_up = _BackingUp(
            files=files,
            directory=directory,
            to=to,
            running=running,
            taken=taken,
            members_of=members_of,
            on_file=on_file,
        )
        return backing_up.run(keep_waiting, whole=whole)


def check_empty(files: FileSystem, directory: str) -> None:
    """Raises NotEmpty if there is something in this folder."""
    try:
        names = files.list(directory)
    except FileNotFoundError:
        return
    except NotADirectoryError as error:
        raise NotEmpty(f"{directory}: it is no directory") from error
    if UNFINISHED_NAME in names:
        raise NotEmpty(f"{directory}: it holds a backup that was not finished; remove it")
    if names:
        raise NotEmpty(f"{directory}: it is not empty ({names[0]})")


def read_manifest(files: FileSystem, backup: str) -> Manifest:
    """Raises BadBackup; NoLog if there is no such folder; OSError."""
    try:
        names = files.list(backup)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NoLog(f"{backup}: no such directory") from error
    if MANIFEST_NAME not in names:
        if UNFINISHED_NAME in names:
            raise BadBackup(f"{backup}: the backup was not finished; take another one")
        raise BadBackup(f"{backup}: no backup in it (no {MANIFEST_NAME})")
    path = f"{backup}/{MANIFEST_NAME}"
    file = files.open(path)
    try:
        return decode_manifest(file.pread(MANIFEST_MAX_BYTES, 0), path)
    finally:
        file.close()


def is_backup(files: FileSystem, directory: str) -> bool:
    """Whether this folder holds a backup, finished or not."""
    try:
        names = files.list(directory)
    except OSError:
        return False
    return MANIFEST_NAME in names or UNFINISHED_NAME in names


def check_backup(
    files: FileSystem, backup: str, on_file: Callable[[BackupFile], None] = lambda file: None
) -> Checked:
    """Read all of a backup and compare it with its manifest.

    Raises BadBackup if there is no manifest to compare it with; NoLog; OSError.
    """
    manifest = read_manifest(files, backup)
    damage = []
    for each in manifest.files:
        reason = _difference(files, f"{backup}/{each.name}", each)
        if reason is not None:
            damage.append(f"{backup}/{each.name}: {reason}")
        on_file(each)
    return Checked(manifest=manifest, damage=tuple(damage))


def _difference(files: FileSystem, path: str, told: BackupFile) -> str | None:
    try:
        file = files.open(path)
    except FileNotFoundError:
        return "it is missing"
    digest, size = sha256(), 0
    try:
        while piece := file.pread(SCAN_BYTES, size):
            digest.update(piece)
            size += len(piece)
    except OSError as error:
        return f"the disk cannot read it: {error}"
    finally:
        file.close()
    if size != told.size_bytes:
        return f"it has {size} bytes, {told.size_bytes} were written"
    if digest.hexdigest() != told.sha256:
        return "its content is not what was written"
    return None


@define(eq=False)
class _Target:
    """A file of the backup, written from front to back."""

    name: str
    _file: File
    _digest: _Hash = field(init=False, factory=sha256)
    _size: int = field(init=False, default=0)

    def write(self, piece: bytes | memoryview) -> None:
        self._file.pwrite(piece, self._size)
        self._digest.update(piece)
        self._size += len(piece)

    def finish(self) -> BackupFile:
        """Durable on return; the name is not."""
        self._file.fsync()
        self._file.close()
        return BackupFile(name=self.name, size_bytes=self._size, sha256=self._digest.hexdigest())


@define(eq=False, kw_only=True)
class _BackingUp:
    """One run of `back_up`."""

    _files: FileSystem
    _directory: str
    _to: str
    _running: bool
    _taken: str
    _members_of: Callable[[bytes], tuple[str, ...]]
    _on_file: Callable[[BackupFile], None]
    _copied: list[BackupFile] = field(init=False, factory=list)
    _configuration: bytes | None = field(init=False, default=None)

    def run(self, keep_waiting: Callable[[], bool], *, whole: bool) -> BackedUp:
        written = self._again_if_dropped(self._last_written)
        while (committed := self._again_if_dropped(self._committed)) < written and self._running:
            if not keep_waiting():
                break
        if not (committed or whole):
            raise NotBackedUp(f"{self._directory}: no entry is known to be committed")
        self._begin()
        limit = max(committed, written) if whole else committed
        manifest = self._again_if_dropped(lambda: self._copy(limit, committed))
        self._finish(manifest)
        return BackedUp(manifest=manifest, left_out=max(0, written - manifest.end.index))

    def _again_if_dropped(self, look: Callable[[], T]) -> T:
        """What was listed a moment ago may have been dropped by the running member."""
        for _attempt in range(ATTEMPTS):
            try:
                return look()
            except FileNotFoundError:
                if not self._running:
                    raise
        raise NotBackedUp(f"{self._directory}: its files went sooner than they could be copied")

    # -- how far

    def _last_written(self) -> int:
        """The last intact entry there is at this moment."""
        found = self._segments()
        file = self._files.open(found[-1].path)
        end = found[-1].header.before
        try:
            buffer = memoryview(bytearray(SCAN_BYTES))
            for walked, _view, _offset, _bad in walks(file, end.position, end, buffer):
                end = walked.end
        finally:
            file.close()
        return end.index

    def _committed(self) -> int:
        return max(self._hard_record().state.commit, self._newest_snapshot(None))

    def _hard_record(self) -> HardRecord:
        for _attempt in range(ATTEMPTS):
            try:
                return read_hard_state(self._files, self._directory)
            except Corrupt:
                if not self._running:
                    raise
                # Read in the middle of a save, perhaps.
        return read_hard_state(self._files, self._directory)

    def _newest_snapshot(self, limit: int | None) -> int:
        """The index of the newest finished one, or of the newest up to a limit; 0: none."""
        folder = f"{self._directory}/{SNAPSHOTS_NAME}"
        try:
            names = self._files.list(folder)
        except FileNotFoundError:
            return 0
        for index in sorted(filter(None, map(snapshot_index, names)), reverse=True):
            if limit is not None and index > limit:
                continue
            path = f"{folder}/{snapshot_name(index)}"
            file = self._files.open(path)
            try:
                if decode_header(read_at(file, HEADER_BLOCK_BYTES, 0), path) is not None:
                    return index
            finally:
                file.close()
        return 0

    def _segments(self) -> list[SegmentFound]:
        names = self._files.list(self._directory)
        found = find_segments(self._files, self._directory, names)
        if self._running and found and isinstance(found[-1], Corrupt):
            del found[-1]  # it is being created: there is no entry in it
        good = []
        for segment in found:
            if isinstance(segment, Corrupt):
                raise segment
            good.append(segment)
        if not good:
            raise NoLog(f"{self._directory}: no log in it (no {segment_name(0)})")
        return good

    # -- copying

    def _copy(self, limit: int, committed: int) -> Manifest:
        """**Raises** FileNotFoundError if files went meanwhile."""
        self._drop_copied()
        record = self._hard_record()
        snapshot = self._newest_snapshot(limit)
        if snapshot:
            self._copy_snapshot(f"{SNAPSHOTS_NAME}/{snapshot_name(snapshot)}")
        found = self._segments()
        start = end = found[0].header.before
        for segment in found:
            if segment is not found[0] and segment.header.before.index >= limit:
                break
            check_continues(segment, end)
            end = self._copy_segment(segment, limit, starts_log=segment is found[0])
            if end.index < limit and segment is found[-1]:
                reason = f"the log ends with entry {end.index}, but {limit} is committed"
                raise Corrupt(segment.path, 0, reason)
        if start.index:
            if not snapshot:
                raise NotBackedUp(
                    f"{self._directory}: the log begins behind entry {start.index}, and there is"
                    " no snapshot of what came before"
                )
            self._copy_start_configuration()
        return Manifest(
            identity=record.identity,
            taken=self._taken,
            term=record.state.term,
            start=start,
            end=end,
            committed=min(committed, end.index),
            snapshot=snapshot,
            members=self._members_of(self._configuration) if self._configuration else (),
            files=tuple(self._copied),
        )

    def _copy_segment(self, segment: SegmentFound, limit: int, *, starts_log: bool) -> End:
        end = before = segment.header.before
        target = self._create(segment_name(segment.start))
        target.write(_header_block(segment.header, starts_log=starts_log))
        file = self._files.open(segment.path)
        try:
            buffer = memoryview(bytearray(SCAN_BYTES))
            for walked, view, _offset, bad in walks(file, segment.start, before, buffer):
                size, end = _up_to(limit, walked, view, end)
                target.write(view[:size])
                self._note_configurations(walked, view, size)
                if end.index == limit:
                    break
                if bad is not None and segment.has_successor:
                    raise Corrupt(segment.path, bad.at, bad.reason)
        finally:
            file.close()
        self._done(target)
        return end

    def _note_configurations(self, walked: Walk, view: memoryview, size: int) -> None:
        for _index, _term, kind, start, stop in walked.entries:
            if kind == KIND_CONFIG and stop <= size:
                self._configuration = bytes(view[start + ENTRY_HEADER_BYTES : stop])

    def _copy_snapshot(self, name: str) -> None:
        file = self._files.open(f"{self._directory}/{name}")
        try:
            block = read_at(file, HEADER_BLOCK_BYTES, 0)
            header = decode_header(block, file.path)
            assert header is not None, "it was finished a moment ago"
            target = self._create(name)
            target.write(block)
            at = crc = 0
            while piece := read_at(
                file, min(SCAN_BYTES, header.body_bytes - at), HEADER_BLOCK_BYTES + at
            ):
                target.write(piece)
                at, crc = at + len(piece), crc32c(piece, crc)
        finally:
            file.close()
        if (at, crc) != (header.body_bytes, header.body_crc):
            raise Corrupt(file.path, HEADER_BLOCK_BYTES, "length or crc of the body does not match")
        self._done(target)

    def _copy_start_configuration(self) -> None:
        index, payload = read_start_configuration(self._files, self._directory)
        target = self._create(configuration_name(index))
        target.write(encode_configuration(index, payload))
        self._done(target)
        if self._configuration is None:
            self._configuration = payload

    # -- the folder of the backup

    def _begin(self) -> None:
        self._files.make_directory(self._to)
        self._files.make_directory(f"{self._to}/{SNAPSHOTS_NAME}")
        self._files.create(f"{self._to}/{UNFINISHED_NAME}").close()
        self._files.fsync_directory(self._to)

    def _create(self, name: str) -> _Target:
        return _Target(name, self._files.create(f"{self._to}/{name}"))

    def _done(self, target: _Target) -> None:
        file = target.finish()
        self._copied.append(file)
        self._on_file(file)

    def _drop_copied(self) -> None:
        for folder in (self._to, f"{self._to}/{SNAPSHOTS_NAME}"):
            for name in self._files.list(folder):
                if name not in (UNFINISHED_NAME, SNAPSHOTS_NAME) and "/" not in name:
                    self._files.remove(f"{folder}/{name}")
        self._copied.clear()
        self._configuration = None

    def _finish(self, manifest: Manifest) -> None:
        self._files.fsync_directory(f"{self._to}/{SNAPSHOTS_NAME}")
        self._files.fsync_directory(self._to)
        unfinished = f"{self._to}/{UNFINISHED_NAME}"
        file = self._files.open(unfinished, write=True)
        try:
            file.pwrite(encode_manifest(manifest), 0)
            file.fsync()
        finally:
            file.close()
        self._files.rename(unfinished, f"{self._to}/{MANIFEST_NAME}")
        self._files.fsync_directory(self._to)


def _header_block(header: SegmentHeader, *, starts_log: bool) -> bytes:
    """As of a segment without entries, since that is when it can be told: the same at any time."""
    before = header.before
    claim = Attest(0, before.position, before.index, before.term)
    block = bytearray(encode_header_block(header, claim))
    if starts_log and before.index:
        mark = encode_start(before)
        for at in START_OFFSETS:
            block[at : at + len(mark)] = mark
    return bytes(block)


def _up_to(limit: int, walked: Walk, view: memoryview, before: End) -> tuple[int, End]:
    """How many of the walked bytes belong to entries up to `limit`, and the end behind these."""
    if walked.end.index <= limit:
        return walked.at, walked.end
    index, term, _kind, start, stop = walked.entries[limit - before.index - 1]
    return stop, End(index, term, before.position + stop, entry_crc(view[start:stop]))
