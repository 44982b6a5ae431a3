"""Judges of recorded histories: pure functions from what clients saw to what was wrong."""
