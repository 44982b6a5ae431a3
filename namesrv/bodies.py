"""The name server's bodies: registrations in the forms brokers send, routes in the one form every
client reads.

Pure. Answers are strict JSON without white space, numeric ids quoted, members in alphabetical
order: the Go client cuts `brokerAddrs` by text (a blank would become part of an address) and panics
if it is missing; Java 4.9.4 and later reads strict JSON; everyone else reads both.

Three forms of a registration's body: plain JSON; a zlib stream with a layout of its own; the bare
topic table of brokers older than 3.0.11.

Source: RocketMQ `remoting/protocol/body/RegisterBrokerBody.java`, `remoting/protocol/route/*.java`.
"""

import json
import re
import zlib
from collections.abc import Iterable, Mapping
from struct import Struct
from typing import Any

from namesrv.records import (
    BrokerData,
    DataVersion,
    QueueData,
    RegisterBody,
    TopicConfig,
    TopicRoute,
)

INFLATED_MAX_BYTES = 64 * 1024 * 1024
"""A registration after inflating: four frames' worth. 200,000 topics need some 12 MB; a zip bomb
needs more.
"""

BODY_CRC_MASK = 0x7FFF_FFFF
"""Java's `UtilAll.crc32` drops the sign bit."""

_LENGTH = Struct(">I")
_ZLIB_FIRST_BYTE = 0x78
_BARE_KEY = re.compile(r'"(?:[^"\\]|\\.)*"|([{,]\s*)(-?\d+)(\s*:)')


class MalformedBody(ValueError):
    """Refused: these bytes are no body of the expected kind."""


def body_crc32(body: bytes) -> int:
    """The checksum brokers send in `bodyCrc32`, over the body as it travels."""
    return zlib.crc32(body) & BODY_CRC_MASK


def decode_register_body(body: bytes) -> RegisterBody:
    """Read the body of a registration from a broker of version 3.0.11 or later.

    The first byte decides between plain and compressed, not the header: with `compressedRegister`
    on, Java 5.3 brokers compress the body and say `compressed=false`.

    Raises:
        MalformedBody
    """
    if not body:
        return RegisterBody()
    if body[0] == _ZLIB_FIRST_BYTE:
        return _decode_compressed(_inflate(body))
    document = _object(_parse(body), "registration")
    return _from_wrapper(
        _object(document.get("topicConfigSerializeWrapper") or {}, "topicConfigSerializeWrapper"),
        filter_servers=document.get("filterServerList"),
    )


def decode_old_register_body(body: bytes) -> RegisterBody:
    """Read the body of a registration from a broker older than 3.0.11: the topic table alone."""
    if not body:
        return RegisterBody()
    return _from_wrapper(_object(_parse(body), "topic table"), filter_servers=None)


def decode_data_version(body: bytes) -> DataVersion:
    return _data_version(_object(_parse(body), "data version"))


def decode_queue_datas(body: bytes) -> tuple[QueueData, ...]:
    """The queues of a TopicRouteData body (REGISTER_TOPIC_IN_NAMESRV)."""
    document = _object(_parse(body), "route")
    return tuple(
        _queue_data(_object(each, "queueData")) for each in document.get("queueDatas") or ()
    )


def encode_route(route: TopicRoute) -> bytes:
    """TopicRouteData."""
    document: dict[str, Any] = {
        "brokerDatas": [_broker_document(broker) for broker in route.brokers],
        "filterServerTable": {a: list(servers) for a, servers in route.filter_servers.items()},
        "queueDatas": [_queue_document(queue) for queue in route.queues],
    }
    if route.order_topic_conf is not None:
        document["orderTopicConf"] = route.order_topic_conf
    return encode_json(document)


def encode_cluster_info(groups: Iterable[BrokerData]) -> bytes:
    """ClusterInfo: who is in which cluster, under which id and address."""
    brokers: dict[str, Any] = {}
    clusters: dict[str, list[str]] = {}
    for group in groups:
        brokers[group.broker_name] = _broker_document(group)
        clusters.setdefault(group.cluster, []).append(group.broker_name)
    return encode_json({"brokerAddrTable": brokers, "clusterAddrTable": clusters})


def encode_member_group(cluster: str, broker_name: str, group: BrokerData | None) -> bytes:
    """BrokerMemberGroup; an unknown group is one without members."""
    members = {} if group is None else _addresses(group.addresses)
    shown = {"brokerAddrs": members, "brokerName": broker_name, "cluster": cluster}
    return encode_json({"brokerMemberGroup": shown})


def encode_topic_list(topics: Iterable[str], *, broker_address: str | None = None) -> bytes:
    document: dict[str, Any] = {"topicList": list(topics)}
    if broker_address is not None:
        document["brokerAddr"] = broker_address
    return encode_json(document)


def encode_table(table: Mapping[str, str]) -> bytes:
    """KVTable."""
    return encode_json({"table": dict(table)})


def encode_data_version(version: DataVersion) -> bytes:
    return encode_json(
        {
            "counter": version.counter,
            "stateVersion": version.state_version,
            "timestamp": version.timestamp,
        }
    )


def encode_json(document: object) -> bytes:
    """Compact, alphabetical, ASCII: what fastjson calls browser compatible."""
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()


# -- the compressed form -------------------------------------------------------------------------


