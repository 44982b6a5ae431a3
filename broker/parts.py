"""What a member consists of: each part, from the settings and from what it needs of the others.

Elsewhere: who answers which request (`answering`), what ties the parts together (`app`).
"""

from typing import TYPE_CHECKING

from broker.config import BrokerConfig
from broker.log_readers import IndexedReader
from broker.rooms._pop_queues import PopQueues
from broker.rooms.clients import Clients
from broker.serving.check_back import CheckBack, CheckTimes
from broker.serving.deliveries import Deliveries
from broker.serving.disk_watch import DiskWatch
from broker.serving.half_messages import HalfMessages
from broker.serving.key_index import KeyIndex
from broker.serving.leadership import Leadership
from broker.serving.pop_choice import PopChoice
from broker.serving.preferred_leader import PreferredLeader
from broker.serving.registrar import Registrar
from broker.serving.retention import Retention, Wish
from broker.serving.revivals import Revivals
from broker.serving.window_keeper import WindowKeeper

if TYPE_CHECKING:
    from broker.app import Broker


def half_messages(broker: "Broker") -> HalfMessages:
    return HalfMessages(
        pending=broker.machine.transactions,
        ledger=broker.ledger,
        rates=broker.rates,
        now_ms=broker.ground.now_ms,
    )


def leadership(broker: "Broker") -> Leadership:
    config = broker.config
    return Leadership(
        node=config.node,
        address_of=broker.reach,
        wait_ms=config.forward_wait_ms,
        view=broker.view,
        alone=lambda: broker.ledger.alone,
        redispatch=broker.redispatch,
        flush=broker.flush,
        dial=broker.ground.surroundings.dial,
    )


def deliveries(broker: "Broker") -> Deliveries:
    return Deliveries(
        machine=broker.machine,
        queues=broker.queues,
        reader=broker.reader,
        cold_reads=broker.cold_reads,
        ledger=broker.ledger,
        leads=lambda: broker.leadership.leads,
        now_ms=broker.ground.now_ms,
    )


def revivals(broker: "Broker") -> Revivals:
    return Revivals(
        store_host=broker.store_host,
        machine=broker.machine,
        queues=broker.queues,
        reader=broker.reader,
        cold_reads=broker.cold_reads,
        ledger=broker.ledger,
        proposals=broker.proposals,
        leads=lambda: broker.leadership.leads,
        now_ms=broker.ground.now_ms,
    )


def disk_watch(broker: "Broker") -> DiskWatch:
    config = broker.config
    return DiskWatch(
        floor_bytes=config.disk_floor_bytes,
        free_bytes=lambda: broker.ground.files.free_bytes(str(config.data_dir)),
        set_electable=broker.ledger.set_electable,
    )


def window_keeper(broker: "Broker") -> WindowKeeper | None:
    if broker.put_window is None:
        return None
    return WindowKeeper(
        window=broker.put_window,
        age_max_ms=broker.config.deduplication_s * 1000,
        ledger=broker.ledger,
        host=broker.ground.host,
        filled=broker.window_filled,
    )


def registrar(broker: "Broker") -> Registrar:
    config = broker.config
    return Registrar(
        name_servers=config.namesrv,
        cluster_name=config.cluster_name,
        broker_name=config.broker_name,
        broker_id=config.broker_id,
        address=config.advertised,
        topics=broker.machine.topics,
        view=broker.view,
        period_s=config.register_period_s,
        ledger_cluster=config.cluster_id,
        ledger_folders=lambda: broker.ledger.members.folders(),
        dial=broker.ground.surroundings.dial,
    )


def key_index(broker: "Broker") -> KeyIndex:
    return KeyIndex(
        directory=broker.config.data_dir / "keyindex",
        log=lambda: broker.ledger.log,
        applied=broker.applied_place,
        wait_replayed=broker.ledger.wait_replayed,
        run_in_thread=broker.ground.host.run_in_thread,
    )


def clients(broker: "Broker") -> Clients:
    return Clients(
        machine=broker.machine,
        table=broker.table,
        leadership=broker.leadership,
        proposals=broker.proposals,
        now_ms=broker.ground.now_ms,
        monotonic_ms=broker.ground.monotonic_ms,
    )


def pop_queues(broker: "Broker") -> PopQueues:
    choice = PopChoice(
        machine=broker.machine,
        queues=broker.queues,
        reader=broker.reader,
        now_ms=broker.ground.now_ms,
        monotonic_ms=broker.ground.monotonic_ms,
    )
    return PopQueues(
        machine=broker.machine, choice=choice, ensure_group=broker.clients.ensure_group
    )


def preferred_leader(broker: "Broker") -> PreferredLeader | None:
    """Who watches that the preferred member leads; the preferred one itself need not."""
    config = broker.config
    if config.preferred_leader in ("", config.node):
        return None
    return PreferredLeader(
        group=config.broker_name,
        preferred=config.preferred_leader,
        view=broker.view,
        statistics=broker.ledger.statistics,
        transfer=broker.ledger.transfer_leadership,
        silence_ticks_max=config.ledger.election_timeout_ms // config.ledger.tick_ms // 2,
    )


def retention(broker: "Broker") -> Retention:
    def held() -> int | None:
        """The log position of the first message that is still to be delivered, if any is."""
        positions = (
            broker.deliveries.held(),
            broker.revivals.held(),
            broker.machine.transactions.lowest_position(),
        )
        return min((position for position in positions if position is not None), default=None)

    return Retention(
        wish=wish(broker.config),
        log=lambda: broker.ledger.log,
        leads=lambda: broker.leadership.leads,
        behind=broker.ledger.furthest_behind,
        queues=broker.machine.queues.all,
        min_offset=broker.machine.queues.min_offset,
        held=held,
        first_at=broker.queues.first_at,
        commit=broker.ledger.commit,
        run_in_thread=broker.ground.host.run_in_thread,
        now_ms=broker.ground.now_ms,
    )


def wish(config: BrokerConfig) -> Wish:
    return Wish(age_ms=config.retention_hours * 3_600_000, bytes=config.retention_bytes)


def check_back(broker: "Broker") -> CheckBack:
    return CheckBack(
        times=check_times(broker.config),
        broker_name=broker.config.broker_name,
        store_host=broker.store_host,
        machine=broker.machine,
        leads=lambda: broker.leadership.leads,
        disk_refuses=lambda: broker.disk.refusing,
        clients=broker.table,
        halves=broker.halves,
        reader=IndexedReader(broker.log_reader),
        commit=broker.ledger.commit,
        run_in_thread=broker.ground.host.run_in_thread,
        flush=broker.flush,
        rates=broker.rates,
        now_ms=broker.ground.now_ms,
    )


def check_times(config: BrokerConfig) -> CheckTimes:
    return CheckTimes(
        timeout_ms=config.transaction_timeout_ms,
        interval_ms=config.transaction_check_interval_ms,
        checks_max=config.transaction_check_max,
        age_max_ms=config.transaction_hours_max * 3_600_000,
    )
