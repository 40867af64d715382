"""What a data YAML says: which files of which format hold a split. The words are those of YOLO users.

`path` (folder), `train`, `val`, `test`, `names` (list or {0: name}), `nc`; here also `format` (found out where absent),
`difficult` (VOC) and `size`, `seed`, `scene` (shapes). README and cfg/data/*.yaml show each form.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data import formats
from data.formats.raw import image_files, read_lines
from utils.config import CFG_ROOT, find_config, read_yaml
from utils.errors import UserError, nearest

PROJECT = CFG_ROOT.parent
SPLITS = ("train", "val", "test")
KEYS = ["path", *SPLITS, "names", "nc", "format", "difficult", "size", "seed", "scene"]
FORMATS = [*formats.READERS, "shapes"]
SEEN = 50  # images whose labels tell the format


@dataclass
class Source:
    """Where the labels of one split lie.

    entries: per part of the split, its file or folder; for COCO the annotation file, whose images lie in the folder of
    the same place in `image_folders`. names: the classes in order, None where the YAML does not say; nc: how many it
    says there are. options: the words of shapes. notes: what is to be told about the YAML itself.
    """

    yaml: Path
    format: str
    split: str
    root: Path
    entries: list[Path]
    image_folders: list[Path] = field(default_factory=list)
    names: list[str] | None = None
    nc: int | None = None
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
        raise UserError(f"{split}: no such split; {nearest(split, list(SPLITS)) or 'known: ' + ', '.join(SPLITS)}")
    if config.get(split) is None or config.get(split) == "":
        there = ", ".join(s for s in SPLITS if config.get(s)) or "none"
        raise UserError(f"{yaml}: no `{split}:` in it (it has {there}); add a line such as `{split}: images/{split}`")
    root = _root(yaml, config)
    source = Source(yaml, _choice(yaml, config, "format", FORMATS), split, root, [], names=_names(yaml, config),
                    nc=config.get("nc"), notes=_notes(config),
                    difficult=_choice(yaml, config, "difficult", ["ignore", "keep"]) or "ignore")
    if source.format == "shapes":
        source.options = {k: config.get(k, default) for k, default in (("size", 320), ("seed", 0), ("scene", {}))}
        source.options["count"] = config[split]
        return source
    for entry in config[split] if isinstance(config[split], list) else [config[split]]:
        _add_entry(source, config, entry)
    source.format = source.format or formats.guess(source.entries[0], _first_images(source))
    if source.format == "yolo" and source.image_folders:
        raise UserError(f"{source.yaml}: the labels of YOLO lie in `labels` for `images`: give `{split}:` the folder "
                        "of images alone")
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
                            f"{{images: folder, annotations: file.json or folder}}; found {entry}")
        entry, images = entry["annotations"], entry["images"]
        source.image_folders.append(_place(source, config, images))
    if not isinstance(entry, str):
        raise UserError(f"{source.yaml}: `{source.split}:` should be a path, found {entry!r}")
    source.entries.append(_place(source, config, entry))
    if images is not None and not source.entries[-1].is_dir():
        source.format = source.format or "coco"
    if source.image_folders and len(source.image_folders) != len(source.entries):
        raise UserError(f"{source.yaml}: in `{source.split}:` give `images` for every annotation file or for none")


def _place(source: Source, config: dict[str, Any], entry: str) -> Path:
    """Where an entry of a split lies: in `path`; without `path` as given, beside the YAML, or in the project."""
    if config.get("path"):
        tried = [source.root / entry]
    else:
        tried = [base / entry for base in _bases(source.yaml)]
    if entry.startswith("../"):
        tried.append(source.root / entry[3:])  # files of Roboflow say ../train/images and mean train/images
    for place in tried:
        if place.exists():
            return Path(place).resolve()
    raise UserError(f"{source.yaml}: `{source.split}: {entry}` is not there (looked for {_list(tried)}); "
                    f"correct it or `path`{_no_download(config)}")


def _root(yaml: Path, config: dict[str, Any]) -> Path:
    given = config.get("path")
    if not given:
        return yaml.resolve().parent
    if not isinstance(given, str):
        raise UserError(f"{yaml}: `path` should be a folder, found {given!r}")
    tried = [base / Path(given).expanduser() for base in _bases(yaml)]
    for place in tried:
        if place.is_dir():
            return place.resolve()
    if config.get("format") == "shapes":
        return (PROJECT / given).resolve()
    raise UserError(f"{yaml}: `path: {given}` is no folder (looked for {_list(tried)}); put the data there or "
                    f"correct `path`{_no_download(config)}")


def _bases(yaml: Path) -> list[Path]:
    return [Path.cwd(), yaml.resolve().parent, PROJECT]


def _list(places: list[Path]) -> str:
    return ", ".join(dict.fromkeys(str(p.resolve()) for p in places))


def _no_download(config: dict[str, Any]) -> str:
    return "; its `download:` is never run here" if "download" in config else ""


def _choice(yaml: Path, config: dict[str, Any], key: str, choices: list[str]) -> str:
    given = config.get(key)
    if given is not None and given not in choices:
        hint = nearest(str(given), choices) or "known: " + ", ".join(choices)
        raise UserError(f"{yaml}: no such `{key}: {given}`; {hint}")
    return given or ""


def _names(yaml: Path, config: dict[str, Any]) -> list[str] | None:
    names, nc = config.get("names"), config.get("nc")
    if nc is not None and (isinstance(nc, bool) or not isinstance(nc, int) or nc < 1):
        raise UserError(f"{yaml}: `nc: {nc}` should be the number of classes, 1 or more")
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise UserError(f"{yaml}: the keys of `names` should be 0 to {len(names) - 1}, each once; "
                            f"found {', '.join(map(str, names))}")
        names = [names[i] for i in range(len(names))]
    if names is None:
        return None
    if not isinstance(names, list) or not names:
        raise UserError(f"{yaml}: `names` should be a list such as [person, car], found {names!r}")
    if nc is not None and nc != len(names):
        raise UserError(f"{yaml}: `nc: {nc}` but {len(names)} `names`; correct one of them or leave `nc` out")
    return [str(name) for name in names]


def _notes(config: dict[str, Any]) -> list[str]:
    notes = ["`download:` is never run here"] if "download" in config else []
    for key in config.keys() - {*KEYS, "download"}:
        hint = nearest(str(key), KEYS)
        notes.append(f"`{key}:` is not used here" + (f"; {hint}" if hint else ""))
    return sorted(notes)


def _first_images(source: Source) -> list[str]:
    """Some images of the first entry."""
    entry = source.image_folders[0] if source.image_folders else source.entries[0]
    if entry.is_dir():
        return image_files(entry)[:SEEN]
    if entry.suffix.lower() != ".txt":
        return []
    lines = read_lines(entry)[:SEEN]
    bases = (entry.parent, source.root, Path.cwd())
    return [str(base / line) for line in lines for base in bases if (base / line).exists()]


def _image_folder(root: Path, annotations: Path) -> Path:
    """Where a COCO file's images lie when the YAML says only the file: train2017 for instances_train2017.json."""
    stem = annotations.stem.removeprefix("instances_").removeprefix("image_info_").removesuffix("-dev2017")
    stem = stem + "2017" if stem == "test" else stem
    tried = [root / stem, root / "images" / stem, annotations.parent / "images"]
    return next((folder for folder in tried if folder.is_dir()), annotations.parent)
