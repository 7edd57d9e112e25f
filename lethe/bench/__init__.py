"""Benchmarks: requests that measure every method as a user runs it, and their results, in `measured/`."""
