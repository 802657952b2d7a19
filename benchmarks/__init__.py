"""Measures cpspika beside other clients: `python -m benchmarks`. docs/benchmarks.md describes the method."""
