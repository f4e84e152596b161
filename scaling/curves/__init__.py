"""Accuracy against test-time compute: sequential, parallel, fits, equal cost."""
