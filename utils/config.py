"""Safe loading of YAML files, with limits on their size and one-line errors."""

import copy
from functools import lru_cache
from math import isfinite
from pathlib import Path
from typing import Any

import yaml

from utils.errors import UserError, nearest, short, shown

CFG_ROOT = Path(__file__).resolve().parent.parent / "cfg"
# Where the scripts lie; None for an installed package, which comes without pyproject.toml.
SOURCE_TREE = CFG_ROOT.parent if (CFG_ROOT.parent / "pyproject.toml").is_file() else None
MAX_BYTES = 1 << 20  # of a file: 20,000 class names take half of it
CACHED = 1 << 16  # characters: longer texts are parsed each time, so that they are not kept
MAX_CLASSES = 50_000  # of a dataset, model or checkpoint; the largest published vocabularies hold 13,000 to 22,000
MAX_NODES = 100_000  # values, with aliases expanded; about 4 s
MAX_DEPTH = 50  # lists and mappings within each other
ESCAPES = "in double quotes a backslash begins an escape: write paths with / or in single quotes"
CURES = {"unknown escape character": ESCAPES, "expected escape sequence": ESCAPES,
         "'\\t' that cannot start": "indent with spaces, not tabs"}


class LimitedLoader(yaml.SafeLoader):
    """PyYAML's safe loader with limits on depth and size; repeated keys with different values are an error.

    Values under `names` stay text as written: YAML 1.1 would read the names yes, no, on, 007 and null as other types.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = self.nodes = 0

    def get_single_node(self) -> yaml.Node | None:
        """The whole document."""
        root = super().get_single_node()
        if isinstance(root, yaml.MappingNode):
            for key, value in root.value:
                if key.value == "names":
                    _keep_text(value)
        return root

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        """Read one value; `size` of a node is how many values it holds, aliases spelled out."""
        mark, alias = self.peek_event().start_mark, self.check_event(yaml.AliasEvent)
        self.depth += 1
        self.nodes += 1
        if self.depth > MAX_DEPTH:
            raise yaml.composer.ComposerError(None, None, f"nested more than {MAX_DEPTH} deep", mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        if alias and not hasattr(node, "size"):  # it is still being read
            raise yaml.composer.ComposerError(None, None, "a value that contains itself", mark)
        if not alias:
            _check_keys(node)
            node.size = 1 + sum(child.size for child in _children(node))
        if max(self.nodes, node.size) > MAX_NODES:
            raise yaml.composer.ComposerError(None, None, f"more than {MAX_NODES:,} values", mark)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """A value from its node. PyYAML lets other errors through for numbers and dates that cannot be."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError):
            kind = node.tag.rsplit(":", 1)[-1]
            problem = f"{shown(node.value, 60)} is no {kind}; put it in quotes if it is text"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _check_keys(node: yaml.Node) -> None:
    """Reject a key that is given twice with different values."""
    first: dict[tuple[str, str], yaml.Node] = {}
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
            before = first.setdefault((key.tag, key.value), value)
            if before is not value and (before.tag, before.value) != (value.tag, value.value):
                problem = f"{shown(key.value)} is given twice with different values; keep one of them"
                raise yaml.composer.ComposerError(None, None, problem, key.start_mark)


def _keep_text(names: yaml.Node) -> None:
    """Mark the scalar values of a list or mapping as text; keys of the mapping may be numbers."""
    if isinstance(names, yaml.SequenceNode):
        values = names.value
    else:
        values = [value for _, value in names.value] if isinstance(names, yaml.MappingNode) else []
    for value in values:
        if isinstance(value, yaml.ScalarNode):
            value.tag = "tag:yaml.org,2002:str"


def read_yaml(path: Path | str) -> dict[str, Any]:
    """A YAML file as a dict. Raises `UserError` if it is missing, malformed, beyond the limits, or not a mapping."""
    path = Path(path)
    text = _text(path)
    try:
        content = copy.deepcopy(_parsed(text)) if len(text) < CACHED else _parse(text)
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" at line {where.line + 1}" if where else ""
        problem = short(str(getattr(error, "problem", None) or getattr(error, "reason", error)).splitlines()[0])
        cure = next((f"; {cure}" for word, cure in CURES.items() if word in problem), "")
        raise UserError(f"{path}: not valid YAML{line}: {problem}{cure}", "invalid-yaml") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected `key: value` lines, found {type(content).__name__}", "invalid-yaml")
    return content


