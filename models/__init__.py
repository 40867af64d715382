"""Detectors: `build_model` makes one by name, `load_model` reads one from a checkpoint."""

from models.catalogue import known_models
from models.detector import Detector, build_model
from models.loading import load_model

__all__ = ["Detector", "build_model", "known_models", "load_model"]
