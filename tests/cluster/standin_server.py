"""A server in thirty lines: listens where its configuration says, and says so on the ready pipe.

`--set behave=…` makes it misbehave: crash (ends with a message), silent (is never ready), deaf
(ignores SIGTERM).
"""

import json
import os
import select
import signal
import socket
import sys
import tomllib
from pathlib import Path


def main() -> None:
    options = sys.argv[1:]
    config = tomllib.loads(Path(options[options.index("--config") + 1]).read_text())
    behave = next((word.partition("=")[2] for word in options if word.startswith("behave=")), "")
    print(f"stand-in behaves {behave or 'well'}", flush=True)
    if behave == "crash":
        sys.exit("the disk is full")
    if behave == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    addresses = [group["listen"] for group in config.get("groups", [config])]
    listeners = [
        socket.create_server((host, int(port)))
        for host, _, port in (address.rpartition(":") for address in addresses)
    ]
    if behave != "silent":
        with os.fdopen(int(os.environ["DLEDGER_READY_FD"]), "w") as ready:
            ready.write(json.dumps({"addresses": addresses}) + "\n")
    while True:
        for listener in select.select(listeners, [], [])[0]:
            listener.accept()[0].close()


if __name__ == "__main__":
    main()
