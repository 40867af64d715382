"""Merging boxes that several views of an image found: suppression, merging, and weighted fusion."""
