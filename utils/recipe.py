"""A training recipe: the hyper-parameters of one YAML in `cfg/train`, in the words of YOLO's hyp files."""

import copy
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from utils.config import find_config, read_yaml
from utils.errors import UserError, nearest

GAINS = ("box", "cls", "obj", "dfl")
# Words of other code bases' hyp files that have no counterpart here, with the value that means "off" (None: any value;
# the original does not read it either).
ELSEWHERE = {"cls_pw": 1.0, "obj_pw": 1.0, "fl_gamma": 0.0, "copy_paste": 0.0, "paste_in": 0.0, "anchor_t": 4.0,
             "loss_ota": 1, "iou_t": None, "anchors": 3, "bgr": 0.0}


RUN_WORDS = ("epochs", "imgsz", "batch_size", "val_interval")


@dataclass
class Recipe:
    """Optimiser, schedule, loss gains and augmentation of one training; see the comments in `cfg/train/yolov8.yaml`.

    run: what the file suggests for flags that the user did not give.
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
    close_mosaic: int = 10
    gains: dict[str, float] = field(default_factory=dict)
    augment: dict[str, float] = field(default_factory=dict)
    run: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # what the file asked for and does not get


def load_recipe(name: str | Path, augment_words: Sequence[str], base: Recipe | None = None) -> Recipe:
    """Read a recipe by name or path; what it does not say is taken from `base`.

    augment_words: the keys that the augmentation understands. Raises `UserError` for an unknown key or a value of the
    wrong kind; keys of other code bases that have no counterpart are listed in `notes`.
    """
    path = find_config(name, "train")
    recipe = copy.deepcopy(base) if base else Recipe()
    own = {f.name: type(f.default) for f in fields(Recipe) if f.default is not MISSING}
    for key, value in read_yaml(path).items():
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
            known = [*own, *GAINS, *augment_words, *RUN_WORDS]
            raise UserError(f"{path}: unknown key {key!r}; {nearest(str(key), known) or 'see cfg/train/yolov8.yaml'}")
    if recipe.schedule not in ("cosine", "linear"):
        raise UserError(f"{path}: schedule: {recipe.schedule!r} is neither cosine nor linear")
    return recipe


def _typed(path: Path, key: str, value: Any, kind: type) -> Any:
    if kind in (int, float) and isinstance(value, (int, float)) and not isinstance(value, bool) and (
            kind is float or float(value).is_integer()):
        return kind(value)
    if kind is str and isinstance(value, str):
        return value
    raise UserError(f"{path}: {key}: expected a {kind.__name__}, got {value!r}")
