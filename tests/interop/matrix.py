"""Which feature of which client is tried, and how: `run.py --list`, and docs/compatibility.md.

A feature is *proven* by a scenario or a check of that name. Both have a calm run and one with the
leader killed in the middle, unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import field, frozen

STEADY, SQL, REQUEST, TRANSACTIONS = "steady", "sql", "request", "transactions"
SCENARIOS = frozenset({STEADY, SQL, REQUEST, TRANSACTIONS})
"""These have programs of several roles; whatever else is a check."""

FEATURES: Mapping[str, str] = {
    "send, consume by push": STEADY,
    "send asynchronously, one way, in batches": "sends",
    "filter by tags": "tags",
    "filter by SQL92": SQL,
    "delay": "delay",
    "recall": "recall",
    "retry, dead letters": "retry",
    "orderly": "orderly",
    "broadcast": "broadcast",
    "pull": "pull",
    "lite pull": "lite-pull",
    "pop": "pop",
    "pop by a proxy's calls, in order too": "pop-calls",
    "transactions": TRANSACTIONS,
    "request and reply": REQUEST,
    "message trace": "trace",
    "create and delete topics": "topics",
    "reset of a group": "reset",
    "query by key and by id": "queries",
    "namespaces": "namespace",
    "retry policies of groups": "retry-policy",
}
"""What it is, and what proves it."""


@frozen(kw_only=True)
class Client:
    """What a client is tried with. `lacks` says why not, by what would prove it."""

    name: str
    title: str
    proven: frozenset[str]
    lacks: Mapping[str, str] = field(factory=dict)
    remarks: Mapping[str, str] = field(factory=dict)
    """What is other than one would think, by what proves it."""
    only_calm: frozenset[str] = frozenset()
    """Scenarios that are not tried with the leader killed; `remarks` says why."""
    tracer_follows: bool = True
    """Whether its traces come again once there is another leader."""


_EVERYWHERE = frozenset({STEADY, "tags", "delay", "retry", "orderly", "broadcast"})
_JAVA_4 = _EVERYWHERE | {
    *("sends", SQL, "pull", "lite-pull", TRANSACTIONS, REQUEST, "trace", "topics"),
    *("reset", "queries", "namespace", "retry-policy"),
}
_NO_API = "the client has no call for it"
_NO_PYTHON_API = "the Python package has no call for it"
_BY_BROKER = "not tried: the broker decides for whoever leaves the pause to it"
_ONE_WAY = "one way only where no leader is killed: nobody would know of the loss"

JAVA = Client(
    name="java",
    title="Java 5.3.3",
    proven=_JAVA_4 - {REQUEST} | {"recall", "pop", "pop-calls"},
    lacks={
        REQUEST: "`request` stops waiting for the reply as soon as the send is acknowledged"
        " (`DefaultMQProducerImpl.request`, apache/rocketmq issue 9319)"
    },
    remarks={"sends": _ONE_WAY},
)
JAVA_55 = Client(
    name="java55",
    title="Java 5.5.0",
    proven=_JAVA_4 | {"recall", "pop", "pop-calls"},
    remarks={"sends": _ONE_WAY},
)
JAVA_49 = Client(
    name="java49",
    title="Java 4.9.8",
    proven=_JAVA_4,
    lacks=dict.fromkeys(("recall", "pop", "pop-calls"), _NO_API),
    remarks={"sends": _ONE_WAY, "delay": "a message with a time of its own has it as a property"},
)
GO = Client(
    name="go",
    title="Go 2.1.2",
    proven=_EVERYWHERE
    | {"sends", SQL, "pull", TRANSACTIONS, REQUEST, "trace", "topics", "namespace", "retry-policy"},
    lacks=dict.fromkeys(("lite-pull", "pop", "pop-calls", "recall", "reset", "queries"), _NO_API),
    remarks={
        "sends": _ONE_WAY,
        "delay": "a message with a time of its own has it as a property",
        "trace": "those from before the leader was killed: its tracer asks for the route once"
        " (`internal/route.go`, `FetchPublishMessageQueues`), and traces nothing more until that"
        " broker is back",
        REQUEST: "not with the leader killed: it ends by a nil pointer where a connection breaks"
        " under a send that waits for its answer (`producer.go`, `sendAsync`: no return behind the"
        " error)",
    },
    only_calm=frozenset({REQUEST}),
    tracer_follows=False,
)
NODE = Client(
    name="node",
    title="ali-ons 3.12.0",
    proven=_EVERYWHERE | {SQL, "namespace"},
    lacks=dict.fromkeys(set(FEATURES.values()) - _EVERYWHERE - {SQL, "namespace"}, _NO_API)
    | {"retry-policy": _BY_BROKER},
    remarks={
        "delay": "by level only",
        "retry": "a message that has come again is only asked for once more by throwing: its"
        " `ACTION_RETRY` gets lost (`mq_push_consumer.js`, the handler of the retry topic)",
        "orderly": "sharding keys that it assigns to queue 0 go to any queue"
        " (`topic_publish_info.js`: `queueIds[queueIndex] || ''`)",
    },
)
PYTHON = Client(
    name="python",
    title="C++ (Python 0.4.4)",
    proven=_EVERYWHERE | {"sends", "pull"},
    lacks=dict.fromkeys(set(FEATURES.values()) - _EVERYWHERE - {"sends", "pull"}, _NO_PYTHON_API)
    | {"retry-policy": _BY_BROKER},
    remarks={
        "sends": _ONE_WAY,
        "delay": "by level only",
        "retry": "up to the first repetition: how often cannot be set",
    },
)
CLIENTS = (JAVA, JAVA_55, JAVA_49, GO, NODE, PYTHON)


def table(clients: Sequence[Client]) -> str:
    """The features of the clients, in Markdown, with the reasons below."""
    notes: dict[str, int] = {}

    def cell(client: Client, proof: str) -> str:
        note = client.remarks.get(proof) or client.lacks.get(proof)
        mark = f" [{notes.setdefault(note, len(notes) + 1)}]" if note else ""
        return ("yes" if proof in client.proven else "no") + mark

    lines = [
        "| feature | " + " | ".join(client.title for client in clients) + " | by |",
        "|---" * (len(clients) + 2) + "|",
    ]
    for feature, proof in FEATURES.items():
        cells = " | ".join(cell(client, proof) for client in clients)
        lines.append(f"| {feature} | {cells} | {proof} |")
    return "\n".join([*lines, "", *(f"{number}. {note}" for note, number in notes.items())])
