"""Reading a checkpoint of another code base: its tensors by name, and what else it states.

Pickled models arrive as inert records (`utils.pickles`); torch's own attributes of a module (`_parameters`,
`_buffers`, `_modules`) give the names of tensors, and ordinary ones the class names, the model file and the strides.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor

from models.weights.addresses import require_file
from utils.archive import open_archive
from utils.config import MAX_CLASSES
from utils.errors import UserError
from utils.pickles import Record, StoredTensor

DEPTH, MOST = 60, 20_000  # of modules inside modules, and of modules; files beyond them are built to exhaust readers
_ACTIVATIONS = {"mishcuda": "Mish", "memoryefficientmish": "Mish", "swish": "SiLU", "memoryefficientswish": "SiLU"}
_WORDS = ("backbone", "head", "depth_multiple", "width_multiple", "scales", "scale", "activation", "nc", "anchors")


@dataclass
class Original:
    """A checkpoint of another code base.

    state: its tensors in their order, floating ones as float32. part: where they were found. description: the model
    file that it carries, reduced to the keys that describe the model; None for a bare state dict. names: of its
    classes. strides: of the head's levels in pixels, where stored. norms: eps and momentum of each batch norm by name;
    activations: what each `act` is, by name. imgsz: the size of training images, where stored. implied: keys of a model
    file that its head says such weights need (`Head.adapt_original`); derived: names of tensors that the head does not
    take, since it works them out itself.
    """

    path: Path
    part: str
    state: dict[str, Tensor]
    description: dict[str, Any] | None = None
    names: list[str] | None = None
    strides: list[float] | None = None
    norms: dict[str, list[float | None]] = field(default_factory=dict)
    activations: dict[str, str] = field(default_factory=dict)
    imgsz: int | None = None
    implied: dict[str, Any] = field(default_factory=dict)
    derived: list[str] = field(default_factory=list)


def read_original(path: Path | str) -> Original:
    """Read a `.pt` or `.pth` file of YOLOv3, v4, v5, YOLOR, v7, v8, their forks, or a state dict.

    The averaged weights (`ema`) are preferred where there are any. Nothing in the file is executed or imported. Raises
    `UserError` for a file that is truncated, holds no model, or calls what no checkpoint needs.
    """
    path = Path(path)
    require_file(path)
    with open_archive(path) as content:
        part, found = _choose(content, path)
        if not isinstance(found, Record):
            state = {str(k).removeprefix("module."): v for k, v in found.items()}
            return Original(path, part, {k: _loaded(v, k) for k, v in state.items()}, names=_names(content),
                            imgsz=_image_size(content))
        model = _unwrap(found)
        attributes = model.attributes
        modules = dict(islice(_modules(model), MOST))
        if sum(len(r.state) if isinstance(r.state, dict) else 1 for r in modules.values()) > MOST * DEPTH:
            raise ValueError("modules with more attributes than any model has")
        head = next((r.attributes for r in reversed(modules.values()) if "stride" in r.attributes
                     and ("nl" in r.attributes or "anchors" in r.attributes)), {})
        return Original(
            path, part, {k: _loaded(v, k) for k, v in _tensors(modules)}, _description(attributes.get("yaml")),
            _names(attributes) or _names(content), _numbers(attributes.get("stride")) or _numbers(head.get("stride")),
            {k: [r.attributes.get("eps"), r.attributes.get("momentum")] for k, r in modules.items()
             if "BatchNorm" in r.path and isinstance(r.attributes.get("eps"), float)},
            {k: _activation(r) for k, r in modules.items() if k.endswith(".act")}, _image_size(content))


def _choose(content: Any, path: Path) -> tuple[str, Any]:
    """The model: a record of a module, or a dict of tensors."""
    if _is_module(content):
        return "model", content
    if isinstance(content, dict):
        for key in ("ema", "model", "state_dict", "model_state_dict"):
            value = content.get(key)
            if isinstance(value, tuple) and value:  # YOLOv5 of 2020 kept (model, updates)
                value = value[0]
            if _is_module(value) or _is_state(value):
                return key, value
        if _is_state(content):
            return "state dict", content
    what = f"the keys {', '.join(map(str, list(content)[:6]))}" if isinstance(content, dict) else f"a {_kind(content)}"
    raise UserError(f"{path}: holds {what} and no model, neither a pickled one nor a dict of tensors",
                    code="not-a-checkpoint")


def _kind(value: Any) -> str:
    return value.path if isinstance(value, Record) else getattr(value, "name", type(value).__name__)


def _is_module(value: Any) -> bool:
    return isinstance(value, Record) and isinstance(value.attributes.get("_modules"), dict)


def _is_state(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(v, StoredTensor) for v in value.values())


def _unwrap(model: Record) -> Record:
    """Out of DataParallel, AutoShape and the like, to the module that carries the model file, if any does."""
    inner = model
    for _ in range(DEPTH):
        children = inner.attributes["_modules"]
        child = children.get("module", children.get("model"))
        if "yaml" in inner.attributes:
            return inner
        if not _is_module(child):
            break
        inner = child
    while "Parallel" in model.path and _is_module(model.attributes["_modules"].get("module")):
        model = model.attributes["_modules"]["module"]
    return model


def _modules(module: Record, name: str = "", depth: int = 0) -> Iterator[tuple[str, Record]]:
    """A module and all below it, by dotted name, in torch's order."""
    if depth > DEPTH:
        raise ValueError(f"modules more than {DEPTH} deep at {name[:80]}")
    yield name, module
    for key, child in module.attributes["_modules"].items():
        if _is_module(child):
            yield from _modules(child, f"{name}.{key}" if name else str(key), depth + 1)


