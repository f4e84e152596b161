"""A study's rows in one SQLite file."""
