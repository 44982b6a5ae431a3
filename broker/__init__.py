"""A RocketMQ-compatible broker on a replicated log.

`machine` and `formats` are pure: what every member must compute alike. `store` keeps the files
derived from it, `rooms` answer requests, `serving` holds what a restart may forget, and `app` wires
them.
"""
