"""A small reasoner that thinks, checks and backtracks: its problems, verifier, training, weights."""
