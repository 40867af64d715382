"""Parsers of label files: from bytes to rows, without knowledge of a split."""
