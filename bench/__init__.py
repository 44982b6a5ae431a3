"""Measurements: what it costs and how fast it is. Nothing here is asserted in a test."""
