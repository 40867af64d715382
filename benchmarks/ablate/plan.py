"""What an ablation trains: arms, which are flags of train.py, times seeds; all checked before anything is trained."""

import contextlib
import hashlib
import io
import itertools
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data import load_index
from engine.training.config import DEFAULT_MODEL, TrainConfig
from engine.training.fingerprint import fingerprint
from engine.training.setup import start_model
from models import load_model
from models.catalogue import resolve
from models.plugins import load_plugins
from models.summary import summarise
from utils.cli import flag_of
from utils.config import read_yaml
from utils.errors import UserError, parse_words, short

# Flags of train.py of which several values make arms.
GRID = ("cfg", "neck", "levels", "box_loss", "assign", "start", "neck_lr", "copy_paste_small", "hyp", "weights")
NUMBERS = ("neck_lr", "copy_paste_small")  # are named with their flag
OF_NECKS = ("start", "neck_lr")  # say nothing where there is no neck
BUDGET = ("imgsz", "epochs", "batch_size", "tile")
# What is measured, or how: must be the same for all arms.
SHARED = ("data", "single_cls", "max_pixels", "protocol", "size_bins", "eval_iou", "plugin")
# Set by this program, or no training of its own.
OWN = ("seed", "project", "name", "exist_ok", "resume", "allow_data_change", "device", "workers", "noplots", "nosave",
       "evolve", "storage", "study", "audit_assignment", "replay", "logger")


@dataclass(frozen=True)
class Arm:
    """One setting. words: its flags of train.py; config: as train.py reads them with the shared ones; parameters and
    flops (of one image at the size of training): of its model."""

    name: str
    words: tuple[str, ...]
    config: TrainConfig
    parameters: int = 0
    flops: float = 0.0


@dataclass(frozen=True)
class Run:
    """One training of an arm. words: all flags of train.py that say what is computed."""

    arm: Arm
    seed: int
    words: tuple[str, ...]

    @property
    def key(self) -> str:
        return f"{self.arm.name}-seed{self.seed}"


@dataclass(frozen=True)
class Plan:
    """All runs, seed by seed, so that an unfinished table already compares the arms.

    split: that the results are reported on; data: fingerprints of the splits; notes: what was decided for the user.
    """

    arms: list[Arm]
    seeds: list[int]
    shared: tuple[str, ...]
    split: str
    data: dict[str, Any]
    notes: list[str] = field(default_factory=list)

    @property
    def runs(self) -> list[Run]:
        return [Run(arm, seed, (*self.shared, *arm.words, "--seed", str(seed))) for seed in self.seeds
                for arm in self.arms]

    @property
    def digest(self) -> str:
        """Of the data: equal where images and labels are."""
        return hashlib.blake2b(json.dumps(self.data, sort_keys=True).encode(), digest_size=8).hexdigest()


def seeds_of(numbers: Sequence[int]) -> list[int]:
    """`--seeds 5` are 0 to 4, `--seeds 0 1 7` these."""
    return list(range(numbers[0])) if len(numbers) == 1 else list(dict.fromkeys(numbers))


def grid(values: Mapping[str, Sequence[str]]) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of a grid, named by the flags with several values, and notes: on what all have in common, and on
    combinations that are one and the same (without a neck there is no start of one)."""
    rows, notes = [], []
    same = {name: texts[0] for name, texts in values.items() if len(texts) == 1}
    if same and len(same) < len(values):
        notes.append(f"the same in all arms: {' '.join(words_of(same))}")
    for combination in itertools.product(*values.values()):
        row = dict(zip(values, combination, strict=True))
        idle = [name for name in OF_NECKS if name in row] if not _has_neck(row) else []
        kept = {name: value for name, value in row.items() if name not in idle}
        if len(same) < len(values):
            kept["name"] = name_of({name: value for name, value in kept.items() if name not in same} or kept)
        if kept not in rows:
            rows.append(kept)
            if idle:
                what = " ".join(flag_of(name) for name in idle)
                notes.append(f"{name_of(kept)}: has no added neck, so {what} says nothing: one arm")
    return rows, notes


def _has_neck(row: Mapping[str, str]) -> bool:
    """Whether a row's model has a neck of this project beside its own. Raises `UserError` for unknown models."""
    model = row.get("cfg") or (load_model(row["weights"]).config if row.get("weights") else DEFAULT_MODEL)
    return resolve(model, neck=row.get("neck"))["neck"] is not None


def listed(path: str) -> list[dict[str, Any]]:
    """The rows below `arms:` of a YAML: mappings of train.py's flags, and `name` of the arm where one is wanted."""
    rows = read_yaml(path).get("arms")
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{path}: no list `arms:` in it, with rows such as {{neck: assn, box_loss: sca}}", "bad-row")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not all(isinstance(key, str) for key in row):
            raise UserError(f"{path}: row {number} of `arms:` is {short(row)}; expected flags of train.py, such as "
                            "{neck: assn, box_loss: sca}", "bad-row")
    return [{key.replace("-", "_"): value for key, value in row.items()} for row in rows]