def _parse(text: str) -> Any:
    loader = LimitedLoader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


@lru_cache(maxsize=256)
def _parsed(text: str) -> Any:
    """The value of a YAML text. Models have others as bases, so that one command reads a file dozens of times, at some
    10 ms each; a copy of the value takes a tenth."""
    return _parse(text)


def _text(path: Path) -> str:
    """The text of a file in UTF-8, or in UTF-16 with a byte-order mark."""
    try:
        if not path.exists():
            raise UserError(f"{short(str(path))}: no such file", "missing-file")
        if not path.is_file():
            raise UserError(f"{path}: not a file; give a YAML file", "not-a-file")
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path}: {path.stat().st_size:,} bytes; a YAML file may have at most "
                            f"{MAX_BYTES:,}; is it another kind of file?", "too-large")
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{short(str(path))}: cannot be read: {error.strerror}", "unreadable-file") from None
    if 0 in data[:2] or data[:4] == b"\xff\xfe\0\0":
        raise UserError(f"{path}: not UTF-8 (zero bytes in it, as in UTF-32 or UTF-16 without its mark); save it as "
                        f"UTF-8 in your editor", "not-utf8")
    try:
        return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[:error.start].count(b"\n") + 1
        raise UserError(f"{path}: not UTF-8 (byte 0x{data[error.start]:02x} at line {line}); save it as UTF-8 in your "
                        f"editor, or: iconv -f CP1252 -t UTF-8, with the encoding that it has", "not-utf8") from None


def find_config(name: str | Path, kind: str) -> Path:
    """Path of a config file: a path as given, or a bare name looked up in `cfg/<kind>`.

    kind: "models", "data" or "train". Raises `UserError` with the nearest names if there is none.
    """
    given = Path(name)
    if given.suffix.lower() in {".yaml", ".yml"} and _exists(given):
        return given
    folder = CFG_ROOT / kind
    stem = given.stem if given.suffix in {".yaml", ".yml"} else given.name
    candidate = folder / f"{stem}.yaml"
    if given.parent == Path() and _exists(candidate):
        return candidate
    if kind == "data" and _exists(given):
        raise UserError(f"{given}: a {kind} config is a YAML file; write one with `path: {given.parent}`, `train:` and "
                        f"`val:` (folders or lists of images) and `names:`", "not-a-config")
    known = sorted(p.stem for p in folder.glob("*.yaml"))
    raise UserError(f"{short(str(name))}: no such {kind} config; "
                    f"{nearest(stem, known) or 'known: ' + ', '.join(known)}", "unknown-config")


def read_with_bases(name: str | Path, kind: str) -> list[tuple[Path, dict[str, Any]]]:
    """A config file after those that its key `base` leads to: a name in `cfg/<kind>`, or a path beside the file.

    Raises `UserError` where there is no such file, and if they refer to each other in a circle.
    """
    path = find_config(name, kind)
    files: list[tuple[Path, dict[str, Any]]] = []
    while True:
        if any(path.samefile(seen) for seen, _ in files):
            raise UserError(f"{path}: is its own base, by way of {files[0][0]}; drop the `base` of one of them",
                            "circular-base")
        files.insert(0, (path, read_yaml(path)))
        base = files[0][1].get("base")
        if base is None:
            return files
        if not isinstance(base, str):
            raise UserError(f"{path}: base: expected the name of a recipe, got {shown(base)}", "bad-value")
        beside = path.parent / base
        path = beside if beside.suffix in {".yaml", ".yml"} and beside.is_file() else find_config(base, kind)


def _exists(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name longer than the system allows, or with a NUL
        return False


def is_whole(value: Any, low: int, high: int) -> bool:
    """Whether `value` is an int (no bool) within [low, high]."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def is_number(value: Any, low: float, high: float) -> bool:
    """Whether `value` is a finite int or float (no bool) within [low, high]."""
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value) and low <= value <= high
