"""What goes wrong on purpose, and the judges of what came of it. Not installed."""
