"""Training augmentation: a plan holds every random decision, a renderer draws it."""
