"""Single messages, found by what operators and clients know of them.

Source: protocol page 02 (c); QueryMessageProcessor.java.
"""

from attrs import define

from broker.store.consume_queues import ConsumeQueues
from broker.store.message_lookup import record_at
from broker.store.message_reader import LogReader
from dledger_py.remoting.commands.queries import ViewMessage
from dledger_py.remoting.rooms import Answer, Caller, Refused, handles
from dledger_py.runtime.host import Host


@define(eq=False, kw_only=True)
class Lookups:
    """Code 33."""

    log: LogReader
    queues: ConsumeQueues
    host: Host

    @handles(ViewMessage)
    async def view(self, request: ViewMessage, caller: Caller) -> Answer[None]:
        """The message at a log position, as in an offset message id; any member has it."""
        record = await record_at(self.log, self.queues, request.offset, self.host.run_in_thread)
        if record is None:
            raise Refused(f"can not find message by the offset, {request.offset}")
        return Answer(body=record)
