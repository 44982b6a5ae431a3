"""Servers composed: a name server and a group of brokers as child processes on this machine."""
