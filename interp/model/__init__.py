"""A reasoning model: architecture, loading, delimiters, attention, cache."""
