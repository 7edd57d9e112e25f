"""Benchmarks: requests that measure every method as a user runs it, and what they found, in `measured/`."""
