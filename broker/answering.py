"""What answers a broker's requests: every room with exactly what it uses, and a refusal for what no
room does.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from broker.config import BrokerConfig
from broker.log_readers import IndexedReader, OldestMessage
from broker.rooms._stored_times import StoredTimes
from broker.rooms.assignments import AssignmentRoom
from broker.rooms.consensus import Consensus
from broker.rooms.groups import Groups
from broker.rooms.locks import Locks
from broker.rooms.lookups import Lookups
from broker.rooms.offsets import Offsets
from broker.rooms.operations import Operations
from broker.rooms.popping import Popping
from broker.rooms.popping_acks import PoppingAcks
from broker.rooms.popping_questions import PoppingQuestions
from broker.rooms.progress import Progress
from broker.rooms.pulling import Pulling
from broker.rooms.recalling import Recalling
from broker.rooms.relays import Relays
from broker.rooms.replies import Replies
from broker.rooms.resets import Resets
from broker.rooms.resuming import Resuming
from broker.rooms.sending import Sending
from broker.rooms.sending_back import SendingBack
from broker.rooms.settings import Settings
from broker.rooms.topics import Topics
from broker.rooms.transactions import Transactions
from broker.rooms.unsupported import with_refusals
from broker.rooms.usual_sends import UsualSends
from broker.runtime_table import RuntimeTable
from broker.serving.client_calls import ClientCalls
from broker.serving.duplicates import Duplicates
from broker.serving.key_search import KeySearch
from broker.serving.topic_queues import TopicQueues
from broker.store.message_reader import MessageReader
from dledger_py.client.unique_ids import UniqueIds
from dledger_py.ledger.ledger import Ledger
from dledger_py.remoting.rooms import Routes, routes
from dledger_py.remoting.wire.message import unpack_host

if TYPE_CHECKING:
    from broker.app import Broker


def rooms_of(broker: "Broker") -> Routes:
    """What answers this member's requests."""
    reader = broker.reader
    stored_times = StoredTimes(broker.queues, reader, broker.ground.host)
    lookups = _lookups(broker)
    return with_refusals(
        routes(
            (
                lookups,
                *_messages(broker, reader, stored_times),
                *_pops(broker, reader),
                *_between_clients(broker, lookups),
                *_state(broker, reader, stored_times),
            )
        )
    )


def _lookups(broker: "Broker") -> Lookups:
    search = KeySearch(
        index=broker.key_index,
        log=lambda: broker.ledger.log,
        applied=broker.applied_place,
        reader=broker.log_reader,
        queues=broker.queues,
        run_in_thread=broker.ground.host.run_in_thread,
    )
    return Lookups(
        log=broker.log_reader, queues=broker.queues, search=search, host=broker.ground.host
    )


def _messages(
    broker: "Broker",
    reader: MessageReader,
    stored_times: StoredTimes,
) -> tuple[object, ...]:
    """Who takes messages in and hands them out."""
    machine, leadership, ground = broker.machine, broker.leadership, broker.ground
    sending = _sending(broker)
    usual = UsualSends(sending)
    transactions = _transactions(broker)
    resets = _resets(broker, stored_times)

    def changed(config: BrokerConfig) -> None:
        sending.auto_create = config.auto_create_topics
        sending.default_queues_max = config.default_topic_queues
        sending.max_message_bytes = config.max_message_bytes
        sending.checks_types = config.check_message_types
        usual.forget()
        transactions.timeout_ms = config.transaction_timeout_ms
        resets.server_side = config.server_side_reset

    broker.settings.on_change(changed)
    return (
        usual,
        sending,
        SendingBack(
            sending=sending,
            log=broker.log_reader,
            queues=broker.queues,
            cold_reads=broker.cold_reads,
        ),
        Pulling(
            machine=machine,
            queues=broker.queues,
            reader=reader,
            cold_reads=broker.cold_reads,
            polls=broker.polls,
            clients=broker.table,
            commits=broker.commits,
            ensure_group=broker.clients.ensure_group,
            leads=lambda: leadership.leads,
            read_barrier=broker.ledger.read_barrier_nowait,
            rates=broker.rates,
            monotonic_ms=ground.monotonic_ms,
        ),
        transactions,
        Resuming(
            store_host=broker.store_host,
            leadership=leadership,
            halves=broker.halves,
            batch=broker.batch,
            log=broker.log_reader,
            queues=broker.queues,
            cold_reads=broker.cold_reads,
            disk=broker.disk,
            now_ms=ground.now_ms,
        ),
        Offsets(
            machine=machine,
            queues=broker.queues,
            stored_times=stored_times,
            commits=broker.commits,
            leadership=leadership,
            read_barrier=broker.ledger.read_barrier_nowait,
        ),
        resets,
    )


