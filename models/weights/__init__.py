"""Carrying weights into a model: from the original code bases, and from one of our models to another."""

from models.weights.carry import CarryReport, import_state_dict, transfer

__all__ = ["CarryReport", "import_state_dict", "transfer"]
