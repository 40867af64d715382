"""Carrying weights into a model: from the original code bases, and from one of our models to another."""

from models.weights.backbone import load_backbone, pixels_note
from models.weights.convert_checkpoint import import_original
from models.weights.originals import Original, read_original
from models.weights.transfer import TransferReport, import_state_dict, transfer

__all__ = ["TransferReport", "Original", "import_original", "import_state_dict", "load_backbone",
           "pixels_note", "read_original", "transfer"]
