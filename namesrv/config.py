"""What a name server is told at its start; `dledger namesrv --print-config` shows it."""

from pathlib import Path

from attrs import Factory, frozen

from dledger_py.runtime.settings import setting
from namesrv.records import RoutePolicy


@frozen(kw_only=True)
class NamesrvConfig:
    """One name server. There is no replication among several: brokers register with each."""

    listen: str = setting("127.0.0.1:9876", doc="host:port for brokers and clients")
    data_dir: Path = setting(
        Path("data/namesrv"), doc="folder of kvConfig.json, all that outlives the process"
    )
    expiry_scan_ms: int = setting(
        5000, doc="how often silent brokers are looked for, in ms (Java: the same)"
    )
    log_level: str = setting("info", doc="debug, info, warning or error")
    policy: RoutePolicy = Factory(RoutePolicy)

    def __attrs_post_init__(self) -> None:
        host, _, port = self.listen.rpartition(":")
        if not host or not port.isdecimal() or int(port) > 65535:
            raise ValueError(f"listen = {self.listen!r}: host:port is expected")
        if self.expiry_scan_ms < 1:
            raise ValueError(f"expiry_scan_ms = {self.expiry_scan_ms}: at least 1")

    @property
    def listen_address(self) -> tuple[str, int]:
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)
