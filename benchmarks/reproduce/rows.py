"""A published row as `cfg/reproduce/NAME.yaml` states it: what to train, to evaluate and to compare with.

Keys: `title`, `repository`, `table`, `row` (where it is printed); `train` (a list of trainings, each the flags of
train.py by their field names; a later one starts from the weights of the one before), `processes` (one per GPU),
`needs` (files that the first training starts from: flag -> {file, from}); `evaluate` (flags of val.py) and `checkpoint`
(best or last); `published` (percent, by our names of numbers), `tolerance` (the same names) and `reason`;
`parameters` with `classes`; `server` (who alone can judge); `hours`; `notes`, `missing` (what the publication lacks);
`comparable: false` (its numbers are no target). `base` names a file to begin with; files named `_...` are only that.
"""

import contextlib
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from engine.evaluation.config import ValConfig
from engine.training.config import TrainConfig
from utils.cli import flag_of
from utils.config import CFG_ROOT, is_number, is_whole, read_with_bases
from utils.errors import UserError, nearest, shown
from utils.options import Options

FOLDER = "reproduce"  # in cfg
COCO_NAMES = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L", "AR1", "AR10", "AR100", "AR_S", "AR_M", "AR_L")
AT_IOU = {"AP65": 0.65, "AP80": 0.8, "AP90": 0.9}  # COCO's AP at one more overlap, by which SCALoss is told
VOC_NAMES = ("AP_voc07", "AP_voc")
NAMES = (*COCO_NAMES, *AT_IOU, *VOC_NAMES)
APPENDED = ("notes", "missing")  # a file's own stand behind those of its base
TEXTS = ("title", "repository", "table", "row", "reason", "server", "hours")
KEYS = (*TEXTS, *APPENDED, "train", "processes", "needs", "evaluate", "checkpoint", "published", "tolerance",
        "parameters", "classes", "comparable")
# What the runner decides.
RUNNER = {"project", "name", "exist_ok", "device", "workers", "resume", "submit", "save_voc", "save_json", "noplots"}
NEEDED = ("weights", "backbone")


@dataclass(frozen=True)
class Row:
    """One published row; see the module. published and tolerance are in percent; stages: the flags of each training."""

    name: str
    title: str
    repository: str
    table: str
    row: str
    stages: tuple[dict[str, Any], ...]
    processes: int
    needs: dict[str, dict[str, str]]
    evaluate: dict[str, Any]
    checkpoint: str
    published: dict[str, float]
    tolerance: dict[str, float]
    reason: str
    parameters: int | None = None
    classes: int = 80
    server: str = ""
    hours: str = ""
    notes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    comparable: bool = True

    @property
    def cfg(self) -> str:
        """The model, a name or a file."""
        return self.stages[0]["cfg"]

    @property
    def data(self) -> str:
        """The data set, a name in cfg/data."""
        return self.stages[0]["data"]

    @property
    def key(self) -> str:
        """Names the training: rows that are judged of the same one share it."""
        content = json.dumps([self.stages, sorted(self.needs)], sort_keys=True).encode()
        return f"{Path(self.cfg).stem}-{hashlib.sha256(content).hexdigest()[:8]}"


def known_rows() -> list[str]:
    """The names of all rows."""
    return sorted(path.stem for path in (CFG_ROOT / FOLDER).glob("*.yaml") if not path.stem.startswith("_"))


def read_row(name: str | Path) -> Row:
    """A row by its name, or by the path of such a file. Raises `UserError` for one that is unknown, incomplete or has a
    flag that train.py or val.py does not take."""
    known = known_rows()
    if Path(name).suffix not in (".yaml", ".yml") and name not in known:
        hint = nearest(str(name), known) or "python -m benchmarks.reproduce --list shows all"
        raise UserError(f"{shown(str(name))}: no such row; {hint}", "unknown-row")
    content: dict[str, Any] = {}
    for path, own in read_with_bases(name, FOLDER):
        own = {key: value for key, value in own.items() if key != "base"}
        wrong = [str(key) for key in own if key not in KEYS]
        if wrong:
            raise UserError(f"{path}: unknown key {shown(wrong[0])}; {nearest(wrong[0], list(KEYS)) or 'drop it'}",
                            "unknown-key")
        for key in APPENDED:
            own[key] = [*content.get(key, []), *_texts(path, key, own.get(key, []))]
        content |= own
    return _row(path, content)


