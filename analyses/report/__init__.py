"""The report: one self-contained page of all analyses."""
