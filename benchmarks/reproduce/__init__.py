"""Published rows as data in `cfg/reproduce`: run, checked and compared by `python -m benchmarks.reproduce`."""
