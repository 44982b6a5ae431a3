"""What a member stands on: its machine, its files, and the ways of its own connections."""

from attrs import field, frozen

from dledger_py.client.surroundings import HERE, Surroundings
from dledger_py.runtime.host import Host, RealHost
from dledger_py.storage import FileSystem, RealFiles


@frozen(kw_only=True)
class Ground:
    """The default is solid; a simulation's is not."""

    host: Host = field(factory=RealHost)
    files: FileSystem = field(factory=RealFiles)
    surroundings: Surroundings = HERE
    """How it dials name servers and the leader, as any client does."""

    def now_ms(self) -> int:
        """The wall clock, which is data here: stamped into entries, never compared across
        members."""
        return self.host.now_ns() // 1_000_000

    def monotonic_ms(self) -> int:
        """For deadlines of this process, which a corrected wall clock must not move."""
        return self.host.monotonic_ns() // 1_000_000
