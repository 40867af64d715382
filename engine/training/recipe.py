"""A training recipe: the hyper-parameters of one YAML in `cfg/train`, by the keys of YOLO's hyp files."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from math import isfinite
from pathlib import Path
from typing import Any

from data.augment.policies import POLICIES, policy_type
from data.augment.policies.policy import Policy
from engine.optim.rules import read_rules
from engine.optim.schedule import NOMINAL_BATCH
from models.heads import Head, RecipeOption
from models.registry import subclasses_of
from utils.config import read_with_bases
from utils.errors import UserError, nearest, short, shown

# Keys of other code bases' hyp files without a counterpart here, with the value that means "off" (None: any value; the
# original does not read it either).
ELSEWHERE = {"paste_in": 0.0, "loss_ota": 1, "iou_t": None, "bgr": 0.0}
HUGE = 10 ** 15  # from here on floats cannot hold every whole number
# The least and the greatest value; gains and what is not listed: 0 and MOST. A head declares those of its options.
MOST = 1e9
MOMENTA = ("momentum", "warmup_momentum", "ema")  # from 0 up to, and without, 1
WORDS = {"schedule": ("cosine", "linear", "steps"), "loss": ("sum", "mean"), "decay": ("weights", "all")}
RUN_KEYS = ("epochs", "imgsz", "batch_size", "val_interval")
RANGES = {"gamma": (0.0, 1.0), "nominal_batch": (0, 65536),
          **dict.fromkeys(("lr0", "lrf", "weight_decay", "warmup_bias_lr"), (0.0, 1e3)),
          **dict.fromkeys(RUN_KEYS, (1, MOST))}
# Keys that one kind of schedule reads: `values` leaves them out of another's.
OF_STEPS, OF_CURVES = ("milestones", "gamma"), ("lrf",)
MAX_MILESTONES = 100
PARTS = ("gains", "head", "augment", "run")  # fields of a recipe that are mappings


@dataclass(frozen=True)
class Recipe:
    """Optimiser, schedule, loss gains and augmentation of one training; see the comments in `cfg/train/yolov8.yaml`.

    schedule: "cosine" or "linear", which end at lrf * lr0, or "steps": at each of `milestones`, epochs counted from 0,
    the rate is multiplied by `gamma`. loss: "sum" over the images of an optimiser step, or their "mean"; nominal_batch:
    images that are accumulated for one, which weight_decay is given for, 0: the batch as it is. nesterov: of SGD; ema:
    decay of the averaged weights, 0: none. decay: whether "weights" alone decay or "all" parameters; groups: mappings
    for `engine.optim.rules`. policy: of augmentation.

    gains: weights of the loss terms; head: options of the head, by the key that it declares (`Head.recipe_options`);
    augment: words of the augmentation policy; run: the file's defaults of flags; anchors: how many per level are fitted
    to the data for an anchor head (rounded, since evolved files hold fractions; 0 = those of the model).
    """

    optimizer: str = "auto"
    schedule: str = "linear"
    lr0: float = 0.01
    lrf: float = 0.01
    milestones: list[int] = field(default_factory=list)
    gamma: float = 0.1
    loss: str = "sum"
    nominal_batch: int = NOMINAL_BATCH
    momentum: float = 0.937
    nesterov: bool = True
    weight_decay: float = 5e-4
    decay: str = "weights"
    groups: list[dict[str, Any]] = field(default_factory=list)
    ema: float = 0.9999
    warmup_epochs: float = 3.0
    warmup_min_iters: int = 100
    warmup_momentum: float = 0.8
    warmup_bias_lr: float = 0.1
    clip_grad: float = 10.0
    anchors: float = 0.0
    policy: str = "yolo"
    close_mosaic: int = 10
    gains: dict[str, float] = field(default_factory=dict)
    head: dict[str, float] = field(default_factory=dict)
    augment: dict[str, float] = field(default_factory=dict)
    run: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # keys of the file that are not supported

    @classmethod
    def from_checkpoint(cls, stored: Mapping[str, Any]) -> "Recipe":
        """The recipe in a checkpoint; earlier versions held the options of the head beside the other keys."""
        own = {f.name for f in fields(cls)}
        older = {key: value for key, value in stored.items() if key not in own}
        return cls(**{**{key: stored[key] for key in own & stored.keys()}, "head": {**older, **stored.get("head", {})}})

    def for_head(self, head: Head | type[Head]) -> "Recipe":
        """A copy with all options of that head, and no others. Raises `UserError` for gains that it does not have, and
        for options of other heads, unless they have their neutral value."""
        foreign = sorted(self.gains.keys() - head.gains.keys())
        if foreign:
            raise UserError(f"gains {', '.join(foreign)} are not among {', '.join(head.gains)}, those of this model's "
                            "head; give a recipe of the model's family", code="unknown-key")
        others = known_options()
        for key in self.head.keys() - head.recipe_options.keys():
            if key not in others or self.head[key] != others[key].neutral:
                flag = " (or --label-smoothing)" if key == "label_smoothing" else ""
                why = "the box loss of this training does not read it; drop it, or choose another with --box-loss"
                if key not in (head if isinstance(head, type) else type(head)).recipe_options:
                    why = "this model's head has no such setting; drop it"
                raise UserError(f"{key} in the recipe{flag}: {why}", code="unknown-key")
        return replace(self, head={key: self.head.get(key, option.neutral)
                                   for key, option in head.recipe_options.items()})

    def make_policy(self, fill: tuple[int, int, int] | None = None) -> Policy:
        """The augmentation policy with the words of this recipe; fill: the colour beside images in the model's frames,
        for a policy that pads as they do."""
        kind, words = policy_type(self.policy), self.augment
        if fill is not None and kind.pads and "fill" not in words:
            words = {**words, "fill": fill[0] if len(set(fill)) == 1 else fill}
        return kind(**words)

    @property
    def has_mosaic(self) -> bool:
        """Whether its policy shows mosaics, which the last epochs may go without."""
        return "mosaic" in augment_keys(self.policy)

    def head_arguments(self, head: Head) -> dict[str, Any]:
        """Arguments for the constructor of that head, beside its gains; neutral options are left out."""
        found: dict[str, Any] = {}
        for key, option in head.recipe_options.items():
            if self.head.get(key, option.neutral) != option.neutral:
                name, _, inner = option.argument.partition(".")
                if inner:
                    found.setdefault(name, {})[inner] = self.head[key]
                else:
                    found[name] = self.head[key]
        return found

    def values(self) -> dict[str, Any]:
        """Everything but the notes as one flat mapping, the content of a recipe file."""
        unread = OF_CURVES if self.schedule == "steps" else OF_STEPS
        own = {name: getattr(self, name) for name in own_keys() if name not in unread}
        return {**self.run, **own, **self.gains, **self.head, **self.augment}

    def with_values(self, values: Mapping[str, float]) -> "Recipe":
        """A copy with other values of keys that it has (`values`)."""
        parts = {part: {key: values.get(key, value) for key, value in getattr(self, part).items()} for part in PARTS}
        inside = {key for part in parts.values() for key in part}
        return replace(self, **parts, **{key: value for key, value in values.items() if key not in inside})


def own_keys() -> dict[str, type]:
    """The keys that a recipe has beside those of its mappings, with their types."""
    default = Recipe()
    return {f.name: type(getattr(default, f.name)) for f in fields(Recipe) if f.name not in (*PARTS, "notes")}


def augment_keys(policy: str) -> dict[str, type]:
    """The words of an augmentation policy, with their types: float for all numbers, list for colours."""
    read_as = {int: float, tuple: list}
    return {f.name: read_as.get(type(f.default), type(f.default)) for f in fields(policy_type(policy))}


def known_gains() -> list[str]:
    """The loss terms of all heads."""
    return list(dict.fromkeys(term for head in subclasses_of(Head) for term in head.gains))


def known_options() -> dict[str, RecipeOption]:
    """The options of all heads, by their keys in a recipe."""
    return {key: option for head in reversed(subclasses_of(Head)) for key, option in head.recipe_options.items()}


def load_recipe(name: str | Path, base: Recipe | None = None) -> Recipe:
    """Read a recipe by name or path. What it does not set is taken from the file that its key `base` names, a name in
    `cfg/train` or a path beside it, else from the argument `base`.

    Gains and options of any registered head are read (`Recipe.for_head` checks them against the model's). Raises
    `UserError` for an unknown key or a value of the wrong type; keys of other code bases that have no counterpart are
    listed in `notes`.
    """
    files = read_with_bases(name, "train")
    recipe = Recipe() if base is None or "base" in files[-1][1] else base
    for path, content in files:
        recipe = _with_file(recipe, path, content)
        _check(recipe, path)
    return recipe


def _with_file(recipe: Recipe, path: Path, content: dict[str, Any]) -> Recipe:
    """The recipe, changed by the content of a file."""
    types, recipe = own_keys(), _with_policy(recipe, path, content)
    words = augment_keys(recipe.policy)
    keys = {"gains": known_gains(), "head": known_options(), "augment": words, "run": RUN_KEYS}
    parts, own, notes = {part: dict(getattr(recipe, part)) for part in PARTS}, {}, list(recipe.notes)
    for key, value in content.items():
        part = next((part for part in PARTS if key in keys[part]), None)
        if key in types:
            own[key] = _typed(path, key, value, types[key])
        elif part:
            kind = {"run": int, "augment": words.get(key)}.get(part, float)
            parts[part][key] = _typed(path, key, value, kind)
        elif key in ELSEWHERE:
            if ELSEWHERE[key] not in (None, value):
                notes.append(f"{path}: {key}: {value} is not supported and has no effect")
        elif key != "base":
            known = ["base", *types, *(key for part in PARTS for key in keys[part])]
            other = next((name for name in POLICIES if key in augment_keys(name)), None)
            hint = f"it is a word of policy {other}, and this recipe's is {recipe.policy}" if other else nearest(
                str(key), known) or "see cfg/train/yolov8.yaml"
            raise UserError(f"{path}: unknown key {shown(key)}; {hint}", code="unknown-key")
    recipe = replace(recipe, **own, **parts, notes=notes)
    if recipe.schedule != "steps" and "milestones" not in content:
        recipe = replace(recipe, milestones=[])  # those of a base with another schedule
    unread = [key for key in (OF_CURVES if recipe.schedule == "steps" else OF_STEPS[1:]) if key in content]
    if unread:
        raise UserError(f"{path}: {unread[0]}: {content[unread[0]]} is not read with schedule: {recipe.schedule}; drop "
                        "it, or give another schedule", code="flag-without-effect")
    return recipe


def _with_policy(recipe: Recipe, path: Path, content: dict[str, Any]) -> Recipe:
    """The recipe with the policy that a file names; words of another one, which its base holds, go."""
    policy = _typed(path, "policy", content.get("policy", recipe.policy), str)
    try:
        policy_type(policy)
    except UserError as error:
        raise UserError(f"{path}: {error}", code=error.code) from None
    if policy == recipe.policy:
        return recipe
    recipe = replace(recipe, policy=policy, augment={})
    return recipe if recipe.has_mosaic else replace(recipe, close_mosaic=0)


def _check(recipe: Recipe, path: Path) -> None:
    """Raises `UserError` for a value out of its range, and for keys that the schedule does not read."""
    for key, known in WORDS.items():
        if getattr(recipe, key) not in known:
            raise UserError(f"{path}: {key}: {shown(getattr(recipe, key))} is none of {', '.join(known)}",
                            code="bad-value")
    read_rules(recipe.groups, str(path))
    _check_milestones(recipe, path)
    for key in MOMENTA:
        if not 0 <= getattr(recipe, key) < 1:
            raise UserError(f"{path}: {key}: {getattr(recipe, key):g} should be 0 or more and below 1",
                            code="bad-value")
    own = {name: getattr(recipe, name) for name, kind in own_keys().items() if kind in (int, float)}
    ranges = {**RANGES, **{key: option.bounds for key, option in known_options().items()}}
    for key, value in {**own, **recipe.gains, **recipe.head, **recipe.run}.items():
        least, most = ranges.get(key, (0.0, MOST))
        if not least <= value <= most:
            raise UserError(f"{path}: {key}: {value:g} should be {least:g} to {most:g}", code="bad-value")


def _check_milestones(recipe: Recipe, path: Path) -> None:
    found, steps = recipe.milestones, recipe.schedule == "steps"
    whole = all(type(epoch) is int and 0 < epoch < MOST for epoch in found)
    if not whole or sorted(set(found)) != found or len(found) > MAX_MILESTONES:
        raise UserError(f"{path}: milestones: {shown(found)} should be epochs in rising order, from 1 on and at most "
                        f"{MAX_MILESTONES} of them", code="bad-value")
    if steps != bool(found):
        cure = "give them, or another schedule" if steps else "which reads none; say `schedule: steps` or `[]`"
        raise UserError(f"{path}: milestones: {found} with schedule: {recipe.schedule}, {cure}",
                        code="flag-without-effect")


def _typed(path: Path, key: str, value: Any, kind: type) -> Any:
    number = type(value) is float or (type(value) is int and abs(value) < HUGE)
    if type(value) is float and not isfinite(value):
        raise UserError(f"{path}: {short(key)}: expected a finite number, got {value}", code="bad-value")
    if kind in (int, float) and number and (kind is float or float(value).is_integer()):
        return kind(value)
    if kind in (str, bool, list) and type(value) is kind:
        return value
    raise UserError(f"{path}: {short(key)}: expected a {kind.__name__}, got {shown(value)}", code="bad-value")
