"""Labels of a split: records, their cache, and what a scan found."""
