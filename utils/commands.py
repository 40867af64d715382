"""How messages name our commands: as the user of a source tree, or of the installed package, has to type them."""

from utils.config import SOURCE_TREE

SCRIPTS = ("train", "val", "detect", "export")


def command(name: str) -> str:
    """`python train.py`, `assn-train` or `python -m assn train` of "train"; `python -m models.convert` or
    `python -m assn convert` of "models.convert"."""
    if not __name__.startswith("assn."):
        return f"python {name}.py" if name in SCRIPTS else f"python -m {name}"
    # Also from a tree that is imported as `assn`: without being installed it has no `assn-train`.
    return f"assn-{name}" if name in SCRIPTS and not SOURCE_TREE else f"python -m assn {name.rpartition('.')[2]}"
