"""The two sides of benchmarks/loader.py, each a process of its own."""
