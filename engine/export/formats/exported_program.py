"""A program as torch.export has it (.pt2): for `torch.compile`, AOTInductor, ExecuTorch and other readers of it."""

import contextlib
import io
import logging
from collections.abc import Iterator
from pathlib import Path

import torch

from engine.export.config import ExportConfig
from engine.export.formats.onnx import example
from engine.export.program import Program
from engine.inference.metadata import METADATA_KEY, ExportMetadata
from engine.inference.runtimes.base import first_line
from utils.errors import UserError

MOST = 1 << 12  # images of a batch, and cells of a side


def write(program: Program, path: Path, metadata: ExportMetadata, config: ExportConfig) -> None:
    """Write a .pt2 file. Free sides have at least two cells: torch.export reads a side of one as a constant.

    Raises `UserError` for a model whose operations depend on values in a way that torch.export does not follow.
    """
    step = metadata.frame.multiple
    dims = torch.export.Dim
    shapes = {0: dims("batch", min=1, max=MOST), 2: step * dims("rows", min=2, max=MOST),
              3: step * dims("columns", min=2, max=MOST)} if config.dynamic else None
    images = example(config.replace(batch_size=max(config.batch_size, 2)) if config.dynamic else config,
                     next(program.parameters()).device)
    held = io.BytesIO()
    try:
        with torch.no_grad(), _quiet():
            exported = torch.export.export(program, (images,), dynamic_shapes={"images": shapes})
            torch.export.save(exported, held, extra_files={f"{METADATA_KEY}.json": metadata.to_json()})
    except Exception as error:  # torch.export's errors share no base class
        raise UserError(f"pt2: torch.export cannot follow this model: {first_line(error)}; use --include onnx",
                        "unsupported-model") from error
    path.write_bytes(held.getvalue())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the pages that torch logs on its way."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
