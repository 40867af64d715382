"""From a checkpoint of another code base to one of our models: which rows to build, and its numbers in them."""

import copy
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.builder import build_graph
from models.catalogue import head_type, known_models, resolve
from models.details import apply_details
from models.detector import Detector
from models.heads import Head
from models.heads.anchor import anchor_grid, anchors_per_cell
from models.registry import LayerType, lookup, subclasses_of
from models.weights.compare_details import find_details
from models.weights.darknet import is_darknet, translate
from models.weights.originals import Original, read_original
from models.weights.rename import adapted, fits, renamed, with_their_names
from models.weights.transfer import COUNTER, GEOMETRY, TransferReport, import_state_dict
from models.weights.unfold import unfold
from utils.commands import command
from utils.errors import UserError, printable

Config = dict[str, Any]

_NECKS = {"ssfpn": ("conv3d.", "batch3d."), "assn": ("ChannelGate.", "channel_attention.", "SpatialGate.")}


def import_original(path: Path | str, cfg: str | Path | Config | None = None) -> tuple[Detector, TransferReport]:
    """The model in a checkpoint of another code base, and what was carried into it.

    cfg: the model that the file holds, needed where a bare state dict fits none of ours. Raises `UserError` for a file
    that cannot be read, rows that we cannot build, and weights that do not fit them.
    """
    original = read_original(path)
    with described_by(path):
        if is_darknet(original):
            original, cfg = translate(original, cfg)
        elif renames_of(original):
            original = adapted(original, find_head(original.state).cls)
        model, report = _build(original, cfg)
        details = find_details(model.model, original, report.transferred)
    if details:
        apply_details(model.model, details)
        model.config["details"] = details
    if original.names and len(original.names) != model.num_classes:
        report.left["names"] = f"{len(original.names)} class names for {model.num_classes} classes"
    return model, report


@contextmanager
def described_by(path: Path | str) -> Iterator[None]:
    """Errors of building the model that a file describes name the file; what its config confuses is one sentence."""
    try:
        yield
    except UserError as error:
        raise error if str(error).startswith(str(path)) else UserError(f"{path}: {error}", code=error.code) from None
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, RuntimeError, OverflowError, RecursionError,
            ZeroDivisionError, MemoryError) as error:
        text = (str(error).splitlines() or [""])[0][:120]
        raise UserError(f"{path}: the model that it describes cannot be built: {type(error).__name__} "
                        f"({printable(text)})", code="bad-model") from error


def _build(original: Original, cfg: str | Path | Config | None) -> tuple[Detector, TransferReport]:
    """The first of the possible models that the weights fit; where none does, why the likeliest does not."""
    problem, renames = None, renames_of(original)
    for config in _configs(original, cfg):
        model = Detector(config)
        try:
            if renames:
                report = import_state_dict(model, renamed(model.model, original.state, renames))
                return model, with_their_names(report, model.model, original, renames)
            return model, import_state_dict(model, unfold(model, original.state))
        except UserError as error:
            problem = problem or error
    raise problem or _unknown(original)


def _configs(original: Original, cfg: str | Path | Config | None) -> Iterator[Config]:
    if cfg is None and original.description is None:
        found = match_zoo(original.state)
        if found is None:
            raise _unknown(original)
        cfg = found
    if cfg is None:
        config = _described(original)
    else:
        config = resolve(cfg)
        classes = count_classes(original.state, config)
        names = original.names if original.names and len(original.names) == classes else None
        config = resolve(config, classes, names)
    head = find_head(original.state)
    config["options"] = {**config["options"], **(head.cls.state_options(original.state) if head else {})}
    if original.imgsz:
        config["trained"] = {"imgsz": [original.imgsz]}
    for key, value in original.implied.items():
        config[key] = {**(config.get(key) or {}), **value} if isinstance(value, dict) else value
    _set_anchors(config, original)
    yield config
    unscaled = _unscaled(config)
    if unscaled:
        yield unscaled


def _unknown(original: Original) -> UserError:
    return UserError(f"{original.path}: a bare state dict without a model file, and none of our models has these "
                     f"{len(original.state)} tensors; name the model it holds: load_model(path, cfg=...), "
                     f"{command('models.convert')} --cfg ...", code="unknown-model")


def _described(original: Original) -> Config:
    """The config of the model file inside a checkpoint."""
    config = copy.deepcopy(original.description)
    config["source"] = config["name"] = original.path.name
    if "scales" not in config:
        config.pop("scale", None)
    rows = [*config.get("backbone", []), *config["head"]]
    if any(not isinstance(row, list) or len(row) < 4 or not isinstance(row[3], list) for row in rows):
        raise UserError("the model file inside holds rows that are not [from, repeats, module, args]", code="bad-row")
    head = rows[-1][3]
    if len(head) > 1 and isinstance(head[1], list):  # a table written out in the row
        config["anchors"], head[1] = head[1], "anchors"
    if head:
        head[0] = "nc"  # a number there would outlive a change of classes
    kinds = [text for text in original.activations.values() if text != "Identity"]
    if kinds:
        config["activation"] = max(set(kinds), key=kinds.count)
    classes = count_classes(original.state, config) or config.get("nc", len(original.names or ()) or 80)
    names = original.names if original.names and len(original.names) == classes else None
    return resolve(config, classes, names)


