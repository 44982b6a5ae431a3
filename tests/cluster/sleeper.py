"""Prints its process id and waits for ever."""

import os
import signal

print(os.getpid(), flush=True)
signal.pause()
