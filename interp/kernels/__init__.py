"""Compiled kernels for decoding and recording on a CPU."""
