"""Reading the log of a broker's ledger, as far as its rooms do: whatever is found wrong with it is
told to whoever supervises the broker.
"""

from attrs import define, field

from broker.errors import MessagesGone
from broker.serving.retention import first_message
from broker.store.message_reader import MessageReader
from dledger_py.actors import FailStop
from dledger_py.ledger.ledger import Ledger
from dledger_py.ledger.reopening import stop_for
from dledger_py.storage import Corrupt


@define(eq=False)
class LogReader:
    """Bytes of the ledger's log, at positions that anybody may have named (LookupError)."""

    ledger: Ledger

    def read_bytes(self, position: int, length: int, *, nowait: bool = False) -> bytearray:
        try:
            return self.ledger.log.read_bytes(position, length, nowait=nowait)
        except BlockingIOError:
            raise
        except (Corrupt, OSError) as error:
            raise stop_for(error, f"the log cannot be read: {error}") from error


@define(eq=False)
class IndexedReader:
    """The same, at positions that our own index named: what is not there is damage, unless it has
    just been let go of (`MessagesGone`)."""

    log: LogReader

    def read_bytes(self, position: int, length: int, *, nowait: bool = False) -> bytearray:
        try:
            return self.log.read_bytes(position, length, nowait=nowait)
        except LookupError as error:
            if position < self.log.ledger.first_position:
                raise MessagesGone from error
            raise FailStop(f"the index names what the log has not: {error}") from error


@define(eq=False)
class OldestMessage:
    """When the oldest message was stored that the log still has."""

    ledger: Ledger
    reader: MessageReader
    _first_index: int = field(default=-1, init=False)
    """Of the log, when the message was looked for."""
    _position: int | None = field(default=None, init=False)

    def stored_ms(self) -> int:
        """-1 if there is none, or only the disk knows it."""
        log = self.ledger.log
        if self._position is None or self._first_index != log.first_index:
            self._first_index = log.first_index
            self._position = first_message(log, log.first_index)
        if self._position is None:
            return -1
        try:
            return self.reader.stored_ms(self._position, nowait=True)
        except BlockingIOError:
            return -1
