"""For tests: pytest fixtures, and the conformance tests of a reactor."""
