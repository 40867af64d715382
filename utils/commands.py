"""How messages name our commands: as the user of a source tree, or of the installed package, has to type them."""

SCRIPTS = ("train", "val", "detect", "export")


def command(name: str) -> str:
    """`python train.py` or `assn-train` of "train"; `python -m models.convert` or `python -m assn convert` of
    "models.convert"."""
    if not __name__.startswith("assn."):
        return f"python {name}.py" if name in SCRIPTS else f"python -m {name}"
    return f"assn-{name}" if name in SCRIPTS else f"python -m assn {name.rpartition('.')[2]}"
