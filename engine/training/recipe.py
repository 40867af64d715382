"""A training recipe: the hyper-parameters of one YAML in `cfg/train`, in the words of YOLO's hyp files."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from math import isfinite
from pathlib import Path
from typing import Any

from utils.config import find_config, read_yaml
from utils.errors import UserError, nearest, short, shown

GAINS = ("box", "cls", "obj", "dfl")
# Words of other code bases' hyp files that have no counterpart here, with the value that means "off" (None: any value;
# the original does not read it either).
ELSEWHERE = {"paste_in": 0.0, "loss_ota": 1, "iou_t": None, "bgr": 0.0}
# What anchor heads alone have, by the head's argument: the recipe's word, and the value that changes nothing.
OF_ANCHOR_HEADS = {"label_smoothing": ("label_smoothing", 0.0), "focal_gamma": ("fl_gamma", 0.0),
                   "anchor_t": ("anchor_t", 4.0), "cls_pw": ("cls_pw", 1.0), "obj_pw": ("obj_pw", 1.0)}
HUGE = 10 ** 15  # whole numbers from which on a float no longer holds each
# The least and the greatest value; gains and what is not listed: 0 and MOST.
MOST = 1e9
RANGES = {**dict.fromkeys(("lr0", "lrf", "weight_decay", "warmup_bias_lr"), (0.0, 1e3)), "label_smoothing": (0.0, 1.0),
          "anchor_t": (1.0, 1e3)}
MOMENTA = ("momentum", "warmup_momentum")  # from 0 up to, and without, 1
RUN_WORDS = ("epochs", "imgsz", "batch_size", "val_interval")


@dataclass
class Recipe:
    """Optimiser, schedule, loss gains and augmentation of one training; see the comments in `cfg/train/yolov8.yaml`.

    run: what the file suggests for flags that the user did not give. Of anchor heads: anchor_t, by how much a side of
    an anchor may differ from a box's; anchors, how many per level to learn from the data instead of the model's
    (rounded, since evolved files hold fractions; 0 = the model's); fl_gamma, focal loss; cls_pw, obj_pw, weights of
    positives.
    """

    optimizer: str = "auto"
    schedule: str = "linear"
    lr0: float = 0.01
    lrf: float = 0.01
    momentum: float = 0.937
    weight_decay: float = 5e-4
    warmup_epochs: float = 3.0
    warmup_min_iters: int = 100
    warmup_momentum: float = 0.8
    warmup_bias_lr: float = 0.1
    clip_grad: float = 10.0
    label_smoothing: float = 0.0
    anchor_t: float = 4.0
    anchors: float = 0.0
    fl_gamma: float = 0.0
    cls_pw: float = 1.0
    obj_pw: float = 1.0
    close_mosaic: int = 10
    gains: dict[str, float] = field(default_factory=dict)
    augment: dict[str, float] = field(default_factory=dict)
    run: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # what the file asked for and does not get

    def head_options(self) -> dict[str, float]:
        """Arguments for an anchor head, without those that change nothing; other heads have none of them."""
        return {option: getattr(self, word) for option, (word, neutral) in OF_ANCHOR_HEADS.items()
                if getattr(self, word) != neutral}

    def values(self) -> dict[str, Any]:
        """Everything but the notes in one flat mapping, the content of a recipe file."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.default is not MISSING}
        return {**self.run, **own, **self.gains, **self.augment}

    def with_values(self, values: Mapping[str, float]) -> "Recipe":
        """A copy with other numbers for words that it has (`values`)."""
        changed = copy.deepcopy(self)
        for word, value in values.items():
            part = next((p for p in (changed.gains, changed.augment, changed.run) if word in p), None)
            if part is not None:
                part[word] = value
            else:
                setattr(changed, word, value)
        return changed


def load_recipe(name: str | Path, augment_words: Sequence[str], base: Recipe | None = None) -> Recipe:
    """Read a recipe by name or path; what it does not say is taken from the file that its key `base` names, a name in
    `cfg/train` or a path beside it, else from the argument `base`.

    augment_words: the keys that the augmentation understands. Raises `UserError` for an unknown key or a value of the
    wrong kind; keys of other code bases that have no counterpart are listed in `notes`.
    """
    files = _with_bases(find_config(name, "train"))
    whole = "base" in files[-1][1]
    recipe = copy.deepcopy(base) if base and not whole else Recipe()
    for path, content in files:
        for key, value in content.items():
            if key != "base":
                _take(recipe, path, key, value, augment_words)
        _check(recipe, path)
    return recipe


def _with_bases(path: Path) -> list[tuple[Path, dict[str, Any]]]:
    """A recipe file behind those that it is based on, the first one first. `UserError` where they go in circles."""
    files: list[tuple[Path, dict[str, Any]]] = []
    while True:
        if any(path.samefile(seen) for seen, _ in files):
            raise UserError(f"{path}: is its own base, by way of {files[0][0]}; drop the `base` of one of them")
        files.insert(0, (path, read_yaml(path)))
        base = files[0][1].get("base")
        if base is None:
            return files
        if not isinstance(base, str):
            raise UserError(f"{path}: base: expected the name of a recipe, got {shown(base)}")
        beside = path.parent / base
        path = beside if beside.suffix in {".yaml", ".yml"} and beside.is_file() else find_config(base, "train")


def _take(recipe: Recipe, path: Path, key: str, value: Any, augment_words: Sequence[str]) -> None:
    """Put one line of a file into the recipe."""
    own = {f.name: type(f.default) for f in fields(Recipe) if f.default is not MISSING}
    if key in own:
        setattr(recipe, key, _typed(path, key, value, own[key]))
    elif key in GAINS:
        recipe.gains[key] = _typed(path, key, value, float)
    elif key in augment_words:
        recipe.augment[key] = _typed(path, key, value, float)
    elif key in RUN_WORDS:
        recipe.run[key] = _typed(path, key, value, int)
        if recipe.run[key] < 1:
            raise UserError(f"{path}: {key}: {value} should be 1 or more")
    elif key in ELSEWHERE:
        if ELSEWHERE[key] not in (None, value):
            recipe.notes.append(f"{path}: {key}: {value} is not supported and has no effect")
    else:
        known = ["base", *own, *GAINS, *augment_words, *RUN_WORDS]
        raise UserError(f"{path}: unknown key {shown(key)}; {nearest(str(key), known) or 'see cfg/train/yolov8.yaml'}")


def _check(recipe: Recipe, path: Path) -> None:
    if recipe.schedule not in ("cosine", "linear"):
        raise UserError(f"{path}: schedule: {shown(recipe.schedule)} is neither cosine nor linear")
    if recipe.anchor_t <= 1:
        raise UserError(f"{path}: anchor_t: {recipe.anchor_t:g} should be above 1, the usual value is 4")
    for word in ("anchors", "fl_gamma", "cls_pw", "obj_pw"):
        if getattr(recipe, word) < 0:
            raise UserError(f"{path}: {word}: {getattr(recipe, word):g} should not be negative")
    for word in MOMENTA:
        if not 0 <= getattr(recipe, word) < 1:
            raise UserError(f"{path}: {word}: {getattr(recipe, word):g} should be 0 or more and below 1")
    own = {f.name: value for f in fields(Recipe) if isinstance(value := getattr(recipe, f.name), (int, float))}
    for word, value in {**own, **recipe.gains}.items():
        least, most = RANGES.get(word, (0.0, MOST))
        if not least <= value <= most:
            raise UserError(f"{path}: {word}: {value:g} should be {least:g} to {most:g}")


def _typed(path: Path, key: str, value: Any, kind: type) -> Any:
    number = type(value) is float or (type(value) is int and abs(value) < HUGE)
    if type(value) is float and not isfinite(value):
        raise UserError(f"{path}: {short(key)}: expected a finite number, got {value}")
    if kind in (int, float) and number and (kind is float or float(value).is_integer()):
        return kind(value)
    if kind is str and isinstance(value, str):
        return value
    raise UserError(f"{path}: {short(key)}: expected a {kind.__name__}, got {shown(value)}")
