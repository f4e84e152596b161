"""A small reasoner that thinks and backtracks: its problems, verifier, training and weights."""
