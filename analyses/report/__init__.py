"""The report: all analyses on one self-contained page."""
