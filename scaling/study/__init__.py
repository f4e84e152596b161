"""A study: configuration, cells, variants, the run."""
