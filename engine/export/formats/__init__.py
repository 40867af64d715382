"""One module for each format that `export.py` writes; `table` says which options each has."""
