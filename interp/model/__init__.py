"""The model under study, and what decoding needs from it."""
