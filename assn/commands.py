"""The commands of the installed package: `assn-train`, ..., and those of `python -m assn`."""

from importlib import import_module

# name: (module with `build_parser() -> ArgumentParser` and `main(args)`, purpose)
COMMANDS = {
    "train": ("assn.train", "train a detector"),
    "val": ("assn.val", "evaluate detectors by COCO's protocol and others"),
    "detect": ("assn.detect", "find objects in images, videos and streams"),
    "export": ("assn.export", "write a detector for other runtimes"),
    "data": ("assn.data.__main__", "check a data set"),
    "models": ("assn.models.__main__", "list models, print the layers of one"),
    "convert": ("assn.models.convert", "write a checkpoint of another code base in our format"),
    "evaluation": ("assn.engine.evaluation.__main__", "judge results files without a model"),
}


def run(name: str, program: str) -> None:
    """Run a command with the arguments of this process. program: its name in usage texts."""
    import_module("assn.utils.threads").shorten_spinning()  # before PyTorch is imported
    import_module("assn.utils.threads").shorten_spinning()  # before PyTorch is imported
    module = import_module(COMMANDS[name][0])
    parser = module.build_parser()
    parser.prog = program
    import_module("assn.utils.errors").run_script(module.main, parser)


def train() -> None:
    """`assn-train`."""
    run("train", "assn-train")


def val() -> None:
    """`assn-val`."""
    run("val", "assn-val")


def detect() -> None:
    """`assn-detect`."""
    run("detect", "assn-detect")


def export() -> None:
    """`assn-export`."""
    run("export", "assn-export")
