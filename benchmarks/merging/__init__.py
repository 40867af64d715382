"""Time of merging boxes, beside other programs."""