def words_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The flags of a row as words; True is a switch, None and False are left out."""
    words: list[str] = []
    for key, value in row.items():
        if key != "name" and value is not None and value is not False:
            values = [] if value is True else value if isinstance(value, list) else [value]
            words += [flag_of(key), *map(str, values)]
    return tuple(words)


def name_of(row: Mapping[str, Any]) -> str:
    """What an arm is called: its `name`, or its values; it names files too."""
    if row.get("name"):
        return slug(str(row["name"]))
    parts = []
    for key, value in row.items():
        text = "-".join(Path(str(one)).stem if str(one).endswith((".yaml", ".yml", ".pt")) else str(one)
                        for one in (value if isinstance(value, list) else [value]))
        parts.append(text if key in GRID and key not in NUMBERS else f"{key}-{text}" if value is not True else key)
    return slug("-".join(parts)) or "default"


def slug(text: str) -> str:
    """A text as the name of a file."""
    return re.sub(r"[^\w.@]+", "-", text, flags=re.ASCII).strip("-.")[:100]


def parse(words: Sequence[str]) -> TrainConfig:
    """The settings that train.py would read. Raises `UserError` where it would refuse them."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            return TrainConfig.from_args(parse_words(TrainConfig.parser("", "train"), list(words))).check(1)
    except SystemExit:
        text = said.getvalue().strip().removeprefix("error: ") or "asks for help"
        raise UserError(f"{shlex.join(words)}: {text}", "bad-flag") from None


def make_plan(rows: Sequence[Mapping[str, Any]], shared: Sequence[str], seeds: list[int],
              notes: Sequence[str] = ()) -> Plan:
    """Check all rows as train.py would, build each model once, and fingerprint the data.

    shared: words of train.py for all runs. Raises one `UserError` that names every row that cannot be trained.
    """
    given = parse(shared)
    taken = [flag_of(name) for name in given.given if name in OWN]
    if taken:
        raise UserError(f"{' '.join(taken)}: set by this program for every run; drop it", "flag-conflict")
    load_plugins(given.plugin)
    data = given.data or "shapes"
    indices = {split: load_index(data, split, single_cls=given.single_cls, max_pixels=given.max_pixels)
               for split in ("train", "val")}
    notes = list(notes)
    try:
        indices["test"] = load_index(data, "test", single_cls=given.single_cls, max_pixels=given.max_pixels)
    except UserError as error:
        if error.code != "missing-split":
            raise
        notes.append(f"{data} has no test split: results are those of the validation split, which also chose best.pt")
    arms = _checked(rows, tuple(shared), indices["train"].names, notes)
    return Plan(arms, seeds, tuple(shared), "test" if "test" in indices else "val",
                {split: fingerprint(index) for split, index in indices.items()}, notes)


def _checked(rows: Sequence[Mapping[str, Any]], shared: tuple[str, ...], names: list[str],
             notes: list[str]) -> list[Arm]:
    arms: dict[str, Arm] = {}  # by what they train
    wrong = []
    for row in rows:
        name = name_of(row)
        try:
            arm, what = _built(name, row, shared, names)
        except UserError as error:
            wrong.append(f"{name}: {error}")
            continue
        if what in arms:
            notes.append(f"{name} trains the same as {arms[what].name}: one arm")
        else:
            arms[what] = arm
    if wrong:
        raise UserError(f"{len(wrong)} of {len(rows)} arms cannot be trained, and nothing was started: "
                        f"{'; '.join(wrong[:5])}{' ...' * (len(wrong) > 5)}; leave them out (--list takes any choice)",
                        "bad-arm")
    if not arms:
        raise UserError("no arms: give several values of a flag, or a --list with rows", "no-arms")
    named = [arm.name for arm in arms.values()]
    return [replace(arm, name=f"{arm.name}-{_digest(arm.words)}") if named.count(arm.name) > 1 else arm
            for arm in arms.values()]


def _digest(words: Sequence[str]) -> str:
    return hashlib.blake2b("\0".join(words).encode(), digest_size=3).hexdigest()


def _built(name: str, row: Mapping[str, Any], shared: tuple[str, ...], names: list[str]) -> tuple[Arm, str]:
    """An arm, and a text that is equal for arms that train the same: its model is built as train.py builds it."""
    refused = [flag_of(key) for key in row if key in OWN and key != "name" or key in SHARED]
    if refused:
        raise UserError(f"{' '.join(refused)} cannot differ between arms; give it once, behind --", "flag-conflict")
    words = words_of(row)
    config = parse((*shared, *words))
    with contextlib.redirect_stdout(io.StringIO()):  # its notes stand in the log of each run
        model, resolved, recipe = start_model(config.replace(noautoanchor=True), names, lambda placement: None)
    lines = summarise(model, model.frame.up(model.frame.resolve(max(resolved.imgsz))))
    what = {key: value for key, value in resolved.to_dict().items() if key not in ("cfg", "neck", "hyp")}
    told = {key: value for key, value in model.config.items() if key not in ("name", "source")}
    text = json.dumps([what, told, vars(recipe)], sort_keys=True, default=str)
    return Arm(name, words, config, sum(line.params for line in lines), float(sum(line.flops for line in lines))), text


def budget(plan: Plan) -> str:
    """A sentence on what all arms have in common, or where they differ."""
    differing = [name for name in BUDGET if len({getattr(arm.config, name) for arm in plan.arms}) > 1]
    if differing:
        return f"BUDGETS DIFFER between arms: {', '.join(flag_of(name) for name in differing)}"
    first = plan.arms[0].config
    said = [f"{name.replace('_', ' ')} {' '.join(map(str, value)) if isinstance(value, tuple) else value}"
            for name in BUDGET if (value := getattr(first, name)) is not None]
    return f"equal budgets: data {first.data or 'shapes'}, {', '.join(said) or 'the recipe of each model'}"
