"""A name server and a broker under a test's control, enough of both for a client to believe them.

Members of one broker group share a `Store`, as replicas would.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from attrs import define, field

from dledger_py.client import Client, connect
from dledger_py.remoting.commands.heartbeats import decode_heartbeat
from dledger_py.remoting.wire.frame import Frame, encode_response
from dledger_py.remoting.wire.message import (
    encode_record,
    offset_message_id,
    pack_host,
    split_batch_body,
    tags_code,
)
from dledger_py.remoting.wire.properties import find
from tests.client.fake_servers import FakeServer, Peer, running

HOST = pack_host("127.0.0.1", 10911)

SEND, SEND_BATCH, PULL, BEAT, UNREGISTER, MEMBERS = 310, 320, 11, 34, 35, 38
QUERY_OFFSET, COMMIT, MAX_OFFSET, MIN_OFFSET, SEARCH, NOTIFY = 14, 15, 30, 31, 29, 40
ROUTE = 105


@define
class Store:
    """What a broker group holds."""

    queues: dict[tuple[str, int], list[bytes]] = field(factory=dict)
    unique_ids: list[str] = field(factory=list)
    committed: dict[tuple[str, str, int], int] = field(factory=dict)
    first_offset: int = 0

    def append(
        self,
        topic: str,
        queue_id: int,
        body: bytes,
        properties: str = "",
        reconsume_times: int = 0,
    ) -> int:
        queue = self.queues.setdefault((topic, queue_id), [])
        queue.append(
            encode_record(
                queue_id=queue_id,
                flag=0,
                sys_flag=self.sys_flag,
                born_timestamp_ms=1_700_000_000_000,
                born_host=HOST,
                store_timestamp_ms=1_700_000_000_000 + len(queue),
                store_host=HOST,
                body=body,
                topic=topic,
                properties=properties.encode(),
                reconsume_times=reconsume_times,
                queue_offset=len(queue),
                physical_offset=len(queue) * 1000,
            )
        )
        if unique_id := find(properties, "UNIQ_KEY"):
            self.unique_ids.append(unique_id)
        return len(queue) - 1

    sys_flag: int = 0


class FakeNameServer(FakeServer):
    """Knows the routes a test gives it."""

    def __init__(self) -> None:
        super().__init__()
        self.routes: dict[str, bytes] = {}
        self.handlers[ROUTE] = self._route

    def route(
        self, topic: str, *brokers: FakeServer, queues: int = 1, perm: int = 6, leader: int = 0
    ) -> None:
        """*topic* lives on *brokers*, members of one group of which the first leads."""
        self.routes[topic] = route_body(
            {str(number + leader): broker.address for number, broker in enumerate(brokers)},
            queues,
            perm,
        )

    def _route(self, peer: Peer, frame: Frame) -> bytes:
        body = self.routes.get(frame.fields["topic"])
        if body is None:
            return encode_response(frame, 17, remark="No topic route info")
        return encode_response(frame, 0, body=body)


def route_body(members: dict[str, str], queues: int, perm: int = 6) -> bytes:
    return json.dumps(
        {
            "brokerDatas": [{"brokerAddrs": members, "brokerName": "broker-a", "cluster": "c"}],
            "queueDatas": [
                {
                    "brokerName": "broker-a",
                    "perm": perm,
                    "readQueueNums": queues,
                    "writeQueueNums": queues,
                    "topicSysFlag": 0,
                }
            ],
        }
    ).encode()


class FakeBroker(FakeServer):
    """Stores, serves, and keeps track of groups; holds pulls until a message comes."""

    def __init__(self, store: Store | None = None) -> None:
        super().__init__()
        self.store = store if store is not None else Store()
        self.groups: dict[str, dict[str, Peer]] = {}
        self.held: list[tuple[Peer, Frame]] = []
        self.handlers |= {
            SEND: self.store_one,
            SEND_BATCH: self._store_batch,
            PULL: self.pull,
            BEAT: self._beat,
            UNREGISTER: self._unregister,
            MEMBERS: self._members,
            QUERY_OFFSET: self._query_offset,
            COMMIT: self._commit,
            MAX_OFFSET: lambda peer, frame: self._offset(frame, len(self._queue(frame))),
            MIN_OFFSET: lambda peer, frame: self._offset(frame, self.store.first_offset),
            SEARCH: self._search,
        }

    # --- sends -----------------------------------------------------------------------------------

    def store_one(self, peer: Peer, frame: Frame) -> bytes:
        fields = frame.fields
        queue_id = int(fields["e"])
        offset = self.store.append(fields["b"], queue_id, frame.body, fields["i"])
        return self._stored(frame, queue_id, offset, 1)

    def _store_batch(self, peer: Peer, frame: Frame) -> bytes:
        items = split_batch_body(frame.body)
        queue_id = int(frame.fields["e"])
        offsets = [
            self.store.append(frame.fields["b"], queue_id, item.body, item.properties.decode())
            for item in items
        ]
        return self._stored(frame, queue_id, offsets[0], len(items))

    def _stored(self, frame: Frame, queue_id: int, offset: int, count: int) -> bytes:
        ids = [offset_message_id(HOST, (offset + place) * 1000) for place in range(count)]
        reply = {"msgId": ",".join(ids), "queueId": str(queue_id), "queueOffset": str(offset)}
        return encode_response(frame, 0, reply)

    # --- reads -----------------------------------------------------------------------------------

    def pull(self, peer: Peer, frame: Frame) -> bytes | None:
        answer = self._found(frame)
        if answer is None:
            self.held.append((peer, frame))
        return answer

    def _found(self, frame: Frame) -> bytes | None:
        offset, queue = int(frame.fields["queueOffset"]), self._queue(frame)
        if not self.store.first_offset <= offset <= len(queue):
            moved = min(max(offset, self.store.first_offset), len(queue))
            return encode_response(frame, 21, self._where(moved, queue))
        if offset == len(queue):
            can_wait = int(frame.fields["sysFlag"]) & 2
            return None if can_wait else encode_response(frame, 19, self._where(offset, queue))
        upto = min(len(queue), offset + int(frame.fields["maxMsgNums"]))
        return encode_response(frame, 0, self._where(upto, queue), b"".join(queue[offset:upto]))

    def _where(self, next_offset: int, queue: list[bytes]) -> dict[str, str]:
        return {
            "nextBeginOffset": str(next_offset),
            "minOffset": str(self.store.first_offset),
            "maxOffset": str(len(queue)),
            "suggestWhichBrokerId": "0",
        }

    def _queue(self, frame: Frame) -> list[bytes]:
        return self.store.queues.get((frame.fields["topic"], int(frame.fields["queueId"])), [])

    async def wake(self) -> None:
        """Answer the held pulls that have something to read now."""
        held, self.held = self.held, []
        for peer, frame in held:
            answer = self._found(frame)
            if answer is None:
                self.held.append((peer, frame))
            elif peer in self.peers:
                await peer.send(answer)

    # --- offsets ---------------------------------------------------------------------------------

    def _key(self, frame: Frame) -> tuple[str, str, int]:
        fields = frame.fields
        return fields["consumerGroup"], fields["topic"], int(fields["queueId"])

    def _query_offset(self, peer: Peer, frame: Frame) -> bytes:
        offset = self.store.committed.get(self._key(frame))
        if offset is None:
            return encode_response(frame, 22, remark="Not found")
        return self._offset(frame, offset)

    def _commit(self, peer: Peer, frame: Frame) -> bytes:
        self.store.committed[self._key(frame)] = int(frame.fields["commitOffset"])
        return encode_response(frame, 0)

    def _search(self, peer: Peer, frame: Frame) -> bytes:
        since_ms = int(frame.fields["timestamp"]) - 1_700_000_000_000
        return self._offset(frame, min(max(since_ms, 0), len(self._queue(frame))))

    def _offset(self, frame: Frame, offset: int) -> bytes:
        return encode_response(frame, 0, {"offset": str(offset)})

    # --- groups ----------------------------------------------------------------------------------

    def _beat(self, peer: Peer, frame: Frame) -> bytes:
        beat = decode_heartbeat(frame.body)
        for consumer in beat.consumer_data_set:
            for each in consumer.subscription_data_set:
                assert each.code_set == tuple(map(tags_code, each.tags_set))
            self.groups.setdefault(consumer.group_name, {})[beat.client_id] = peer
        return encode_response(frame, 0)

    def _unregister(self, peer: Peer, frame: Frame) -> bytes:
        members = self.groups.get(frame.fields.get("consumerGroup", ""), {})
        members.pop(frame.fields["clientID"], None)
        return encode_response(frame, 0)

    def _members(self, peer: Peer, frame: Frame) -> bytes:
        members = self.groups.get(frame.fields["consumerGroup"])
        if not members:
            return encode_response(frame, 1, remark="no consumer for this group")
        return encode_response(frame, 0, body=json.dumps({"consumerIdList": [*members]}).encode())

    def gone(self, peer: Peer) -> None:
        self.held = [held for held in self.held if held[0] is not peer]
        for members in self.groups.values():
            for client_id in [each for each, where in members.items() if where is peer]:
                del members[client_id]


@define
class Cluster:
    """A name server and one broker with a topic `t`."""

    names: FakeNameServer
    broker: FakeBroker

    @property
    def store(self) -> Store:
        return self.broker.store


@asynccontextmanager
async def running_cluster(queues: int = 1) -> AsyncIterator[Cluster]:
    cluster = Cluster(FakeNameServer(), FakeBroker())
    async with running(cluster.names, cluster.broker):
        cluster.names.route("t", cluster.broker, queues=queues)
        yield cluster


@asynccontextmanager
async def connected(
    queues: int = 1, timeout_s: float = 10.0
) -> AsyncIterator[tuple[Cluster, Client]]:
    """A cluster and a client of it."""
    async with (
        running_cluster(queues) as cluster,
        connect(cluster.names.address, timeout_s=timeout_s) as mq,
    ):
        yield cluster, mq
