"""Parts of `benchmarks.fuzz`: corrupted inputs by kind, the processes that try them, and the report."""
