"""Carrying weights into a model: from the original code bases, and from one of our models to another."""

from models.weights.carry import CarryReport, import_state_dict, transfer
from models.weights.importing import import_original
from models.weights.originals import Original, read_original

__all__ = ["CarryReport", "Original", "import_original", "import_state_dict", "read_original", "transfer"]
