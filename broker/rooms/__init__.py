"""Handlers, one class per subject. A room's constructor is its dependency list."""
