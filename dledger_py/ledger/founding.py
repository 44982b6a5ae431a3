"""Groups that begin with the log of another one: restored from a backup, or rescued by one member.

Both put a configuration of their own behind a log, in a term that nobody has heard of, and call
everything up to there committed. For a restore that is true by agreement: all members of the new
group begin with the same bytes. For a rescue it is an operator's decision: what only the lost
members had is gone, and what this one has, acknowledged or not, stays.

Laws:

- *The group before and the group after do not hear each other.* The folders get new births. So to
  whoever knew the old ones they are strangers, and members of the old group show by their hello
  that they know other folders; both are refused (see `members`). Only a group that never wrote its
  members down, in its first seconds, could not tell.
- *One member rescues.* Two with different logs would each put something else behind theirs. The
  others are added afterwards, with empty folders, and get the log.
- *A rescue may be cut short anywhere and done again.* Between its steps the member is what it was,
  or a voter whose folder is not the one written down, which neither votes nor leads.

Blocking; for folders that no process has open. Elsewhere: files (storage).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attrs import evolve, frozen

from dledger_py.ledger.details import Details
from dledger_py.ledger.details import decode as decode_details
from dledger_py.ledger.details import encode as encode_details
from dledger_py.raft.membership import Configuration, decode, encode
from dledger_py.raft.vocabulary import Entry, Kind, NodeId
from dledger_py.storage import Birth, Corrupt, FileSystem, Identity, recover
from dledger_py.storage.backup import read_manifest
from dledger_py.storage.birth import BIRTH_BITS, replace_birth
from dledger_py.storage.formats import End
from dledger_py.storage.inspection import Inspection, NoLog, inspect
from dledger_py.storage.manifest import BackupFile
from dledger_py.storage.restore import restore

RandomBits = Callable[[int], int]


class WrongNames(ValueError):
    """No group can have these members. Kind: refused; nothing was changed."""


@frozen(kw_only=True)
class Founded:
    """A folder that is ready to be started."""

    identity: Identity
    voters: tuple[str, ...]
    end: End
    """Its last entry: the configuration."""


@frozen(kw_only=True)
class Reach:
    """How far a stopped member's log reaches: the greatest (last term, last index) is the best."""

    directory: str
    identity: Identity
    last_term: int
    last_index: int
    committed: int
    """At least."""
    members: tuple[str, ...]
    """Of the group, as this log has it; nobody if it does not say."""

    @property
    def others(self) -> tuple[str, ...]:
        return tuple(name for name in self.members if name != self.identity.member)


def members_of(payload: bytes) -> tuple[str, ...]:
    """Who belongs to the group by this entry."""
    return decode(payload).members


def found_from_backup(
    files: FileSystem,
    backup: str,
    directory: str,
    *,
    member: str,
    members: Sequence[str],
    cluster: str | None,
    group: str | None,
    random_bits: RandomBits,
    on_file: Callable[[BackupFile], None] = lambda file: None,
) -> Founded:
    """Make the folder of one founder of a new group, in a new or empty directory.

    The cluster and the group are those of the backup unless told. The other founders' folders are
    made by the same call with the same `members`, in any order of names; each once.

    Durability: on disk on return. Raises WrongNames, and as `storage.restore.restore`.
    """
    manifest = read_manifest(files, backup)
    known = manifest.identity
    try:
        identity = Identity(
            cluster=cluster or known.cluster, group=group or known.group, member=member
        )
        configuration = Configuration(voters=tuple(NodeId(name) for name in sorted(members)))
        payload = encode(configuration)
    except ValueError as error:
        raise WrongNames(str(error)) from error
    if not all(members):
        raise WrongNames(f"{', '.join(members)}: a member without a name")
    if member not in members:
        raise WrongNames(f"{member!r} is not among the members {', '.join(members)}")
    birth = 1 + random_bits(BIRTH_BITS)
    end = restore(files, backup, directory, identity, payload, birth, on_file)
    return Founded(identity=identity, voters=configuration.voters, end=end)


def reach(files: FileSystem, directory: str) -> Reach:
    """What would be kept if this member rescued the group. Changes nothing.

    Raises NoLog; DirectoryInUse; Corrupt if the member would not start; OSError.
    """
    found = inspect(files, directory)
    damage = found.first_damage
    if damage is not None:
        raise Corrupt(damage.file, damage.offset, damage.reason)
    if found.identity is None or found.hard_state is None or not found.segments:
        raise NoLog(f"{directory}: no entry in it")
    last = found.segments[-1]
    configuration = found.configuration
    return Reach(
        directory=directory,
        identity=found.identity,
        last_term=_last_term(found),
        last_index=last.last_index,
        committed=found.hard_state.commit,
        members=members_of(configuration) if configuration is not None else (),
    )


def rescue(files: FileSystem, directory: str, random_bits: RandomBits) -> Founded:
    """Make this member the only one of its group, with the log it has.

    Durability: on disk on return. Raises as `reach`.
    """
    found = reach(files, directory)
    identity = found.identity
    recovered = recover(files, directory, identity, random_bits=random_bits)
    try:
        log, hard = recovered.log, recovered.hard_state_file
        known = [decode(payload) for _index, payload in recovered.configurations]
        birth = Birth(1 + random_bits(BIRTH_BITS), older=False)
        payload = encode(_alone(NodeId(identity.member), known[-1] if known else None, birth))
        state = hard.load()
        term = max(state.term, log.last_term) + 1
        hard.save(term, None, state.commit)
        entry = Entry(index=log.last_index + 1, term=term, kind=Kind.CONFIG, payload=payload)
        log.write([log.seal([entry])])
        hard.save(term, None, log.last_index)
        replace_birth(files, directory, birth)
        end = End(log.last_index, log.last_term, log.end_position, log.last_crc)
    finally:
        recovered.close()
    return Founded(identity=identity, voters=(identity.member,), end=end)


def _alone(me: NodeId, before: Configuration | None, birth: Birth) -> Configuration:
    told = dict(before.details).get(me) if before is not None else None
    details = decode_details(told) if told is not None else Details(address="")
    details = evolve(details, birth=birth.number, stays_learner=False)
    return Configuration(voters=(me,), details=((me, encode_details(details)),))


def _last_term(found: Inspection) -> int:
    terms = [segment.last_term for segment in found.segments if segment.entries]
    return terms[-1] if terms else 0
