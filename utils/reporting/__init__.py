"""What a run writes and prints: logs, trackers and drawing."""
