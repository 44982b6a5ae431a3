"""Soft state: what only connected clients care about. Lost on restart, by design."""
