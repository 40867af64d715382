"""Inference: one runtime for all model files, export, image and video sources, result files."""
