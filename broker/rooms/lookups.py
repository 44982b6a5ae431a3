"""Single messages, found by what operators and clients know of them.

Any member answers from what it has applied.

Source: protocol pages 02 (c) and 04 §3; QueryMessageProcessor.java.
"""

from typing import Final

from attrs import define

from broker.errors import InvalidParameter, MessageNotFound, NotSupported, SearchGivenUp
from broker.serving.key_search import KeySearch
from broker.store.consume_queues import ConsumeQueues
from broker.store.key_stretches import is_key
from broker.store.message_lookup import record_at
from broker.store.message_reader import LogReader
from broker.store.stored_records import Wanted
from dledger_py.remoting.commands.queries import (
    BY_TAG,
    BY_UNIQUE_KEY,
    QueryMessage,
    QueryReply,
    ViewMessage,
)
from dledger_py.remoting.rooms import Answer, Caller, Refused, handles
from dledger_py.runtime.host import Host

UNIQUE_MAX: Final = 32  # RocketMQ's defaultQueryMaxNum, of which it takes as many


@define(eq=False, kw_only=True)
class Lookups:
    """Codes 12 and 33."""

    log: LogReader
    queues: ConsumeQueues
    search: KeySearch
    host: Host

    @handles(QueryMessage)
    async def query(self, request: QueryMessage, caller: Caller) -> Answer[QueryReply]:
        """The messages of a topic with a key, the newest first."""
        if request.max_num < 1:
            raise InvalidParameter(f"maxNum is {request.max_num}: at least 1 message is expected")
        if not is_key(request.key):
            raise InvalidParameter("the key is empty or has one of the characters 0, 1 and 2")
        if request.index_type == BY_TAG:
            raise NotSupported("querying messages by tag (QUERY_MESSAGE with indexType T)")
        unique = request.by_unique_key or request.index_type == BY_UNIQUE_KEY
        wanted = Wanted(
            topic=request.topic,
            key=request.key,
            begin_ms=request.begin_timestamp,
            end_ms=request.end_timestamp,
            unique=unique,
        )
        found = await self.search.find(
            wanted, min(request.max_num, UNIQUE_MAX) if unique else request.max_num
        )
        if not found.records:
            raise MessageNotFound(request.topic) if found.complete else SearchGivenUp()
        index = self.search.index
        return Answer(
            QueryReply(
                index_last_update_timestamp=index.last_ms,
                index_last_update_phyoffset=index.next_position,
            ),
            body=b"".join(found.records),
        )

    @handles(ViewMessage)
    async def view(self, request: ViewMessage, caller: Caller) -> Answer[None]:
        """The message at a log position, as in an offset message id; any member has it."""
        record = await record_at(self.log, self.queues, request.offset, self.host.run_in_thread)
        if record is None:
            raise Refused(f"can not find message by the offset, {request.offset}")
        return Answer(body=record)
