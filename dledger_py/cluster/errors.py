"""What can go wrong with local processes. Each message says what to do about it."""


class ClusterError(Exception):
    """Refused or failed; `hint` is what a person can do."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        message = str(self.args[0])
        return f"{message}\n{self.hint}" if self.hint else message


class PortTaken(ClusterError):
    """Refused: somebody else listens on a port we need."""


class AlreadyRunning(ClusterError):
    """Refused: another process runs a cluster in this directory."""


class NotRunning(ClusterError):
    """Refused: there is no such cluster, or no such process in it."""


class ServerFailed(ClusterError):
    """A server process ended, or never said that it serves."""


class NoLeader(ClusterError):
    """No leader was elected (or seen by the name server) in time."""
