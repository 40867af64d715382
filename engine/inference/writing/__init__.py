"""The kinds of result files of detect.py."""
