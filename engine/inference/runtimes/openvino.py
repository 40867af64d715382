"""A detector in a folder of OpenVINO: its network as .xml and .bin, and metadata.yaml."""

from importlib import import_module
from pathlib import Path

import torch
import yaml
from torch import Tensor

from engine.inference.metadata import METADATA_KEY, ExportMetadata
from engine.inference.runtimes.base import Runtime, as_unit, first_line
from utils.errors import UserError
from utils.files import read_plain

FOLDER_SUFFIX = "_openvino_model"
METADATA_FILE = "metadata.yaml"
MAX_METADATA = 1 << 24  # bytes


class OpenVinoRuntime(Runtime):
    """A folder of OpenVINO, compiled for the CPU."""

    def __init__(self, path: Path, device: str | torch.device) -> None:
        try:
            openvino = import_module("openvino")
        except ImportError:
            raise UserError(f"{path}: needs openvino, which is not installed; pip install openvino",
                            "missing-package") from None
        if str(device) not in ("", "cpu"):
            raise UserError(f"--device {device}: OpenVINO files run on the CPU here; use --device cpu", "wrong-device")
        network = network_of(path)
        metadata = ExportMetadata.from_json(_metadata_text(path), path)
        # Stated, since newer CPUs would otherwise compute an fp32 file in bf16.
        precision = {} if metadata.half else {"INFERENCE_PRECISION_HINT": "f32"}
        try:
            self.model = openvino.Core().compile_model(str(network), "CPU",
                                                       {"PERFORMANCE_HINT": "LATENCY", **precision})
        except Exception as error:  # OpenVINO raises RuntimeError and its own classes
            raise UserError(f"{path}: truncated or not of OpenVINO ({first_line(error)}); export it again",
                            "corrupt-file") from None
        missing = [name for name in metadata.outputs if name not in {n for o in self.model.outputs for n in o.names}]
        if missing:
            raise UserError(f"{path}: its network has no output {missing[0]!r}, which its metadata tells of; export it "
                            "again", "corrupt-file")
        super().__init__(path, metadata, torch.device("cpu"))
        self._outputs = list(metadata.outputs)

    def _predict(self, images: Tensor, content: Tensor | None = None) -> list[Tensor]:
        try:
            found = self.model([as_unit(images).cpu().numpy()])
        except Exception as error:  # as above
            raise UserError(f"{self.path}: failed on {list(images.shape)}: {first_line(error)}",
                            "failed-inference") from None
        return [torch.from_numpy(found[name]) for name in self._outputs]


def network_of(folder: Path) -> Path:
    """The .xml of a folder of OpenVINO. Raises `UserError` where there is not one, with its .bin."""
    networks = sorted(folder.glob("*.xml"))
    if len(networks) != 1 or not networks[0].with_suffix(".bin").is_file():
        found = f"{len(networks)} .xml files" if len(networks) != 1 else f"no {networks[0].with_suffix('.bin').name}"
        raise UserError(f"{folder}: {found}, where a folder of OpenVINO holds one .xml with its .bin; give the folder "
                        f"that export.py wrote, such as best{FOLDER_SUFFIX}", "corrupt-file")
    return networks[0]


def _metadata_text(folder: Path) -> str:
    """The entry of `metadata.yaml` that export.py wrote; empty where there is none."""
    try:
        content = yaml.safe_load(read_plain(str(folder / METADATA_FILE), MAX_METADATA).decode())
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        raise UserError(f"{folder}: its {METADATA_FILE} is damaged; export it again", "corrupt-metadata") from None
    text = content.get(METADATA_KEY, "") if isinstance(content, dict) else ""
    return text if isinstance(text, str) else ""
