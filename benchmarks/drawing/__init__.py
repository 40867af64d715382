"""Pictures of detections beside those of other programs."""
