"""Reading YAML: safe, within limits, with one clear sentence for every mistake."""

from pathlib import Path
from typing import Any

import yaml

from utils.errors import UserError, nearest, short, shown

CFG_ROOT = Path(__file__).resolve().parent.parent / "cfg"
MAX_BYTES = 1 << 20  # of a file: 20,000 class names take half of it
MAX_CLASSES = 50_000  # of a dataset, model or checkpoint; the largest published vocabularies hold 13,000 to 22,000
MAX_NODES = 100_000  # values, those that aliases repeat counted each time; some 4 s
MAX_DEPTH = 50  # lists and mappings within each other
ESCAPES = "in double quotes a backslash begins an escape: write paths with / or in single quotes"
CURES = {"unknown escape character": ESCAPES, "expected escape sequence": ESCAPES,
         "'\\t' that cannot start": "indent with spaces, not tabs"}


class LimitedLoader(yaml.SafeLoader):
    """PyYAML's safe loader, which refuses what would take unbounded time or memory, and keys that stand twice.

    What stands under `names` is kept as it is written: YAML 1.1 would turn the names yes, no, on, 007 and null into
    other things.
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
    """A key that stands twice with different values is an error: which of them is meant?"""
    first: dict[tuple[str, str], yaml.Node] = {}
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
            before = first.setdefault((key.tag, key.value), value)
            if before is not value and (before.tag, before.value) != (value.tag, value.value):
                problem = f"{shown(key.value)} stands twice with different values; keep one of them"
                raise yaml.composer.ComposerError(None, None, problem, key.start_mark)


def _keep_text(names: yaml.Node) -> None:
    """Let the plain values of a list or mapping be text; the mapping's keys may be numbers."""
    if isinstance(names, yaml.SequenceNode):
        values = names.value
    else:
        values = [value for _, value in names.value] if isinstance(names, yaml.MappingNode) else []
    for value in values:
        if isinstance(value, yaml.ScalarNode):
            value.tag = "tag:yaml.org,2002:str"


def read_yaml(path: Path | str) -> dict[str, Any]:
    """A YAML file as a dict. Raises `UserError` where it is missing, malformed, beyond the limits, or not a mapping."""
    path = Path(path)
    loader = None
    try:
        loader = LimitedLoader(_text(path))
        content = loader.get_single_data()
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" at line {where.line + 1}" if where else ""
        problem = short(str(getattr(error, "problem", None) or getattr(error, "reason", error)).splitlines()[0])
        cure = next((f"; {cure}" for word, cure in CURES.items() if word in problem), "")
        raise UserError(f"{path}: not valid YAML{line}: {problem}{cure}") from None
    finally:
        if loader is not None:
            loader.dispose()
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected `key: value` lines, found {type(content).__name__}")
    return content


def _text(path: Path) -> str:
    """The text of a file in UTF-8, or in UTF-16 where a byte-order mark says so."""
    try:
        if not path.exists():
            raise UserError(f"{short(str(path))}: no such file")
        if not path.is_file():
            raise UserError(f"{path}: no file; give a YAML file")
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path}: {path.stat().st_size:,} bytes, and a YAML file may have {MAX_BYTES:,}; is it "
                            f"another kind of file?")
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{short(str(path))}: cannot be read: {error.strerror}") from None
    if 0 in data[:2] or data[:4] == b"\xff\xfe\0\0":
        raise UserError(f"{path}: not UTF-8 (zero bytes in it, as in UTF-32 or UTF-16 without its mark); save it as "
                        f"UTF-8 in your editor")
    try:
        return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[:error.start].count(b"\n") + 1
        raise UserError(f"{path}: not UTF-8 (byte 0x{data[error.start]:02x} at line {line}); save it as UTF-8 in your "
                        f"editor, or: iconv -f CP1252 -t UTF-8, with the encoding that it has") from None


def find_config(name: str | Path, kind: str) -> Path:
    """Where the file of a config lies: a path as given, or a bare name looked up in `cfg/<kind>`.

    kind: "models", "data" or "train". Raises `UserError` with the nearest names where there is none.
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
                        f"`val:` (folders or lists of images) and `names:`")
    known = sorted(p.stem for p in folder.glob("*.yaml"))
    raise UserError(f"{short(str(name))}: no such {kind} config; "
                    f"{nearest(stem, known) or 'known: ' + ', '.join(known)}")


def _exists(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name longer than the system allows, or with a NUL
        return False
