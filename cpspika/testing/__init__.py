"""Helpers for tests: pytest fixtures, and the conformance tests for a reactor."""
