"""What a process of ours needs before it can do anything: settings, logs, signals.

Knows nothing of messages or Raft. The client never imports it.
"""
