"""The client: `from dledger_py.client import connect`.

Runs under trio and asyncio.  Needs anyio, attrs and msgspec; loads no server and no Raft.  The
guide with its guarantees is docs/client.md.  Without an event loop: `dledger_py.client.sync`.
"""

from dledger_py.client.client import Client, connect
from dledger_py.client.consumer import Consumer
from dledger_py.client.errors import (
    CallTimedOut,
    ClientClosed,
    ClientError,
    ClientForked,
    CommitUncertain,
    ConnectionLost,
    ConsumerFailed,
    GarbageReceived,
    Indefinite,
    MalformedAnswer,
    NoQueue,
    NoReply,
    NoRoute,
    Refused,
    ResponseError,
    SendRefused,
    SendUncertain,
    Unreachable,
    UnsupportedCompression,
)
from dledger_py.client.messages import Message, Outgoing, Receipt
from dledger_py.client.popping import PopConsumer
from dledger_py.client.pull import PullResult, PullStatus
from dledger_py.client.queues import Queue
from dledger_py.client.subscriptions import Sql
from dledger_py.client.transactions import Transaction, TransactionState

__all__ = [
    "CallTimedOut",
    "Client",
    "ClientClosed",
    "ClientError",
    "ClientForked",
    "CommitUncertain",
    "ConnectionLost",
    "Consumer",
    "ConsumerFailed",
    "GarbageReceived",
    "Indefinite",
    "MalformedAnswer",
    "Message",
    "NoQueue",
    "NoReply",
    "NoRoute",
    "Outgoing",
    "PopConsumer",
    "PullResult",
    "PullStatus",
    "Queue",
    "Receipt",
    "Refused",
    "ResponseError",
    "SendRefused",
    "SendUncertain",
    "Sql",
    "Transaction",
    "TransactionState",
    "Unreachable",
    "UnsupportedCompression",
    "connect",
]