def _inflate(body: bytes) -> bytes:
    stream = zlib.decompressobj()
    try:
        inflated = stream.decompress(body, INFLATED_MAX_BYTES)
    except zlib.error as error:
        raise MalformedBody(f"no zlib stream: {error}") from error
    if not stream.eof:
        what = "larger than allowed" if stream.unconsumed_tail else "cut short"
        raise MalformedBody(
            f"compressed registration is {what} ({INFLATED_MAX_BYTES} bytes at most)"
        )
    return inflated


def _decode_compressed(data: bytes) -> RegisterBody:
    """Length-prefixed: data version, count and topics, filter servers; mappings of static topics
    are not read.
    """
    at = 0

    def number() -> int:
        nonlocal at
        if at + _LENGTH.size > len(data):
            raise MalformedBody(f"compressed registration ends at byte {len(data)} inside a length")
        (value,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        return int(value)

    def piece() -> bytes:
        nonlocal at
        size = number()
        if at + size > len(data):
            raise MalformedBody(f"a piece of {size} bytes at {at} of {len(data)}")
        at += size
        return data[at - size : at]

    version = _data_version(_object(_parse(piece()), "data version"))
    topics = tuple(_topic_from_text(piece()) for _ in range(number()))
    filter_servers = _filter_servers(_parse(piece()))
    return RegisterBody(version=version, topics=topics, filter_servers=filter_servers)


def _topic_from_text(text: bytes) -> TopicConfig:
    """`name read write perm filterType attributesJson`"""
    try:
        name, read, write, perm, *_ = text.decode().split(" ", 5)
        return TopicConfig(
            name=name, read_queue_nums=int(read), write_queue_nums=int(write), perm=int(perm)
        )
    except ValueError as error:  # too few words, not UTF-8, or not numbers
        raise MalformedBody(f"no topic: {text[:80]!r}") from error


# -- JSON to records -----------------------------------------------------------------------------


def _parse(body: bytes) -> Any:
    """Strict JSON, or fastjson's dialect with bare numeric keys (`{0:"a"}`)."""
    try:
        text = body.decode()
        try:
            return json.loads(text)
        except ValueError:
            return json.loads(_BARE_KEY.sub(_quote_bare_key, text))
    except (ValueError, RecursionError) as error:
        raise MalformedBody(f"no JSON: {error}") from error


def _quote_bare_key(found: re.Match[str]) -> str:
    if found[2] is None:
        return found[0]  # a string: left as it is
    return f'{found[1]}"{found[2]}"{found[3]}'


def _from_wrapper(wrapper: dict[str, Any], *, filter_servers: Any) -> RegisterBody:
    table = _object(wrapper.get("topicConfigTable") or {}, "topicConfigTable")
    return RegisterBody(
        version=_data_version(_object(wrapper.get("dataVersion") or {}, "dataVersion")),
        topics=tuple(_topic(name, _object(each, name)) for name, each in table.items()),
        filter_servers=_filter_servers(filter_servers),
    )


def _topic(name: str, document: dict[str, Any]) -> TopicConfig:
    return TopicConfig(
        name=name,
        # Java's defaults for members that are missing.
        read_queue_nums=_integer(document, "readQueueNums", 16),
        write_queue_nums=_integer(document, "writeQueueNums", 16),
        perm=_integer(document, "perm", 6),
        topic_sys_flag=_integer(document, "topicSysFlag", 0),
    )


def _queue_data(document: dict[str, Any]) -> QueueData:
    name = document.get("brokerName")
    if not isinstance(name, str):
        raise MalformedBody(f"brokerName is {name!r}, not a name")
    return QueueData(
        broker_name=name,
        read_queue_nums=_integer(document, "readQueueNums", 0),
        write_queue_nums=_integer(document, "writeQueueNums", 0),
        perm=_integer(document, "perm", 0),
        topic_sys_flag=_integer(document, "topicSysFlag", 0),
    )


def _data_version(document: dict[str, Any]) -> DataVersion:
    return DataVersion(
        state_version=_integer(document, "stateVersion", 0),
        timestamp=_integer(document, "timestamp", 0),
        counter=_integer(document, "counter", 0),
    )


def _filter_servers(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise MalformedBody("filterServerList is not a list of addresses")
    return tuple(value)


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise MalformedBody(f"{what} is not a JSON object")
    return value


def _integer(document: dict[str, Any], name: str, default: int) -> int:
    value = document.get(name)
    if value is None:
        return default
    if not isinstance(value, int):
        raise MalformedBody(f"{name} is {value!r}, not an integer")
    return int(value)  # JSON's true and false are ints to Python: 1 and 0 are harmless here


# -- records to JSON -----------------------------------------------------------------------------


def _broker_document(broker: BrokerData) -> dict[str, Any]:
    document: dict[str, Any] = {
        "brokerAddrs": _addresses(broker.addresses),
        "brokerName": broker.broker_name,
        "cluster": broker.cluster,
        "enableActingMaster": broker.enable_acting_master,
    }
    if broker.zone_name is not None:
        document["zoneName"] = broker.zone_name
    return document


def _addresses(addresses: Mapping[int, str]) -> dict[str, str]:
    return {str(broker_id): address for broker_id, address in addresses.items()}


def _queue_document(queue: QueueData) -> dict[str, Any]:
    return {
        "brokerName": queue.broker_name,
        "perm": queue.perm,
        "readQueueNums": queue.read_queue_nums,
        "topicSysFlag": queue.topic_sys_flag,
        "writeQueueNums": queue.write_queue_nums,
    }