def _row(path: Path, content: Mapping[str, Any]) -> Row:
    lacking = [key for key in ("title", "table", "row", "train", "evaluate") if not content.get(key)]
    if lacking:
        raise UserError(f"{path}: no `{lacking[0]}:`", "missing-key")
    for key in TEXTS:
        if not isinstance(content.get(key, ""), str):
            raise UserError(f"{path}: {key}: expected text, got {shown(content[key])}", "bad-value")
    processes, parameters = content.get("processes", 1), content.get("parameters")
    if not is_whole(processes, 1, 1024) or not (parameters is None or is_whole(parameters, 1, 10**10)):
        raise UserError(f"{path}: processes and parameters are whole numbers from 1", "bad-value")
    published, tolerance = (_numbers(path, key, content.get(key, {})) for key in ("published", "tolerance"))
    unjudged = [name for name in published if name not in tolerance]
    if unjudged or (published and not content.get("reason")):
        lacking = f"no tolerance of {', '.join(unjudged)}" if unjudged else "no reason of its tolerances"
        raise UserError(f"{path}: {lacking}; say by how much seeds may differ, and in `reason:` why", "missing-key")
    checkpoint = content.get("checkpoint", "best")
    if checkpoint not in ("best", "last"):
        raise UserError(f"{path}: checkpoint: best or last, not {shown(checkpoint)}", "bad-value")
    stages = _mappings(path, "train", content["train"])
    evaluate, = _mappings(path, "evaluate", [content["evaluate"]])
    row = Row(path.stem, content["title"], content.get("repository", ""), content["table"], content["row"], stages,
              processes, _needs(path, content.get("needs", {})), evaluate, checkpoint, published, tolerance,
              content.get("reason", ""), parameters, content.get("classes", 80), content.get("server", ""),
              content.get("hours", ""), tuple(content.get("notes", [])), tuple(content.get("missing", [])),
              bool(content.get("comparable", True)) and bool(published))
    _check_flags(path, row)
    return row


def _texts(path: Path, key: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise UserError(f"{path}: {key}: expected a list of sentences, got {shown(value)}", "bad-value")
    return value


def _mappings(path: Path, key: str, value: Any) -> tuple[dict[str, Any], ...]:
    if not isinstance(value, list) or not all(isinstance(stage, dict) for stage in value):
        raise UserError(f"{path}: {key}: expected flags by name, got {shown(value)}", "bad-value")
    return tuple(value)


def _numbers(path: Path, key: str, value: Any) -> dict[str, float]:
    if not isinstance(value, dict):
        raise UserError(f"{path}: {key}: expected numbers by name, got {shown(value)}", "bad-value")
    for name, number in value.items():
        if name not in NAMES:
            hint = nearest(str(name), list(NAMES)) or f"known: {', '.join(NAMES)}"
            raise UserError(f"{path}: {key}: no number is called {shown(name)}; {hint}", "unknown-key")
        if not is_number(number, 0, 100):
            raise UserError(f"{path}: {key}: {name}: expected percent, got {shown(number)}", "bad-value")
    return {name: float(number) for name, number in value.items()}


def _needs(path: Path, value: Any) -> dict[str, dict[str, str]]:
    plain = isinstance(value, dict) and all(
        flag in NEEDED and isinstance(need, dict) and set(need) == {"file", "from"}
        and all(isinstance(text, str) for text in need.values())
        and need["file"] == Path(need["file"]).name for flag, need in value.items())
    if not plain:
        raise UserError(f"{path}: needs: expected weights or backbone: {{file: name, from: address}}, got "
                        f"{shown(value)}", "bad-value")
    return value


def _check_flags(path: Path, row: Row) -> None:
    for number, stage in enumerate(row.stages):
        lacking = [key for key in ("cfg", "data", "epochs", "batch_size") if key not in stage]
        if lacking:
            raise UserError(f"{path}: train {number + 1}: no `{lacking[0]}`", "missing-key")
        parse_flags(TrainConfig, stage, f"{path}: train {number + 1}").check(row.processes)
    if len({(stage["cfg"], stage["data"]) for stage in row.stages}) > 1:
        raise UserError(f"{path}: its trainings are of several models or data sets; one is reported", "key-conflict")
    parse_flags(ValConfig, {"weights": ["best.pt"], **row.evaluate}, f"{path}: evaluate").check()


def parse_flags(config: type[Options], flags: Mapping[str, Any], where: str) -> Any:
    """The settings that flags by name give. where: for the `UserError` of one that is unknown, of the runner, or has a
    value that it does not take."""
    known = [flag.name for flag in fields(config) if "words" in flag.metadata]
    for name in flags:
        if name in RUNNER:
            raise UserError(f"{where}: `{name}` is chosen where the row is run; drop it", "bad-value")
        if name not in known:
            raise UserError(f"{where}: no flag {flag_of(str(name))}; {nearest(str(name), known) or 'drop it'}",
                            "unknown-key")
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            args = config.parser("").parse_args(words_of(flags))
    except SystemExit:
        last = told.getvalue().strip().splitlines()[-1:] or ["a value is wrong"]
        raise UserError(f"{where}: {last[0]}", "bad-value") from None
    return config.from_args(args)


def words_of(flags: Mapping[str, Any]) -> list[str]:
    """Flags by name as the words of a command line: true is a switch, a list several values."""
    words: list[str] = []
    for name, value in flags.items():
        if value is True:
            words.append(flag_of(name))
        elif value is False:
            words.append(f"--no-{flag_of(name)[2:]}")
        else:
            values: Sequence[Any] = value if isinstance(value, list | tuple) else [value]
            words += [flag_of(name), *map(str, values)]
    return words
