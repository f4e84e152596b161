"""Counterfactual chains: edits, window maps and forks."""
