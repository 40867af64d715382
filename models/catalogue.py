"""From the name of a model to one plain dict with everything explicit: the only reader of model YAML.

A model file holds `backbone` and `head`, lists of rows, as YOLO files do; or `base: <name>` and the keys that it
changes. Keys: nc, anchors, activation; depth_multiple, width_multiple, max_channels, or for a family
`scales: {n: [depth, width, max_channels], ...}`; `aliases` (`words` in older files), what names in rows stand for,
numbers or modules; `replace`, for rows of the base by name: `[module, args, options]`, options where wanted; `neck`, a
name or a mapping with `type`; `necks`, the default options of each neck on this base; `levels`, p2 for
a level of half the finest stride (`models.levels`); `recipe`, the file in `cfg/train`
to train by, by default the one that the head declares; `frame` and `pixels`, what the model asks of its input
(`utils.frame`); `batch_norm`, [eps, momentum] of all 2-D batch norms; `frozen`, names of rows that are never trained.

A scale's letter stands at the `@` of a family's file name, or behind its first number: `yolov5@6.yaml` holds yolov5n6.
"""

import copy
import inspect
import re
from pathlib import Path
from typing import Any

from models.config_checks import LEVELS, MAX_BASES, MAX_CHANNELS, MAX_TEXT, checked_config
from models.levels import with_finer_level
from models.registry import LayerType, choose, known_necks
from models.rows import Row, aliases_of, find_layer, parse_row
from utils.commands import command
from utils.config import CFG_ROOT, MAX_CLASSES, is_number, is_whole, read_yaml
from utils.errors import UserError, nearest, short, shown

NO_NECK = "pan"  # what every base has already

_KNOWN_KEYS = {"nc", "names", "anchors", "activation", "depth_multiple", "width_multiple", "max_channels", "scales",
               "scale", "neck", "necks", "base", "backbone", "head", "options", "name", "source", "recipe", "trained",
               "aliases", "words", "levels", "replace", "frame", "pixels", "batch_norm", "frozen"}


def known_models() -> list[str]:
    """Names of all models that `cfg/models` describes, without neck suffixes."""
    names = []
    for path in sorted((CFG_ROOT / "models").glob("*.yaml")):
        scales = _read(path).get("scales") or {}
        names += [_member(path.stem, scale) for scale in scales] or [path.stem]
    return names


def resolve(model: str | Path | dict[str, Any], num_classes: int | None = None, names: Any = None,
            neck: str | dict[str, Any] | None = None, options: dict[str, Any] | None = None,
            levels: str | None = None) -> dict[str, Any]:
    """The config of a model with everything explicit, plain data throughout.

    model: a name such as `yolov8n-assn`, a path, or a dict of the same content. Arguments that are given win over the
    file. Raises `UserError` for an unknown name, key or neck, and where names and class count disagree.
    """
    try:
        config = copy.deepcopy(model) if isinstance(model, dict) else _load(str(model))
    except RecursionError:
        raise UserError("model dict: its values are nested too deeply", code="bad-value") from None
    config["source"] = where = _text(config.get("source")) or "model dict"
    config = _replaced(_with_base(config, Path()))
    if not config.get("head"):
        raise UserError(f"{where}: no `head` rows and no `base`, so there is no model to build", code="no-head")
    _resolve_scale(config)
    _resolve_levels(config, levels)
    _resolve_neck(config, neck)
    _resolve_classes(config, num_classes, names)
    config["options"] = {**config.get("options", {}), **{k: v for k, v in (options or {}).items() if v is not None}}
    _resolve_recipe(config)
    return config


def _load(name: str, folder: Path = CFG_ROOT / "models", chain: tuple[str, ...] = ()) -> dict[str, Any]:
    """The content of a model file by path or name; a neck suffix and a scale letter are taken off where needed.

    chain: the files whose `base:` led here.
    """
    if len(name) > MAX_TEXT or "\0" in name:
        raise UserError(f"{shown(name)}: no such model", code="unknown-name")
    path = Path(name)
    if path.suffix in {".yaml", ".yml"}:
        if path.is_file():
            return {**_read(path, chain), "name": path.stem}  # its own, not that of its base
        if path.parent != Path():
            folder = path.parent
        name = path.stem
    for candidate in sorted(folder.glob("*.yaml")):
        if name == candidate.stem:
            return {**_read(candidate, chain), "name": name}
        scale = _scale_letter(name, candidate.stem)
        if scale:
            content = _read(candidate, chain)
            if scale in content.get("scales", {}):
                return {**content, "name": name, "scale": scale}
    for neck in (*known_necks(), NO_NECK):
        if name.endswith(f"-{neck}"):
            return {**_load(name.removesuffix(f"-{neck}"), folder, chain), "name": name, "neck": neck}
    known = known_models()
    hint = nearest(name, [*known, *(f"{k}-{n}" for k in known for n in known_necks())])
    hint = hint or f"{command('models')} lists those that there are"
    raise UserError(f"{short(name)}: no such model; {hint}", code="unknown-name")


