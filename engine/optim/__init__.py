"""Optimiser, parameter groups, learning-rate schedule and averaged weights."""
