"""The size of the frame that a model is exported for."""

from pathlib import Path

from torch import nn

from engine.export.config import ExportConfig
from utils.errors import UserError


def export_size(model: nn.Module, config: ExportConfig) -> tuple[int, int]:
    """(height, width) of the frame to export for: `--imgsz`, or that of the training, as the model's frame takes it.

    Raises `UserError` for another size than a fixed one, and for `--dynamic` where the size is fixed, or would be in
    the file.
    """
    frame, name = model.frame, Path(config.weights).name
    if config.dynamic and not model.head.free_size:
        raise UserError(f"--dynamic: {type(model.head).__name__}, the head of {name}, takes numbers from the size of "
                        "the frame that a file cannot work out again; drop the flag, and export once for each --imgsz",
                        "fixed-size")
    if config.dynamic and frame.size is not None:
        raise UserError(f"--dynamic: {name} is a model of images of {frame.size[0]} x {frame.size[1]} pixels alone; "
                        "drop the flag", "fixed-size")
    trained = model.config.get("trained", {}).get("imgsz", [])[-1:] if frame.size is None else None
    wanted = config.imgsz or trained or None
    if not frame.fits_images:
        return frame.up(frame.round(wanted, name))
    is_given = wanted is not None and len(wanted) == 2
    size = frame.up(tuple(wanted) if is_given else frame.round(wanted, name))  # given, it may be tall
    if not config.dynamic and not is_given:
        print(f"{name} has frames that fit each image; this file has one, {size[0]} x {size[1]}, in which tall images "
              f"get smaller: {'--dynamic leaves it free' if model.head.free_size else '--imgsz H W chooses another'}")
    return size
