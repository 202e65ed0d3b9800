"""Benchmarks of auricle against the pipelines of its reference systems: `python -m benchmarks NAME`."""
