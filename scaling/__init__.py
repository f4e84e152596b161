"""Test-time scaling: problems, benchmarks, grading, engines, studies, the store, and curves."""