def _tensors(modules: dict[str, Record]) -> Iterator[tuple[str, StoredTensor]]:
    """Parameters and persistent buffers of modules, by name."""
    for name, module in modules.items():
        own = module.attributes
        passing = own.get("_non_persistent_buffers_set") or ()
        for part in ("_parameters", "_buffers"):
            for key, value in (own.get(part) or {}).items():
                if value is not None and not (part == "_buffers" and key in passing):
                    yield (f"{name}.{key}" if name else str(key)), value


def _loaded(value: Any, key: str) -> Tensor:
    """The tensor, floating ones in float32: batch norms must be folded in that."""
    if not isinstance(value, StoredTensor):
        raise ValueError(f"{key} is no tensor but a {_kind(value)}")
    tensor = value.load()
    return tensor.float() if tensor.is_floating_point() else tensor


def _plain(value: Any, left: list[int], depth: int = 8) -> Any:
    """Containers, texts and numbers as YAML has them; a class by its name. left: how many more there may be."""
    left[0] -= 1
    if not depth or left[0] < 0 or isinstance(value, dict | list | tuple) and len(value) > 2000:
        raise ValueError("an embedded model file that is nested or goes on without end")
    if isinstance(value, dict):
        return {k if isinstance(k, int) else _text(k): _plain(v, left, depth - 1) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, left, depth - 1) for v in value]
    if isinstance(value, type) and issubclass(value, Record):
        return value.path.rpartition(".")[2]
    return value if value is None or isinstance(value, bool | int | float | str) else _kind(value)


def _description(yaml: Any) -> dict[str, Any] | None:
    """The embedded model file."""
    if not isinstance(yaml, dict) or "head" not in yaml:
        return None
    left = [20_000]
    return {word: _plain(yaml[word], left) for word in _WORDS if yaml.get(word) not in (None, "")}


def _names(owner: Any) -> list[str] | None:
    """Class names, which are a list or a dict by number."""
    names = owner.get("names") if isinstance(owner, dict) else None
    if isinstance(names, dict) and all(isinstance(k, int | str) and _text(k).isdecimal() for k in names):
        names = [names[k] for k in sorted(names, key=int)]
    if not isinstance(names, list | tuple) or not names:
        return None
    if len(names) > MAX_CLASSES:
        raise ValueError(f"{len(names):,} class names; at most {MAX_CLASSES:,} are read")
    return [_text(n) for n in names]


def _text(value: Any) -> str:
    """A key or a class name, which may be a number. Raises ValueError for containers and for texts without end."""
    if not isinstance(value, str | int | float | bool | None) or isinstance(value, str) and len(value) > 1000:
        raise ValueError(f"a name that is a {_kind(value)}, or longer than 1000 letters")
    return str(value)


def _numbers(value: Any) -> list[float] | None:
    """A stored vector, as a list."""
    if isinstance(value, StoredTensor) and len(value.shape) == 1 and 0 < value.shape[0] <= 16:
        return value.load().float().tolist()
    if isinstance(value, list | tuple) and 0 < len(value) <= 16 and all(isinstance(v, int | float) for v in value):
        return [float(v) for v in value]
    return None


def _activation(record: Record) -> str:
    """The activation that a module is, in the words of model files."""
    name = record.path.rpartition(".")[2]
    name = _ACTIVATIONS.get(name.lower(), name)
    options = {"LeakyReLU": "negative_slope", "ELU": "alpha"}
    value = record.attributes.get(options.get(name, ""))
    return f"nn.{name}({value})" if isinstance(value, int | float) else name


def _image_size(content: Any) -> int | None:
    """Side of the training images in pixels, from the settings that the file keeps."""
    for key in ("train_args", "opt"):
        settings = content.get(key) if isinstance(content, dict) else None
        size = settings.get("imgsz", settings.get("img_size")) if isinstance(settings, dict) else None
        size = size[0] if isinstance(size, list) and size else size
        if isinstance(size, int) and 0 < size <= 8192 and size % 32 == 0:
            return size
    return None
