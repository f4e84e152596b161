"""Chains: what was generated, its record, periods, masks and noise."""
