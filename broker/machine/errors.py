"""Why a committed entry cannot be applied.

Both are of the kind *stop*: a member that cannot apply what the others applied must not go on,
since its state would differ from theirs. They are raised before anything is changed.
"""


class Unappliable(Exception):
    """Stop: this entry is committed, and this build cannot apply it."""


class UnknownCommand(Unappliable):
    """Stop: a tag or version of a newer build; this member has to be upgraded first."""

    def __init__(self, tag: int, version: int) -> None:
        super().__init__(f"command tag {tag} version {version} is unknown to this build")
        self.tag = tag
        self.version = version


class MalformedCommand(Unappliable):
    """Stop: bytes that no encoder of ours writes, so the log or the proposer is broken."""


class SnapshotRefused(Exception):
    """Refused: these bytes are no snapshot this build can restore; no machine was made.

    The caller takes an older snapshot, asks another member, or applies the log from its beginning.
    """
