"""Inference: one runtime for all model files, image and video sources, result files."""
