"""What `python -m benchmarks.fuzz` is made of: spoiled inputs by kind, processes that try them, and the report."""
