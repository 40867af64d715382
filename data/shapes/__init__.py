"""The built-in `shapes` data."""
