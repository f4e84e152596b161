"""Teacher-forced passes: chunked, with shared prefixes, block by block."""