def _transactions(broker: "Broker") -> Transactions:
    return Transactions(
        store_host=broker.store_host,
        timeout_ms=broker.config.transaction_timeout_ms,
        machine=broker.machine,
        leadership=broker.leadership,
        halves=broker.halves,
        log=IndexedReader(broker.log_reader),
        cold_reads=broker.cold_reads,
        disk=broker.disk,
        now_ms=broker.ground.now_ms,
    )


def _resets(broker: "Broker", stored_times: StoredTimes) -> Resets:
    return Resets(
        broker_name=broker.config.broker_name,
        server_side=broker.config.server_side_reset,
        machine=broker.machine,
        queues=broker.queues,
        stored_times=stored_times,
        cold_reads=broker.cold_reads,
        clients=broker.table,
        commits=broker.commits,
        leadership=broker.leadership,
        proposals=broker.proposals,
        now_ms=broker.ground.now_ms,
    )


def _pops(broker: "Broker", reader: MessageReader) -> tuple[object, ...]:
    """Who hands messages out for a while, and hears what became of them."""
    return (
        Popping(
            broker_name=broker.config.broker_name,
            of=broker.pop_queues,
            waits=broker.pop_waits,
            batch=broker.pop_batch,
            reader=reader,
            cold_reads=broker.cold_reads,
            clients=broker.table,
            leadership=broker.leadership,
            rates=broker.rates,
            now_ms=broker.ground.now_ms,
            monotonic_ms=broker.ground.monotonic_ms,
        ),
        PoppingQuestions(
            of=broker.pop_queues,
            waits=broker.pop_waits,
            reader=reader,
            cold_reads=broker.cold_reads,
            monotonic_ms=broker.ground.monotonic_ms,
        ),
        PoppingAcks(
            machine=broker.machine,
            queues=broker.queues,
            batch=broker.pop_batch,
            leadership=broker.leadership,
        ),
    )


def _between_clients(broker: "Broker", lookups: Lookups) -> tuple[object, ...]:
    """Who hands on what one client has for another."""
    config = broker.config
    calls = ClientCalls(others=_others(broker), ask_member=broker.leadership.ask)
    replies = Replies(
        machine=broker.machine,
        table=broker.table,
        calls=calls,
        store_host=broker.store_host,
        max_message_bytes=config.max_message_bytes,
        now_ms=broker.ground.now_ms,
    )

    def changed(config: BrokerConfig) -> None:
        replies.max_message_bytes = config.max_message_bytes

    broker.settings.on_change(changed)
    return (
        replies,
        Relays(
            broker_name=config.broker_name,
            table=broker.table,
            calls=calls,
            lookups=lookups,
        ),
        Settings(
            live=broker.settings,
            leads=lambda: broker.leadership.leads,
            others=_others(broker),
            ask_member=broker.leadership.ask,
        ),
    )


def _others(broker: "Broker") -> Callable[[], list[str]]:
    """The other members of the group."""
    node = broker.config.node
    return lambda: [name for name in broker.ledger.members.names if name != node]


