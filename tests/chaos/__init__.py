"""Disturbs studies at random moments and compares their rows: `python -m tests.chaos --help`."""
