"""The parts of `python -m benchmarks.evaluation`."""
