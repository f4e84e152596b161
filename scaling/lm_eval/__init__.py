"""Import and export of sample logs of lm-evaluation-harness."""