def _set_anchors(config: Config, original: Original) -> None:
    """The file's anchors in place of the config's: the buffer in grid units, unless it is the table itself, rounded."""
    grid = anchor_grid(original.state)
    if grid is None:
        return
    strides = original.strides
    if strides is None or len(strides) != len(grid):
        with torch.device("meta"):
            strides = build_graph({**config, "anchors": grid.flatten(1).tolist()})[-1].strides
    pixels = grid.flatten(1) * torch.tensor(strides)[:, None]  # (levels, 2 * anchors)
    try:
        table = torch.tensor(config.get("anchors"), dtype=torch.float32).reshape(pixels.shape)
    except (TypeError, ValueError, RuntimeError):  # a count, as YOLOv5 writes for anchors that it searches itself
        table = None
    if table is None or not torch.allclose(table, pixels, rtol=2e-3):  # fp16 keeps three digits
        config["anchors"] = pixels.tolist()


def _unscaled(config: Config) -> Config | None:
    """The config as Ultralytics before 8.4 built it, where a width that equals the head's own was not scaled."""
    no, table = config["nc"], config.get("anchors")
    if isinstance(table, list):
        no = anchors_per_cell(table) * (no + 5)
    gain, most = config["width_multiple"], config["max_channels"] or 1 << 20
    written = next((w for w in range(1, most + 1) if ceil(w * gain / 8) * 8 == no), None) if no % 8 == 0 else None
    if written is None:
        return None
    config = copy.deepcopy(config)
    changed = 0
    for row in [*config.get("backbone", []), *config["head"]][:-1]:
        if isinstance(row, list) and row[3] and row[3][0] == no != written and any(k.width for k in lookup(row[2])):
            row[3] = [written, *row[3][1:]]
            changed += 1
    return config if changed else None


def find_head(state: dict[str, Tensor]) -> LayerType | None:
    """The head whose `signature` is found in a state dict; of a head and one derived from it the latter."""
    found = [kind for cls, kind in subclasses_of(Head).items()
             if cls.signature and any(re.search(cls.signature, key) for key in state)]
    return max(found, key=lambda kind: len(kind.cls.__mro__), default=None)


def count_classes(state: dict[str, Tensor], config: Config) -> int | None:
    """How many classes the head of a state dict has; None where that does not show, or it has no head that we know."""
    head = find_head(state)
    return head.cls.count_classes(state, config) if head else None


def match_zoo(state: dict[str, Tensor]) -> Config | None:
    """The model of ours whose tensors have the shapes of `state` in its order, if there is one."""
    head = find_head(state)
    if head is None:
        return None
    if head.cls.renames:
        return _match_names(state, head)
    wanted, text = _signature(state), " ".join(state)
    neck = next((name for name, words in _NECKS.items() if any(word in text for word in words)), None)
    for name in known_models():
        try:
            config = resolve(name, neck=neck)
        except UserError:  # this neck does not fit the base
            continue
        kind = head_type(config)
        if not issubclass(kind.cls, head.cls):
            continue
        if kind.cls is not head.cls:
            config = _deployed(config, head.name)
        classes = head.cls.count_classes(state, config)
        if classes is None:
            continue
        config = resolve(config, classes, options=head.cls.state_options(state))
        try:
            with torch.device("meta"):
                graph = build_graph(config)
        except UserError:
            continue
        if _signature(graph.state_dict()) == wanted:
            return config
    return None


def renames_of(original: Original) -> Mapping[str, str]:
    """The renames that the head of a bare state dict declares; none where its names are ours already."""
    head = find_head(original.state) if original.description is None else None
    ours = all(key.startswith("model.") for key in original.state)
    return head.cls.renames if head and not ours else {}


def _match_names(state: Mapping[str, Tensor], head: LayerType) -> Config | None:
    """The model of ours with that head that has a place for each tensor, by the head's renames."""
    for name in known_models():
        config = resolve(name)
        if head_type(config).cls is not head.cls:
            continue
        config = resolve(config, head.cls.count_classes(state, config), options=head.cls.state_options(state))
        with torch.device("meta"):
            graph = build_graph(config)
        if fits(graph, state, head.cls.renames):
            return config
    return None


def _signature(state: dict[str, Tensor]) -> list[tuple[str, tuple[int, ...]]]:
    """What identifies an architecture: the kinds and shapes of its learned tensors in order."""
    return [(key.rpartition(".")[2], tuple(value.shape)) for key, value in state.items()
            if not key.endswith((*GEOMETRY, COUNTER))]


def _deployed(config: Config, head: str) -> Config:
    """The same model with a simpler head, as YOLOv7 and YOLOR release it: no implicit constants, no auxiliary heads."""
    config = copy.deepcopy(config)
    row = config["head"][-1]
    if row[2] == "IAuxDetect":
        lead, aux = row[0][:len(row[0]) // 2], set(row[0][len(row[0]) // 2:])
        config["head"] = [row for row in config["head"] if not (len(row) > 4 and row[4] in aux)]
        row = config["head"][-1]
        row[0] = lead
    row[2] = head
    return config