def _read(path: Path, chain: tuple[str, ...] = ()) -> dict[str, Any]:
    content = read_yaml(path)
    here = path.resolve()
    project = CFG_ROOT.parent
    content["source"] = str(here.relative_to(project)) if here.is_relative_to(project) else str(path)
    return _replaced(_with_base(content, path.parent, chain))


def _with_base(config: dict[str, Any], folder: Path, chain: tuple[str, ...] = ()) -> dict[str, Any]:
    """A file that names a base: the base's content with this file's keys in place of its own."""
    config = checked_config(config, config["source"])
    wrong = sorted(set(map(str, config)) - _KNOWN_KEYS)
    if wrong and "base" in config:  # other people's whole files may hold keys of their own
        hint = nearest(wrong[0], sorted(_KNOWN_KEYS))
        raise UserError(f"{config['source']}: unknown key {shown(wrong[0])}{'; ' + hint if hint else ''}",
                        code="unknown-key")
    if "base" not in config:
        return config
    base = config.pop("base")
    chain = (*chain, config["source"])
    if len(chain) > MAX_BASES:
        raise UserError(f"{chain[0]}: `base:` goes in a circle, or through more than {MAX_BASES} files: "
                        f"{' -> '.join(chain[:4])} ...", code="circular-base")
    near = folder / base
    content = _load(str(near) if near.suffix in {".yaml", ".yml"} and near.is_file() else base, chain=chain)
    rows = "backbone" in config or "head" in config
    aliases = {**content.get("aliases", {}), **config.get("aliases", {})}
    return {**content, **config, "aliases": aliases, "source": config["source"] if rows else content["source"]}


def _replaced(config: dict[str, Any]) -> dict[str, Any]:
    """The named rows that `replace` lists with other modules; where they read and how often they repeat stays.

    Raises `UserError` for a name that no row has and for a replacement that is no such list.
    """
    changes = config.pop("replace", {})
    rows = {row[4]: row for part in ("backbone", "head") for row in config.get(part, [])
            if isinstance(row, list) and len(row) > 4 and isinstance(row[4], str)}
    for name, change in changes.items():
        if name not in rows:
            hint = nearest(str(name), list(rows))
            raise UserError(f"{config['source']}: no row is named {shown(name)} to replace"
                            f"{'; ' + hint if hint else ''}", code="unknown-name")
        if not isinstance(change, list) or not 2 <= len(change) <= 3:
            raise UserError(f"{config['source']}: replace {name}: expected [module, args], found {shown(change)}",
                            code="bad-row")
        module, args, *options = change
        rows[name][2:] = [module, args, name, *options]
    return config


def _text(value: Any) -> str:
    """`value` where it is a text short enough to be shown as it is, else ''."""
    return value if isinstance(value, str) and len(value) <= 4 * MAX_TEXT and value.isprintable() else ""


def _member(stem: str, scale: str) -> str:
    """`yolov8-p6` and `n` -> `yolov8n-p6`, `yolov5@6` and `n` -> `yolov5n6`."""
    if "@" in stem:
        return stem.replace("@", scale)
    return re.sub(r"\d+", lambda m: m[0] + scale, stem, count=1) if re.search(r"\d", stem) else stem + scale


def _scale_letter(name: str, stem: str) -> str | None:
    """The letter that makes `name` a member of the family `stem`, if any."""
    if len(name) != len(stem) + (0 if "@" in stem else 1):
        return None
    return next((c for c in name if _member(stem, c) == name), None)


