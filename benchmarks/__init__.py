"""Measurements of auricle beside the pipelines of its reference systems: `python -m benchmarks NAME`."""
