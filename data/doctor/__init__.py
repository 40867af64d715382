"""The dataset doctor: what a dataset holds and what is suspicious in it."""
