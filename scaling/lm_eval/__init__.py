"""Logs of lm-evaluation-harness, in and out."""
