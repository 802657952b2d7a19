"""What cpspika costs beside other clients: `python -m benchmarks`; see docs/benchmarks.md for how it measures."""
