"""From ground truth and detections to numbers; without torch, so that files are judged as soon as they are read."""
