"""Readers of label files, each with two functions.

`inputs(source) -> list[str]`: every file that the result depends on, for the cache to watch.
`read(source, report) -> Unchecked`: the labels as the files have them; what cannot be read is counted in the report.
"""
