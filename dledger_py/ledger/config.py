"""The settings of one ledger, each with its unit in its name and the reason for its default."""

from __future__ import annotations

from typing import Literal

from attrs import frozen

from dledger_py.runtime.tls import TlsFiles
from dledger_py.storage.formats import PAYLOAD_MAX_BYTES

FETCH_MIN_BYTES_PER_S = 64 << 10
"""Two pieces at this rate take eight seconds; an asker waits thirty."""


@frozen(kw_only=True)
class LedgerConfig:
    """What one member is told at its start. **Raises** ValueError where the numbers cannot work
    together."""

    node: str
    """This member's id: one of `peers`."""

    peers: dict[str, str]
    """Every founding member's peer address, this one's included: {"n0": "host:port", …}, the same
    on all. Whoever was added later is known by the log. For a member that `joins`: its own address
    and any of the others'."""

    join: bool = False
    """Whether this member came after the group was founded, and waits for a leader that adds it.
    Stays set for all its life."""

    contact: str = ""
    """What the other members shall know of this one besides: `Members.contact_of`."""

    data_dir: str
    """The folder that belongs to this member alone. Created if it is missing."""

    cluster: str = "dledger"
    """Members of another cluster are refused, so that two clusters on reused addresses never
    meet."""

    group: str = "broker-a"
    """The replication group inside the cluster."""

    flush: Literal["sync", "async"] = "sync"
    """"sync": an entry counts on a member once it is on its disk. "async": once it is in its page
    cache, which survives the process but not the machine; the disk follows within
    `async_flush_ms`."""

    async_flush_ms: int = 500
    """Longest time entries stay in the page cache only, under flush "async" (RocketMQ: 500 ms)."""

    tick_ms: int = 20
    """The unit of the core's clock: a fifth of a heartbeat, so that randomised timeouts spread
    well."""

    heartbeat_ms: int = 100
    """Silence after which a leader says that it still leads (etcd 100 ms, DLedger 2 s)."""

    election_timeout_ms: int = 1000
    """Silence after which a leader is given up (etcd 1 s, DLedger 6 s). A leader that dies is
    noticed sooner, by its connections; this is for one that falls silent."""

    lease_reads: bool = False
    """Whether a leader lets readers pass without a round for up to half an election timeout after a
    majority has answered it. The same on all members. It rests on their monotonic clocks: none may
    go twice as fast as another, and a machine that is suspended, or moved while it runs, must not
    have it, since its clock does not count that. Members then wait an election timeout before they
    elect anybody, after a start and after a broken connection too."""

    segment_size_bytes: int = 64 << 20
    """A log file is closed once it is this long: small enough to check or drop as a whole."""

    snapshot_every_bytes: int = 256 << 20
    """Growth of the log after which the machine's state is written down, if the machine can: what a
    start has to apply at most, some seconds' worth."""

    payload_max_bytes: int = 8 << 20
    """Largest proposal: twice RocketMQ's largest message (4 MiB), since a turn's batch may end
    with one."""

    uncommitted_max_bytes: int = 64 << 20
    """Proposals that wait for their reply, before further ones are refused as Busy (etcd has such
    a bound)."""

    append_max_bytes: int = 1 << 20
    """Entries in one append to a follower, unless one alone is larger."""

    window_max_bytes: int = 8 << 20
    """Entries on their way to one follower and not yet acknowledged."""

    tail_max_bytes: int = 8 << 20
    """Newest entries kept in memory for followers that are a little behind; others read the
    disk."""

    send_buffer_max_bytes: int = 16 << 20
    """Bytes for one peer that its socket would not take yet. Beyond, appends are dropped and
    counted: the core notices and probes. Twice the window, which keeps it from being reached in
    health."""

    fetch_max_bytes_per_s: int = 32 << 20
    """How fast log and snapshots are handed to members that repair or install theirs, all of them
    together: a quarter of what a gigabit link carries, a few per cent of the loop (RocketMQ: 100 MB
    a second to a replica)."""

    scrub_max_bytes_per_s: int = 5 << 20
    """How fast old entries are read again to find rot: 100 GiB in six hours, and no disk feels it.
    0: never while running, so each start reads them all."""

    listen: str | None = None
    """Where to listen for peers, if not at this member's address in `peers`: behind a NAT, say."""

    tls_certificate: str = ""
    """The file with this member's certificate, in PEM, perhaps with those between it and the CA. It
    names `node` as a DNS entry of its subjectAltName. With it, and the next two, every connection
    between members is TLS and both sides prove who they are; without, both speak plainly."""

    tls_key: str = ""
    """The file with the key of that certificate, in PEM, not encrypted."""

    tls_ca: str = ""
    """The file with the certificates of the CA, in PEM: whoever it signs for is of the cluster, so
    it should sign for nobody else. Two while one follows the other."""

    connect_timeout_ms: int = 1000
    """How long a dial may take before it is tried again."""

    redial_max_ms: int = 1000
    """Longest pause between two dials; the first is a fiftieth of it, and each is jittered."""

    def __attrs_post_init__(self) -> None:
        if self.node not in self.peers:
            raise ValueError(f"node {self.node!r} is not among the peers {sorted(self.peers)}")
        if self.tick_ms < 1 or self.heartbeat_ms < self.tick_ms:
            raise ValueError(
                f"heartbeat_ms {self.heartbeat_ms} must be at least one tick of {self.tick_ms} ms"
            )
        if self.election_timeout_ms < 3 * self.heartbeat_ms:
            raise ValueError(
                f"election_timeout_ms {self.election_timeout_ms}: three heartbeats of"
                f" {self.heartbeat_ms} ms must fit, so that a lost one deposes nobody"
            )
        if self.lease_reads and self.election_timeout_ms < 4 * (self.heartbeat_ms + self.tick_ms):
            raise ValueError(
                f"lease_reads: with an election timeout of {self.election_timeout_ms} ms a lease"
                f" would be over before the next heartbeat ({self.heartbeat_ms} ms) renews it"
            )
        if not 1 <= self.payload_max_bytes <= PAYLOAD_MAX_BYTES:
            raise ValueError(
                f"payload_max_bytes {self.payload_max_bytes}: 1 to {PAYLOAD_MAX_BYTES} are possible"
            )
        if self.flush not in ("sync", "async"):
            raise ValueError(f"flush {self.flush!r}: only 'sync' and 'async' exist")
        if self.scrub_max_bytes_per_s < 0:
            raise ValueError(f"scrub_max_bytes_per_s {self.scrub_max_bytes_per_s}: 0 or more")
        if self.fetch_max_bytes_per_s < FETCH_MIN_BYTES_PER_S:
            raise ValueError(
                f"fetch_max_bytes_per_s {self.fetch_max_bytes_per_s}: at least"
                f" {FETCH_MIN_BYTES_PER_S}, or members that wait for an answer give up"
            )
        if self.join and len(self.peers) < 2:
            raise ValueError("a member that joins needs the address of another one in peers")
        for name, address in self.peers.items():
            split_address(address, of=name)
        if self.tls is not None:
            self.tls.load(self.node)  # for the sake of the errors: they belong to the start

    @property
    def tls(self) -> TlsFiles | None:
        """Where this member's certificate is, if it has one. **Raises** ValueError."""
        return TlsFiles.of(certificate=self.tls_certificate, key=self.tls_key, ca=self.tls_ca)

    @property
    def others(self) -> tuple[str, ...]:
        """Every member but this one."""
        return tuple(name for name in self.peers if name != self.node)


def split_address(address: str, *, of: str) -> tuple[str, int]:
    """`host:port`, or `[v6]:port`, taken apart. **Raises** ValueError naming whose address it
    is."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"address {address!r} of {of!r}: host:port expected")
    return host.removeprefix("[").removesuffix("]"), int(port)
