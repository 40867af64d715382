"""What a data YAML says: which files of which format hold a split. The keys are those of YOLO users.

`path` (folder), `train`, `val`, `test`, `names` (list, {0: name}, or {1: name} where ids count from 1), `nc`,
`kpt_shape`; here also `format` (found out where absent), `difficult` (VOC, DOTA) and `size`, `seed`, `scene` (shapes).
README and cfg/data/*.yaml show each form. Paths stay as they are written: symbolic links are not resolved.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data import formats
from data.formats.paths import IMAGE_SUFFIXES, image_files, listed_images
from utils.config import MAX_CLASSES, SOURCE_TREE, find_config, read_yaml
from utils.errors import UserError, nearest, short, shown

SPLITS = ("train", "val", "test")
KEYS = ["path", *SPLITS, "names", "nc", "kpt_shape", "format", "difficult", "size", "seed", "scene"]
FORMATS = [*formats.READERS, "shapes"]
WITH_DIFFICULT = ("voc", "dota")  # formats
SEEN = 50  # images whose labels tell the format


@dataclass
class Source:
    """Where the labels of one split lie.

    entries: per part of the split, its file or folder; for COCO the annotation file, whose images lie in the folder of
    the same place in `image_folders`. names: the classes in order, None where the YAML does not say; nc: how many it
    says there are; first_id: the id of the first one in YOLO's label files. keypoints: (number, numbers of each) behind
    the boxes, () where there are none, None where the YAML does not say. difficult: objects marked so are ignore
    regions (`ignore`), the same but background in training (`drop`), or objects (`keep`). options: the keys of shapes.
    notes: remarks on the YAML itself, for the report.
    """

    yaml: Path
    format: str
    split: str
    root: Path
    entries: list[Path]
    image_folders: list[Path] = field(default_factory=list)
    names: list[str] | None = None
    nc: int | None = None
    first_id: int = 0
    keypoints: tuple[int, ...] | None = None
    difficult: str = "ignore"
    options: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.yaml.stem} {self.split}"


def read_source(data: str | Path, split: str) -> Source:
    """The `Source` of a split of `data`, a name in cfg/data or the path of a YAML. Nothing is downloaded or run."""
    yaml = find_config(data, "data")
    config = read_yaml(yaml)
    if split not in SPLITS:
        raise UserError(f"{split}: no such split; {nearest(split, list(SPLITS)) or 'known: ' + ', '.join(SPLITS)}",
                        "unknown-split")
    if config.get(split) is None or config.get(split) == "":
        there = ", ".join(s for s in SPLITS if config.get(s)) or "none"
        raise UserError(f"{yaml}: no `{split}:` in it (it has {there}); add a line such as `{split}: images/{split}`",
                        "missing-split")
    notes = _notes(config)
    root = _root(yaml, config, split, notes)
    names, first_id = _names(yaml, config, notes)
    source = Source(yaml, _choice(yaml, config, "format", FORMATS), split, root, [], names=names, nc=config.get("nc"),
                    first_id=first_id, keypoints=_keypoints(yaml, config, notes), notes=notes,
                    difficult=_choice(yaml, config, "difficult", ["ignore", "drop", "keep"]) or "ignore")
    if source.format == "shapes":
        source.options = {k: config.get(k, default) for k, default in (("size", 320), ("seed", 0), ("scene", {}))}
        source.options["count"] = config[split]
        return source
    entries = config[split] if isinstance(config[split], list) else [config[split]]
    if not entries:
        raise UserError(f"{yaml}: `{split}: []` is empty; give it a folder such as images/{split}",
                        "missing-split")
    for entry in entries:
        _add_entry(source, config, entry)
    source.format = source.format or formats.guess(source.entries[0], _first_images(source))
    if source.format not in WITH_DIFFICULT and "difficult" in config:
        source.difficult = "ignore"
        notes.append(f"`difficult:` is not used here: only {' and '.join(WITH_DIFFICULT)} files have it")
    if source.format == "yolo" and source.image_folders:
        raise UserError(f"{source.yaml}: the labels of YOLO lie in `labels` for `images`: give `{split}:` the folder "
                        "of images alone", "key-conflict")
    if source.format == "coco" and not source.image_folders:
        source.image_folders = [_image_folder(root, entry) for entry in source.entries]
    if not config.get("path"):
        source.root = source.entries[0].parent
    return source


def _add_entry(source: Source, config: dict[str, Any], entry: Any) -> None:
    images = None
    if isinstance(entry, dict):
        if set(entry) != {"images", "annotations"}:
            raise UserError(f"{source.yaml}: `{source.split}:` should be a path, a list of paths, or "
                            f"{{images: folder, annotations: file.json or folder}}; found {shown(entry)}", "bad-value")
        entry, images = entry["annotations"], entry["images"]
        source.image_folders.append(_entry_path(source, config, images))
    source.entries.append(_entry_path(source, config, entry))
    if images is not None and not source.entries[-1].is_dir():
        source.format = source.format or "coco"
    if source.image_folders and len(source.image_folders) != len(source.entries):
        raise UserError(f"{source.yaml}: in `{source.split}:` give `images` for every annotation file or for none",
                        "key-conflict")


def _entry_path(source: Source, config: dict[str, Any], entry: Any) -> Path:
    """Where an entry of a split lies: in `path`; without `path` as given, beside the YAML, or in the project."""
    if not isinstance(entry, str) or not entry:
        raise UserError(f"{source.yaml}: `{source.split}:` should be a path, found {shown(entry)}; write text such as "
                        f"images/{source.split}, numbers in quotes", "bad-value")
    bases = [source.root] if config.get("path") else _bases(source.yaml)
    tried = _candidates(bases, entry, source.root)
    for place in tried:
        if _exists(place):
            if not place.is_dir() and not place.is_file():
                raise UserError(f"{source.yaml}: `{source.split}: {short(entry)}` is a pipe or device; give a folder "
                                f"or a list", "not-a-file")
            return _absolute(place)
    raise UserError(f"{source.yaml}: `{source.split}: {short(entry)}` is not there (looked for {_shown_paths(tried)}); "
                    f"correct it or `path`{_no_download(config)}", "missing-file")


def _candidates(bases: list[Path], entry: str, root: Path) -> list[Path]:
    """Where an entry may lie; with \\ for /, as Windows writes it, where it has some."""
    spellings = [entry, *([entry.replace("\\", "/")] if "\\" in entry else [])]
    places = [base / spelling for spelling in spellings for base in bases]
    # files of Roboflow say ../train/images and mean train/images
    return places + [root / spelling[3:] for spelling in spellings if spelling.startswith("../")]


def _root(yaml: Path, config: dict[str, Any], split: str, notes: list[str]) -> Path:
    """The folder that `path` names, seen from where the command runs, from the YAML, or from the project.

    The first of these that has the split; where several have it, a note says so. `path: .` is the YAML's folder first.
    """
    given = config.get("path")
    if given is None or given == "":
        return _absolute(yaml).parent
    if not isinstance(given, str):
        raise UserError(f"{yaml}: `path` should be a folder, found {shown(given)}; write a number in quotes",
                        "bad-value")
    bases = _bases(yaml)
    if os.path.normpath(given) == ".":
        bases = bases[1:] + bases[:1]
    spellings = [given, *([given.replace("\\", "/")] if "\\" in given else [])]
    tried = [base / _expanded(spelling) for spelling in spellings for base in bases]
    there = [place for place in tried if _exists(place) and place.is_dir()]
    entries = config[split] if isinstance(config[split], list) else [config[split]]
    paths = [path for entry in entries for path in (entry.values() if isinstance(entry, dict) else [entry])]
    holding = [place for place in there if all(
        isinstance(path, str) and any(map(_exists, _candidates([place], path, place))) for path in paths)]
    if not there and config.get("format") == "shapes":
        return _absolute((SOURCE_TREE or Path.cwd()) / given)
    if not there:
        raise UserError(f"{yaml}: `path: {short(given)}` is no folder (looked for {_shown_paths(tried)}); put the data "
                        f"there or correct `path`{_no_download(config)}", "missing-file")
    others = [place for place in holding[1:] if not place.samefile(holding[0])]
    if others:
        notes.append(f"`path: {short(given)}` is taken as {_absolute(holding[0])}; {_absolute(others[0])} has "
                     f"`{split}:` too")
    return _absolute((holding or there)[0])


def _bases(yaml: Path) -> list[Path]:
    places = [Path.cwd(), _absolute(yaml).parent, yaml.resolve().parent]
    return list(dict.fromkeys([*places, *([SOURCE_TREE] if SOURCE_TREE else [])]))


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:  # a ~user that nobody is
        return Path(path)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name longer than the system allows, or with a NUL
        return False


def _absolute(path: Path) -> Path:
    """The path from the root of the file system on, without dots, links as they are written."""
    plain = Path(os.path.abspath(path))  # noqa: PTH100
    same = not _exists(path) or (_exists(plain) and plain.samefile(path))
    return plain if same else path.resolve()  # .. behind a link leads elsewhere than it reads


def _shown_paths(places: list[Path]) -> str:
    return ", ".join(dict.fromkeys(short(os.path.abspath(str(p).replace("\0", "?"))) for p in places))  # noqa: PTH100


def _no_download(config: dict[str, Any]) -> str:
    return "; its `download:` is never run here" if "download" in config else ""


def _choice(yaml: Path, config: dict[str, Any], key: str, choices: list[str]) -> str:
    given = config.get(key)
    if given is not None and given not in choices:
        hint = nearest(short(given), choices) or "known: " + ", ".join(choices)
        raise UserError(f"{yaml}: no such `{key}: {short(given)}`; {hint}", "unknown-value")
    return given or ""


def _names(yaml: Path, config: dict[str, Any], notes: list[str]) -> tuple[list[str] | None, int]:
    """The classes in order, and the id of the first one; None where the YAML does not say."""
    names, nc, first = config.get("names"), config.get("nc"), 0
    if nc is not None and (type(nc) is not int or not 1 <= nc <= MAX_CLASSES):
        raise UserError(f"{yaml}: `nc: {shown(nc)}` should be the number of classes, 1 to {MAX_CLASSES:,}, without "
                        f"quotes", "bad-value")
    if isinstance(names, dict) and names:
        keys = [int(k) if isinstance(k, str) and k.isdecimal() else k for k in names]
        first = int(1 in keys and 0 not in keys)
        if any(type(k) is not int for k in keys) or sorted(keys) != list(range(first, len(keys) + first)):
            raise UserError(f"{yaml}: the keys of `names` should be 0 to {len(names) - 1}, each once, or 1 to "
                            f"{len(names)} where class ids count from 1; found {short(', '.join(map(str, names)))}",
                            "bad-value")
        by_key = dict(zip(keys, names.values(), strict=True))
        names = [by_key[k] for k in range(first, len(keys) + first)]
        if first:
            notes.append("`names` counts from 1: so do the class ids of YOLO's label files")
    if names is None:
        return None, 0
    if not isinstance(names, list) or not names:
        raise UserError(f"{yaml}: `names` should be a list such as [person, car], found {shown(names)}", "bad-value")
    for i, name in enumerate(names, first):
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            raise UserError(f"{yaml}: `names` has {shown(name)} for class {i}; give it a name of printable letters",
                            "bad-value")
    if nc is not None and nc != len(names):
        raise UserError(f"{yaml}: `nc: {nc}` but {len(names)} `names`; correct one of them or leave `nc` out",
                        "key-conflict")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        notes.append(f"{short(twice)!r} stands {names.count(twice)} times in `names`, for classes of their own")
    return names, first


def _keypoints(yaml: Path, config: dict[str, Any], notes: list[str]) -> tuple[int, ...] | None:
    """`kpt_shape`: [number, 2 or 3], or `none`."""
    given = config.get("kpt_shape")
    if given is None:
        return None
    if given == "none":
        notes.append("`kpt_shape: none`: rows of 7 and more columns are polygons")
        return ()
    if not isinstance(given, list) or len(given) != 2 or any(type(n) is not int for n in given) or (
            not 1 <= given[0] <= 1000 or given[1] not in (2, 3)):
        raise UserError(f"{yaml}: `kpt_shape: {short(given)}` should be [number of keypoints, 2 or 3], or none",
                        "bad-value")
    notes.append(f"`kpt_shape: {given}`: keypoints are ignored, the boxes before them are read")
    return tuple(given)


def _notes(config: dict[str, Any]) -> list[str]:
    notes = ["`download:` is never run here"] if "download" in config else []
    for key in config.keys() - {*KEYS, "download"}:
        hint = nearest(short(key), KEYS)
        notes.append(f"`{short(key)}:` is not used here" + (f"; {hint}" if hint else ""))
    return sorted(notes)


def _first_images(source: Source) -> list[str]:
    """Some images of the first entry."""
    entry = source.image_folders[0] if source.image_folders else source.entries[0]
    if entry.is_dir():
        return image_files(entry)[:SEEN]
    if entry.suffix.lower() != ".txt":
        return []
    return [image for image in listed_images(entry, source.root, most=SEEN) if _exists(Path(image))]


def _image_folder(root: Path, annotations: Path) -> Path:
    """Where a COCO file's images lie when the YAML says only the file: train2017 for instances_train2017.json."""
    stem = annotations.stem.removeprefix("instances_").removeprefix("image_info_").removesuffix("-dev2017")
    stem = stem + "2017" if stem == "test" else stem
    tried = [root / stem, root / "images" / stem, annotations.parent / "images"]
    if not any(path.suffix.lower() in IMAGE_SUFFIXES for path in annotations.parent.iterdir()):
        tried += [root / "images", annotations.parent.parent / "images"]
    return next((folder for folder in tried if folder.is_dir()), annotations.parent)
