"""Whole runs of detect.py beside a peer's command line: start-up, a folder, a video."""
