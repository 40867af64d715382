"""A detector that torch.export wrote (.pt2), which is a program."""

import contextlib
import io
import logging
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from engine.inference.metadata import METADATA_KEY, ExportMetadata
from engine.inference.runtimes.base import Runtime, as_unit, first_line
from utils.device import select_device
from utils.errors import UserError
from utils.trusted_exports import check_own


class ExportedProgramRuntime(Runtime):
    """A file of torch.export. torch unpickles parts of it, so it is read only if export.py wrote it here."""

    def __init__(self, path: Path, device: str | torch.device, trust: bool = False) -> None:
        if not zipfile.is_zipfile(path):
            raise UserError(f"{path}: truncated or not of torch.export; export it again", "corrupt-file")
        check_own(path, "a program of torch.export", trust)
        extra = {f"{METADATA_KEY}.json": ""}
        logger = logging.getLogger("torch.export")
        level = logger.level
        try:
            logger.setLevel(logging.CRITICAL)  # it logs a traceback of what is raised too
            with contextlib.redirect_stderr(io.StringIO()):
                program = torch.export.load(str(path), extra_files=extra)
        except Exception as error:  # whatever a damaged archive makes of itself
            raise UserError(f"{path}: truncated or not of torch.export ({first_line(error)}); export it again",
                            "corrupt-file") from None
        finally:
            logger.setLevel(level)
        metadata = ExportMetadata.from_json(extra[f"{METADATA_KEY}.json"], path)
        chosen = select_device(metadata.device if device == "" else str(device))
        if chosen.type != metadata.device:
            own, other = ("cpu", "0") if metadata.device == "cpu" else ("0", "cpu")
            raise UserError(f"{path}: was exported for --device {own} and runs only there; give that here, or export "
                            f"it again with --device {other}", "wrong-device")
        super().__init__(path, metadata, chosen)
        self.module = program.module()

    def _predict(self, images: Tensor, content: Tensor | None = None) -> tuple[Tensor, ...] | Tensor:
        try:
            return self.module(as_unit(images))
        except (RuntimeError, AssertionError, ValueError) as error:
            raise UserError(f"{self.path}: failed on {list(images.shape)}: {first_line(error)}",
                            "failed-inference") from None
