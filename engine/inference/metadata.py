"""What an exported file says about itself, stored inside it as JSON."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from engine.inference.outputs import LAYOUTS, output_names
from utils.config import MAX_CLASSES, is_number, is_whole
from utils.errors import UserError, printable, shown
from utils.frame import Frame, Pixels
from utils.select import EVALUATION, SELECTORS, SelectConfig

METADATA_FORMAT = "assn-export/1"
METADATA_KEY = "assn"  # the entry of ONNX metadata_props, and the stem of TorchScript's extra file
MAX_METADATA = 1 << 24  # characters


@dataclass(frozen=True)
class ExportMetadata:
    """What must be known to run an exported file.

    names: class names; strides: pixels per cell of each level; size: (height, width) if the file takes no other, else
    None; batch: images per call if fixed, else None; half: weights and most arithmetic in fp16; device: the device type
    that a TorchScript file was traced on and is bound to ("" if not bound); trained: `data` and `imgsz` of the
    training, where known; select: how detections are selected, one of `SELECTORS`; thresholds: the model's own; frame:
    how the model wants images placed, of which `size` is what this file is bound to (default: letterboxed, as all files
    before this entry); pixels: the values that the network reads, made inside the file of RGB in [0, 1]; layout: of the
    outputs (`engine.inference.outputs`); selection: the thresholds by which the file itself selects detections, None
    where that is left to the reader; int8: whether convolutions are computed in 8 bits.
    """

    names: tuple[str, ...]
    strides: tuple[int, ...]
    size: tuple[int, int] | None
    batch: int | None
    half: bool
    device: str = ""
    trained: dict[str, Any] = field(default_factory=dict)
    select: str = "nms"
    thresholds: SelectConfig = EVALUATION
    frame: Frame | None = None
    pixels: Pixels = Pixels()
    layout: str = "plain"
    selection: SelectConfig | None = None
    int8: bool = False
    format: str = METADATA_FORMAT

    def __post_init__(self) -> None:
        if self.frame is None:
            object.__setattr__(self, "frame", Frame(multiple=max(self.strides)))

    @property
    def file_frame(self) -> Frame:
        """The frames that the file takes: those of the model, or its one size."""
        return self.frame.held_to(self.size)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the file's outputs, in order."""
        return output_names(self.layout, self.selection is not None)

    @property
    def precision(self) -> str:
        """Of most of the arithmetic."""
        return "int8" if self.int8 else "float16" if self.half else "float32"

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str, path: Path) -> "ExportMetadata":
        """Read and validate. Raises `UserError` for files that this project, or this version of it, did not write."""
        if not text:
            raise UserError(f"{path}: was not written by this project's export.py (it has no metadata); export it "
                            "again", "foreign-file")
        try:
            content = json.loads(text) if len(text) < MAX_METADATA else None
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            raise UserError(f"{path}: its metadata is damaged; export it again", "corrupt-metadata")
        if content.get("format") != METADATA_FORMAT:
            raise UserError(f"{path}: its metadata has the format {shown(content.get('format'), 60)}, this version "
                            f"reads {METADATA_FORMAT}; export it again", "unsupported-metadata")
        if content.get("select") not in tuple(SELECTORS):
            raise UserError(f"{path}: its selection {shown(content.get('select'), 60)} is not known, known: "
                            f"{', '.join(SELECTORS)}; export it again", "unknown-selection")
        wrong = next((key for key in _CHECKS if key not in content or not _CHECKS[key](content[key])), None) or next(
            (key for key in _LATER if key in content and not _LATER[key](content[key])), None)
        if wrong:
            raise UserError(f"{path}: its metadata is damaged: {wrong} {shown(content.get(wrong))[:80]}; export it "
                            "again", "corrupt-metadata")
        size = content["size"] and tuple(content["size"])
        known = {key: content[key] for key in (*_CHECKS, "trained", "select") if key in content}
        return cls(**{**known, "names": tuple(map(printable, content["names"])), "strides": tuple(content["strides"]),
                      "size": size, "device": str(content.get("device", ""))[:20],
                      "thresholds": _thresholds(content.get("thresholds"), path) or EVALUATION,
                      "selection": _thresholds(content.get("selection"), path),
                      "layout": content.get("layout", "plain"), "int8": content.get("int8", False),
                      "frame": _input(Frame, content, path), "pixels": _input(Pixels, content, path) or Pixels()})


def _input(kind: type[Frame] | type[Pixels], content: dict[str, Any], path: Path) -> Any:
    """The entry `frame` or `pixels`; None where an older file has none."""
    key = kind.__name__.lower()
    stored = content.get(key)
    if stored is None:
        return None
    try:
        if not isinstance(stored, dict):
            raise UserError(f"{key} {shown(stored)[:80]}", "bad-value")
        return kind.from_mapping(stored, "")
    except UserError as error:
        raise UserError(f"{path}: its metadata is damaged: {str(error).removeprefix(': ')}; export it again",
                        "corrupt-metadata") from None


def is_count(value: Any) -> bool:
    """Whether a value is an int from 1 to 65,536."""
    return is_whole(value, 1, 1 << 16)


def is_list_of(value: Any, check: Callable[[Any], bool], most: int) -> bool:
    """Whether a value is a list of 1 to `most` items that all pass `check`."""
    return isinstance(value, list) and 0 < len(value) <= most and all(map(check, value))


def _is_fraction(value: Any) -> bool:
    return is_number(value, 0, 1)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _thresholds(stored: Any, path: Path) -> SelectConfig | None:
    """Thresholds of the metadata; None where it has none."""
    if stored is None:
        return None
    checks = {"conf": _is_fraction, "iou": _is_fraction, "max_det": is_count, "agnostic": _is_bool,
              "multi_label": _is_bool, "per_class": lambda v: v is None or is_count(v)}
    if not isinstance(stored, dict) or not all(check(stored.get(key)) for key, check in checks.items()):
        raise UserError(f"{path}: its metadata is damaged: thresholds {shown(stored)[:80]}; export it again",
                        "corrupt-metadata")
    return SelectConfig(**{key: stored[key] for key in checks})


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "names": lambda v: is_list_of(v, lambda name: isinstance(name, str) and len(name) <= 1000, MAX_CLASSES),
    "strides": lambda v: is_list_of(v, is_count, 16),
    "size": lambda v: v is None or is_list_of(v, is_count, 2) and len(v) == 2,
    "batch": lambda v: v is None or is_count(v), "half": _is_bool}
# Entries that files of before do not have.
_LATER: dict[str, Callable[[Any], bool]] = {"layout": lambda v: v in LAYOUTS, "int8": _is_bool}
