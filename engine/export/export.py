"""Export of a model to one file or folder, which is compared with PyTorch before it replaces an older one.

`images` (B, 3, H, W) float32 RGB in [0, 1] -> what `engine.inference.outputs` describes, float32; with `half` too,
where only the computation between is fp16. Boxes are decoded. A file always reads whole frames: it knows of no padding.
`engine.inference.metadata.ExportMetadata` is stored inside.
"""

import copy
import importlib
import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from engine.export.accuracy import Accuracy, compare_accuracy
from engine.export.config import ExportConfig
from engine.export.formats import exported_program, onnx, openvino, tensorrt, torchscript
from engine.export.formats.table import FORMATS, format_of
from engine.export.gate import Comparison, compare_all
from engine.export.pictures import Pictures, built_in, inputs_of
from engine.export.program import Program
from engine.inference.metadata import ExportMetadata
from engine.inference.runtimes.base import Runtime
from engine.inference.runtimes.checkpoint import TorchRuntime, metadata_of
from engine.inference.runtimes.open import load_runtime
from engine.inference.runtimes.openvino import METADATA_FILE
from utils.errors import UserError
from utils.files import replacing, replacing_folder
from utils.select import SELECTORS
from utils.trusted_exports import remember

WRITERS = {"onnx": onnx.write, "engine": tensorrt.write, "torchscript": torchscript.write,
           "pt2": exported_program.write}


@dataclass(frozen=True)
class Exported:
    """A file or folder that was written, and how it compared with PyTorch. accuracy: where there were labels."""

    path: Path
    comparisons: list[Comparison]
    accuracy: Accuracy | None = None

    @property
    def mebibytes(self) -> float:
        """Size on disk, of a folder of all its files."""
        files = self.path.iterdir() if self.path.is_dir() else [self.path]
        return sum(file.stat().st_size for file in files) / 2**20


def export(model: nn.Module, path: Path, config: ExportConfig, pictures: Pictures | None = None) -> Exported:
    """Write `model` to `path`, in the format that its suffix names.

    model: a Detector on the device to export on; it is not changed. pictures: what it is compared on, by default
    built-in scenes. The file is written beside `path` and moved there if every comparison is within tolerance;
    otherwise raises `UserError` and leaves `path` untouched.
    """
    device, name = next(model.parameters()).device, format_of(path)
    _check(model, path, name, config, device)
    pictures = pictures or built_in(config.size)
    fused = copy.deepcopy(model).eval().fuse().float()
    checked_on = torch.device(FORMATS[name].device) if FORMATS[name].device else device
    reference = TorchRuntime(path, copy.deepcopy(fused), checked_on, half=False)
    program = Program(fused.half() if config.half else fused, config.half,
                      peer=config.layout == "peer" and not config.nms).eval()
    metadata = describe_file(model, config, "" if FORMATS[name].device else device.type)
    try:
        with _replacing(path) as temporary:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # tracing warns of constants; the comparisons below decide
                if name == "openvino":
                    _write_openvino(program, temporary, metadata, config, pictures,
                                    path.name.removesuffix(FORMATS[name].suffix))
                else:
                    WRITERS[name](program, temporary, metadata, config)
            written = load_runtime(temporary, checked_on, trust=True)
            written.path = path  # for its error messages
            comparisons, accuracy = _judge(reference, written, path, config, pictures)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}), and whatever lay there is untouched; give "
                        "another --output", "unwritable-file") from None
    if FORMATS[name].device != "cpu" and not remember(path):
        print(f"warning: {path}: its digest could not be noted in the user's cache folder; detect.py and val.py will "
              "ask for --trust", file=sys.stderr)
    return Exported(path, comparisons, accuracy)


def describe_file(model: nn.Module, config: ExportConfig, device: str) -> ExportMetadata:
    """What the file will say about itself; device: the type that it is bound to, or ""."""
    return replace(metadata_of(model, config.half), size=None if config.dynamic else config.size,
                   batch=None if config.dynamic else config.batch_size, device=device, layout=config.layout,
                   selection=config.selection, int8=config.int8)


def _check(model: nn.Module, path: Path, name: str, config: ExportConfig, device: torch.device) -> None:
    """Refuse, before anything is traced, what cannot be written."""
    if model.head.selection not in tuple(SELECTORS):
        raise UserError(f"{path}: {type(model.head).__name__} selects detections by a function of its own, which no "
                        f"file can hold; a head to export names one of {', '.join(SELECTORS)}", "unknown-selection")
    if config.nms and model.head.selection == "topk" and {"iou_thres", "agnostic_nms"} & set(config.given):
        raise UserError(f"--iou-thres, --agnostic-nms: {type(model.head).__name__} answers with a set, in which no box "
                        "suppresses another; drop them", "flag-without-effect")
    if not FORMATS[name].device and config.half and device.type == "cpu":
        raise UserError(f"--half with {name} needs a GPU: fp16 operators are some hundred times slower on a CPU; "
                        "use --device 0, or --include onnx", "needs-gpu")
    if FORMATS[name].device == "cuda":
        tensorrt.import_tensorrt(path.name)
        if device.type != "cuda":
            raise UserError(f"{path.name}: TensorRT builds an engine on the GPU that runs it; use --device 0, or "
                            "--include onnx", "needs-gpu")
    packages = [*FORMATS[name].packages, *["onnxslim"] * config.simplify, *["nncf"] * config.int8]
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError:
            raise UserError(f"{path.name}: needs {package}, which is not installed; pip install {package}",
                            "missing-package") from None


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary file, or folder, that replaces `path` when the block ends without an error."""
    is_folder = format_of(path) == "openvino"
    context: AbstractContextManager[Path] = replacing_folder(path, lambda name: name == METADATA_FILE or name.endswith(
        (".xml", ".bin"))) if is_folder else replacing(path)
    with context as temporary:
        yield temporary


def _write_openvino(program: Program, folder: Path, metadata: ExportMetadata, config: ExportConfig,
                    pictures: Pictures, name: str) -> None:
    """Write a folder of OpenVINO with the files `name`.xml, .bin; its convolutions in 8 bits on request."""
    network = openvino.convert(program, metadata, config)
    if config.int8:
        placing = Runtime(folder, metadata, torch.device("cpu"))
        network = openvino.quantise(network, pictures.training or pictures, placing, config.size)
    openvino.save(network, folder, metadata, name)


def _judge(reference: Runtime, written: Runtime, path: Path, config: ExportConfig,
           pictures: Pictures) -> tuple[list[Comparison], Accuracy | None]:
    """Compare a written file with PyTorch. Raises `UserError` where it differs by more than is allowed."""
    inputs = inputs_of(pictures, written, config.batch_size, config.size)
    comparisons = compare_all(inputs, reference, written, path)
    if pictures.skipped:
        first, why = next(iter(pictures.skipped.items()))
        print(f"--data: {len(pictures.skipped)} images cannot be read and were left out, such as {first}: {why}",
              file=sys.stderr)
    if pictures.index is None:
        return comparisons, None
    return comparisons, compare_accuracy(pictures.index, config.data, reference, written, config.size, path)
