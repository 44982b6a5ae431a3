"""RocketMQ's remoting protocol: what travels, how it is spelled, and the server that speaks it.

`wire` and `commands` are pure; `rooms` joins a request class to the method that answers it;
`server` is the one place that owns sockets. Nothing is imported here, so that a client pays
only for the parts it names.
"""