def _resolve_scale(config: dict[str, Any]) -> None:
    scales = config.pop("scales", None)
    scale = config.pop("scale", None)
    if scales:
        scale = scale or next(iter(scales))
        if scale not in scales:
            raise UserError(f"{config['source']}: scale {scale!r} is not one of {shown(list(scales))}",
                            code="unknown-name")
        numbers = scales[scale]
        if not (isinstance(numbers, list) and len(numbers) in (2, 3)
                and all(is_number(n, 1e-3, 100) for n in numbers[:2])
                and all(is_whole(n, 1, MAX_CHANNELS) for n in numbers[2:])):
            raise UserError(f"{config['source']}: scale {scale!r} must be [depth, width] or [depth, width, "
                            f"max_channels], not {shown(numbers)}", code="bad-value")
        config["depth_multiple"], config["width_multiple"] = numbers[:2]
        config["max_channels"] = numbers[2] if len(numbers) == 3 else None
    for key, default in (("depth_multiple", 1.0), ("width_multiple", 1.0), ("max_channels", None)):
        config.setdefault(key, default)


def _resolve_levels(config: dict[str, Any], given: str | None) -> None:
    """Enter `levels`; a neck that the config has already reads the added level as well."""
    if given is None or config.get("levels") == given:
        return
    config["levels"] = choose("levels", given, LEVELS)
    neck = config.get("neck")
    if isinstance(neck, dict) and "levels" in neck:
        config["neck"] = {**neck, "levels": _neck_levels(config, neck["levels"])}


def _neck_levels(config: dict[str, Any], levels: Any) -> Any:
    """`levels` of a neck, written for the base's head, with a level that is added to it."""
    if not config.get("levels"):
        return levels
    return with_finer_level(levels, len(_head_row(config).sources), head_type(config))


def _resolve_neck(config: dict[str, Any], given: str | dict[str, Any] | None) -> None:
    """`neck` becomes None or a mapping with `type` and every option that this base sets."""
    neck = config.get("neck") if given is None else given
    defaults = config.setdefault("necks", {})
    if isinstance(neck, str):
        neck = {"type": neck}
    if neck is None or neck.get("type") == NO_NECK:
        config["neck"] = None
        return
    kind = neck.get("type")
    if not isinstance(kind, str):
        raise UserError(f"{config['source']}: a neck needs a type: {', '.join([NO_NECK, *known_necks()])}",
                        code="bad-value")
    options = dict(defaults.get(kind, {}))
    if "levels" in options:
        options["levels"] = _neck_levels(config, options["levels"])
    config["neck"] = {**options, **neck}


def without_neck(config: dict[str, Any]) -> dict[str, Any]:
    """A resolved config of the same model without its neck."""
    return {**copy.deepcopy(config), "neck": None}


def _resolve_classes(config: dict[str, Any], num_classes: int | None, names: Any) -> None:
    inherited = config.get("names") if num_classes in (None, config.get("nc")) else None
    names = inherited if names is None else names
    if isinstance(names, dict):
        if sorted(map(str, names)) != sorted(map(str, range(len(names)))):
            raise UserError(f"{config['source']}: the keys of `names` must be 0 to {len(names) - 1}, not "
                            f"{shown(list(names))}", code="bad-value")
        names = [names[key] for key in sorted(names, key=int)]
    if num_classes is None:
        num_classes = len(names) if names is not None else config.get("nc", 80)
    if not is_whole(num_classes, 1, MAX_CLASSES):
        raise UserError(f"{config['source']}: {shown(num_classes)} classes; 1 to {MAX_CLASSES:,} are possible",
                        code="bad-value")
    if names is not None and len(names) != num_classes:
        raise UserError(f"{config['source']}: {len(names)} class names for {num_classes} classes", code="wrong-count")
    config["nc"] = num_classes
    config["names"] = [str(n) for n in names] if names is not None else [f"class{i}" for i in range(num_classes)]


def _resolve_recipe(config: dict[str, Any]) -> None:
    """The recipe that the head declares, where the file names none; None where there is none or the row is no head."""
    if "recipe" not in config:
        cls = head_type(config).cls
        recipe = getattr(cls, "recipe", None)
        beside = recipe and recipe.endswith((".yaml", ".yml"))
        config["recipe"] = str(Path(inspect.getfile(cls)).parent / recipe) if beside else recipe


def head_type(config: dict[str, Any]) -> LayerType:
    """What the last row of a config names. Raises `UserError` naming the row where there is no such layer."""
    row = _head_row(config)
    try:
        return find_layer(row, aliases_of(config))[0]
    except UserError as error:
        raise UserError(f"{row}: {error}", code=error.code) from None


def _head_row(config: dict[str, Any]) -> Row:
    last = len(config.get("backbone", [])) + len(config["head"]) - 1
    return parse_row(config["head"][-1], f"{config['source']} row {last}")
