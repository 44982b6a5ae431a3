"""Bytes and nothing else: frames, headers, stored messages. Pure: no clock, no I/O, no log."""