def _state(
    broker: "Broker", reader: MessageReader, stored_times: StoredTimes
) -> tuple[object, ...]:
    """Who knows clients, settings and the group itself."""
    machine, leadership, config = broker.machine, broker.leadership, broker.config
    address, port = unpack_host(broker.store_host)
    now_ms = broker.ground.now_ms
    return (
        Recalling(
            broker_name=broker.config.broker_name,
            machine=machine,
            leadership=leadership,
            proposals=broker.proposals,
            now_ms=now_ms,
        ),
        broker.clients,
        _assignments(broker),
        Locks(
            broker_name=config.broker_name,
            machine=machine,
            leadership=leadership,
            proposals=broker.proposals,
            now_ms=now_ms,
        ),
        _topics(broker),
        Consensus(
            nodes=lambda: broker.ledger.members.names,
            leadership=leadership,
            transfer=broker.ledger.transfer_leadership,
            add=_adding(broker.ledger),
            remove=lambda node, silent: broker.ledger.remove_member(node, only_silent=silent),
        ),
        Groups(
            machine=machine,
            leadership=leadership,
            proposals=broker.proposals,
            term=lambda: broker.ledger.view.term,
            now_ms=now_ms,
        ),
        Operations(
            cluster_name=config.cluster_name,
            broker_name=config.broker_name,
            machine=machine,
            queues=broker.queues,
            stored_times=stored_times,
            clients=broker.table,
            rates=broker.rates,
            runtime=_runtime_table(broker, reader).text,
            now_ms=now_ms,
            monotonic_ms=broker.ground.monotonic_ms,
        ),
        Progress(
            broker_name=config.broker_name,
            address=f"{address}:{port}",
            machine=machine,
            queues=broker.queues,
            stored_times=stored_times,
            clients=broker.table,
            rates=broker.rates,
            now_ms=now_ms,
        ),
    )


def _topics(broker: "Broker") -> Topics:
    config = broker.config
    topics = Topics(
        cluster_name=config.cluster_name,
        broker_name=config.broker_name,
        mixed=config.mixed_topics,
        machine=broker.machine,
        leadership=broker.leadership,
        proposals=broker.proposals,
        term=lambda: broker.ledger.view.term,
        now_ms=broker.ground.now_ms,
    )

    def changed(config: BrokerConfig) -> None:
        topics.mixed = config.mixed_topics

    broker.settings.on_change(changed)
    return topics


def _assignments(broker: "Broker") -> AssignmentRoom:
    config = broker.config
    queues = TopicQueues(
        broker_name=config.broker_name,
        topics=broker.machine.topics,
        ask=broker.registrar.ask if config.namesrv else None,
        monotonic_ms=broker.ground.monotonic_ms,
    )
    return AssignmentRoom(
        machine=broker.machine,
        clients=broker.table,
        queues_of=queues.of,
        leadership=broker.leadership,
        proposals=broker.proposals,
        now_ms=broker.ground.now_ms,
    )


def _sending(broker: "Broker") -> Sending:
    return Sending(
        cluster_name=broker.config.cluster_name,
        broker_name=broker.config.broker_name,
        store_host=broker.store_host,
        new_unique_id=UniqueIds(unpack_host(broker.store_host)[0], broker.ground.surroundings).make,
        auto_create=broker.config.auto_create_topics,
        default_queues_max=broker.config.default_topic_queues,
        max_message_bytes=broker.config.max_message_bytes,
        checks_types=broker.config.check_message_types,
        machine=broker.machine,
        ledger=broker.ledger,
        batch=broker.batch,
        halves=broker.halves,
        leadership=broker.leadership,
        disk=broker.disk,
        rates=broker.rates,
        now_ms=broker.ground.now_ms,
        duplicates=_duplicates(broker),
    )


def _duplicates(broker: "Broker") -> Duplicates | None:
    if broker.put_window is None:
        return None
    return Duplicates(
        window=broker.put_window,
        passed_over=frozenset(broker.config.deduplication_not_in),
        batch=broker.batch,
        leads=lambda: broker.leadership.leads,
        halves=broker.machine.transactions,
        recalled=broker.machine.moves.recalled,
        queues=broker.queues,
        log=broker.log_reader,
        cold_reads=broker.cold_reads,
        rates=broker.rates,
    )


def _runtime_table(broker: "Broker", reader: MessageReader) -> RuntimeTable:
    return RuntimeTable(
        ledger=broker.ledger,
        machine=broker.machine,
        rates=broker.rates,
        recognised=lambda: len(broker.put_window or ()),
        forwarded=lambda: broker.leadership.statistics().forwarded,
        earliest_ms=OldestMessage(broker.ledger, reader).stored_ms,
        started_ms=broker.ground.now_ms(),
        disk=broker.disk,
        revivals=broker.revivals.statistics,
        pops_waiting=lambda: broker.pop_waits.waiting,
    )


def _adding(ledger: Ledger) -> Callable[[str, str, bool], Awaitable[None]]:
    async def add(node: str, address: str, stays_learner: bool) -> None:
        await ledger.add_member(node, address, stays_learner=stays_learner)

    return add
