"""Reading YAML: safe, with one clear sentence for every mistake."""

from pathlib import Path
from typing import Any

import yaml

from utils.errors import UserError, nearest

CFG_ROOT = Path(__file__).resolve().parent.parent / "cfg"


def read_yaml(path: Path | str) -> dict[str, Any]:
    """A YAML file as a dict. Raises `UserError` where it is missing, malformed, or not a mapping."""
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" at line {where.line + 1}" if where else ""
        raise UserError(f"{path}: not valid YAML{line}: {getattr(error, 'problem', error)}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected `key: value` lines, found {type(content).__name__}")
    return content


def find_config(name: str | Path, kind: str) -> Path:
    """Where the file of a config lies: a path as given, or a bare name looked up in `cfg/<kind>`.

    kind: "models", "data" or "train". Raises `UserError` with the nearest names where there is none.
    """
    given = Path(name)
    if given.suffix in {".yaml", ".yml"} and given.is_file():
        return given
    folder = CFG_ROOT / kind
    stem = given.stem if given.suffix in {".yaml", ".yml"} else given.name
    candidate = folder / f"{stem}.yaml"
    if given.parent == Path() and candidate.is_file():
        return candidate
    known = sorted(p.stem for p in folder.glob("*.yaml"))
    raise UserError(f"{name}: no such {kind} config; {nearest(stem, known) or 'known: ' + ', '.join(known)}")
