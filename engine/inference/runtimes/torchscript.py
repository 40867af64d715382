"""A detector that export.py traced as TorchScript, which is a program."""

import warnings
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from engine.inference.metadata import METADATA_KEY, ExportMetadata
from engine.inference.runtimes.base import Runtime, as_unit, first_line
from utils.device import select_device
from utils.errors import UserError
from utils.trusted_exports import check_own


class TorchScriptRuntime(Runtime):
    """A traced file; it runs only on the type of device it was traced on, which tracing stores in the file."""

    def __init__(self, path: Path, device: str | torch.device, trust: bool = False) -> None:
        try:
            is_archive = zipfile.is_zipfile(path)
        except zipfile.BadZipFile:
            is_archive = False
        if not is_archive:
            raise UserError(f"{path}: truncated or not TorchScript; export it again", "corrupt-file")
        check_own(path, "a TorchScript program", trust)
        extra = {f"{METADATA_KEY}.json": ""}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # "deprecated"; its successor needs a compiler
                self.module = torch.jit.load(path, map_location="cpu", _extra_files=extra)
        except (RuntimeError, ValueError, OSError) as error:
            raise UserError(f"{path}: truncated or not TorchScript ({first_line(error)}); export it again",
                            "corrupt-file") from None
        text = extra[f"{METADATA_KEY}.json"]
        metadata = ExportMetadata.from_json(text.decode(errors="replace") if isinstance(text, bytes) else text, path)
        chosen = select_device(metadata.device if device == "" else str(device))
        if (chosen.type, chosen.index or 0) != (metadata.device, 0):
            own, other = ("cpu", "0") if metadata.device == "cpu" else ("0", "cpu")
            raise UserError(f"{path}: was traced for --device {own} and runs only there; give that here, or export it "
                            f"again with --device {other}", "wrong-device")
        super().__init__(path, metadata, chosen)
        self.module.to(chosen).eval()

    def _predict(self, images: Tensor, content: Tensor | None = None) -> tuple[Tensor, ...] | Tensor:
        try:
            return self.module(as_unit(images))
        except RuntimeError as error:
            raise UserError(f"{self.path}: failed on {list(images.shape)}: {str(error).strip()[-150:]!r}",
                            "failed-inference") from None
