"""Chains: generated answers, their residual records, periods, masks and sampling noise."""
