"""What can be asked of the replicated state: one frozen record per command.

Laws: whoever proposes stamps the time, so that applying needs no clock. A command says what is
wanted, not what the proposer saw: applying decides against the state of that moment. `PutMessages`
has a layout, and a module, of its own (`put_messages`), because it carries every message; so have
`MoveMessages` (`moves`) and `RevivePops` (`revivals`), which carry them on, and `EndTransaction`
(`end_transaction`), which carries one.
"""

from attrs import frozen

from broker.machine.attributes import Change
from broker.machine.end_transaction import EndTransaction
from broker.machine.groups import GroupConfig
from broker.machine.moves import MoveMessages
from broker.machine.pops import Claim, Run
from broker.machine.put_messages import PutMessages
from broker.machine.revivals import RevivePops
from broker.machine.topics import TopicConfig


@frozen(kw_only=True)
class Initialise:
    """Create what a new broker group starts with; what exists stays as it is.

    Proposed by each new leader. Unlike `EnsureGroups` it makes no retry topics: the predefined
    groups get theirs when somebody consumes with them.
    """

    stamped_ms: int
    topics: tuple[TopicConfig, ...]
    groups: tuple[GroupConfig, ...]


@frozen(kw_only=True)
class EnsureTopics:
    """Create those of these topics that do not exist; the others stay as they are."""

    stamped_ms: int
    topics: tuple[TopicConfig, ...]


@frozen(kw_only=True)
class PutTopic:
    """Create a topic, or give an existing one these settings."""

    stamped_ms: int
    name: str
    read_queues: int = 16
    write_queues: int = 16
    perm: int = 6
    filter_type: str = "SINGLE_TAG"
    sys_flag: int = 0
    order: bool = False
    attribute_changes: tuple[Change, ...] = ()


@frozen(kw_only=True)
class DeleteTopic:
    """Forget a topic, its queues, and what any group has consumed of them."""

    stamped_ms: int
    name: str


@frozen(kw_only=True)
class EnsureGroups:
    """Create these groups where they do not exist, and each retry topic that is missing."""

    stamped_ms: int
    groups: tuple[GroupConfig, ...]


@frozen(kw_only=True)
class PutGroup:
    """Create a group, or give an existing one these settings."""

    stamped_ms: int
    config: GroupConfig


@frozen(kw_only=True)
class DeleteGroup:
    """Forget a group; with `clean_offsets` also how far it has consumed."""

    stamped_ms: int
    name: str
    clean_offsets: bool = False


Commit = tuple[str, str, int, int]
"""(group, topic, queue id, offset)."""


@frozen(kw_only=True)
class CommitOffsets:
    """Remember how far groups have consumed; later entries of the tuple win."""

    stamped_ms: int
    commits: tuple[Commit, ...]


QueueStart = tuple[str, int, int]
"""(topic, queue id, first offset that stays)."""


@frozen(kw_only=True)
class TrimLog:
    """Forget the oldest messages: the entries up to `index`, which end at log position `position`.

    `queues` says where each queue begins then; the leader has looked that up. Many queues take
    several commands, of which the last alone has an index; the others have 0.
    """

    stamped_ms: int
    index: int
    position: int
    queues: tuple[QueueStart, ...]


Queue = tuple[str, int]
"""(topic, queue id)."""


@frozen(kw_only=True)
class LockQueues:
    """Let a consumer own these queues of its group, as far as nobody else does."""

    stamped_ms: int
    group: str
    owner: str
    """The consumer's client id."""
    queues: tuple[Queue, ...]


@frozen(kw_only=True)
class UnlockQueues:
    """Let go of these queues, as far as the consumer owns them."""

    stamped_ms: int
    group: str
    owner: str
    queues: tuple[Queue, ...]


@frozen(kw_only=True)
class RecallMessage:
    """Do not deliver this message, which waits for a time of its own."""

    stamped_ms: int
    topic: str
    """The one it was meant for."""
    unique_id: str
    deliver_ms: int


QueuePosition = tuple[int, int]
"""(queue id, offset)."""


@frozen(kw_only=True)
class ResetOffsets:
    """Let a group go on from these offsets of a topic, whatever its consumers say until they do."""

    stamped_ms: int
    group: str
    topic: str
    queues: tuple[QueuePosition, ...]


@frozen(kw_only=True)
class EndResets:
    """Consumers of a group go on from these offsets, as they were told to."""

    stamped_ms: int
    group: str
    topic: str
    queues: tuple[QueuePosition, ...]


@frozen(kw_only=True)
class CheckedTransactions:
    """The producers of these half messages are asked what became of their transactions."""

    stamped_ms: int
    halves: tuple[int, ...]
    """Log positions of their records."""


@frozen(kw_only=True)
class Pop:
    """What one pop takes."""

    group: str
    invisible_ms: int
    """How long nobody else gets it, from the stamp of the command on."""
    ordered: bool
    attempt_id: str
    """Of a pop in order: the same as last time, if it did not hear the answer."""
    claims: tuple[Claim, ...]


@frozen(kw_only=True)
class PopMessages:
    """Let consumers take messages: nobody else of their groups gets them for a while."""

    stamped_ms: int
    pops: tuple[Pop, ...]


Ack = tuple[str, str, int, int, int, tuple[Run, ...]]
"""(group, topic, queue id, first offset and stamp of the handle, runs of offsets)."""

HandleChange = tuple[str, str, int, int, int, int, int]
"""(group, topic, queue id, first offset and stamp of the handle, offset, new time in ms)."""


@frozen(kw_only=True)
class SettlePops:
    """Consumers are done with messages in flight, or want them for another time from now on."""

    stamped_ms: int
    acks: tuple[Ack, ...]
    changes: tuple[HandleChange, ...]


@frozen(kw_only=True)
class SetRequestMode:
    """Let the consumers of a group get the messages of a topic by pull or by pop."""

    stamped_ms: int
    topic: str
    group: str
    mode: str
    pop_share_queues: int


Command = (
    PutMessages
    | MoveMessages
    | Initialise
    | EnsureTopics
    | PutTopic
    | DeleteTopic
    | EnsureGroups
    | PutGroup
    | DeleteGroup
    | CommitOffsets
    | TrimLog
    | LockQueues
    | UnlockQueues
    | RecallMessage
    | ResetOffsets
    | EndResets
    | EndTransaction
    | CheckedTransactions
    | PopMessages
    | SettlePops
    | RevivePops
    | SetRequestMode
)
