"""The settings of a script as one frozen dataclass, of which each field is a command-line flag.

    @dataclass(frozen=True)
    class DetectConfig(Options):
        GROUPS = {"weights": "model", "nosave": "what is written"}
        weights: str = option("", "checkpoint (.pt)", required=True)
        max_det: int = option(1000, "most detections per image", type=positive)
        nosave: bool = option(False, "write no pictures")

    args = DetectConfig.parser("Find objects.", "detect").parse_args()
    config = DetectConfig.from_args(args)
"""

import argparse
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any, ClassVar, TypeVar

from utils.cli import HARD_LIMIT, MAX_PIXELS, OneOrTwo, number, pixels
from utils.parser import Parser

Config = TypeVar("Config", bound="Options")


def option(default: Any, help: str, *aliases: str, **words: Any) -> Any:
    """A field that is a flag: `--field-name`, or any of `aliases`. words: further arguments of `add_argument`.

    A field with the default False is a switch. Sequences are tuples, and lists in files (`Options.to_dict`).
    """
    if default is False and not words:
        words = {"action": "store_true"}
    return field(default=default, metadata={"aliases": aliases, "words": {"help": help, **words}})


def add_flag(parser: argparse._ActionsContainer, name: str, flag: Field) -> None:
    """Add the flag of a field that `option` made."""
    default = list(flag.default) if isinstance(flag.default, tuple) else flag.default
    parser.add_argument("--" + name.replace("_", "-"), *flag.metadata["aliases"], dest=name, default=default,
                        **flag.metadata["words"])


@dataclass(frozen=True)
class Options:
    """Base of the configuration of a script. given: what stood on the command line, by field, also where that was the
    default. GROUPS: the titles of `--help`, each by the first field of its group."""

    GROUPS: ClassVar[Mapping[str, str]] = {}
    given: Mapping[str, Any] = field(default_factory=dict, kw_only=True, compare=False)

    @classmethod
    def parser(cls, description: str, script: str = "") -> Parser:
        """The parser of these flags. script: its name (`train`), by which the words of other programs are
        known (`utils.other_programs`)."""
        parser, title = Parser(description=description, script=script), "flags"
        for flag in fields(cls):
            title = cls.GROUPS.get(flag.name, title)
            if "words" in flag.metadata:
                add_flag(parser.group(title), flag.name, flag)
        return parser

    @classmethod
    def from_args(cls: type[Config], args: argparse.Namespace) -> Config:
        """The configuration that parsed arguments give."""
        values = {flag.name: getattr(args, flag.name) for flag in fields(cls) if hasattr(args, flag.name)}
        return cls(**_frozen(values))

    def replace(self: Config, **changes: Any) -> Config:
        """A copy with other values; lists become tuples."""
        return replace(self, **_frozen(changes))

    def to_dict(self) -> dict[str, Any]:
        """Every flag's value as plain data, as checkpoints and YAML files hold it."""
        values = {flag.name: getattr(self, flag.name) for flag in fields(self) if "words" in flag.metadata}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _frozen(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def size_option(two: str = "height and width") -> Any:
    """`--imgsz`: one or two whole numbers. two: what two stand for (`train, validation` in train.py); models whose
    frames fit their images take the shorter side, or shorter and longer (`Frame.fits_images`)."""
    return option(None, f"input size: one number, or two for {two}; default: the model's own", "--img", "--img-size",
                  nargs="+", type=pixels, metavar="PX", action=OneOrTwo)


def device_option(default: str = "") -> Any:
    """`--device`, read by `utils.device.select_device`."""
    return option(default, "'' takes the first GPU or else the CPU; cpu; 0, 1, ...", metavar="D")


def workers_option() -> Any:
    """`--workers`, read by `utils.cli.worker_count`."""
    return option(None, "processes that load images, at most one per core; 0: none but this one",
                  type=number(int, 0, 1024), metavar="N")


def max_pixels_option() -> Any:
    """`--max-pixels`: what an image may claim before memory is taken for it."""
    return option(MAX_PIXELS, f"larger images are skipped and counted; default {MAX_PIXELS:,}",
                  type=number(int, 1, HARD_LIMIT), metavar="N")


def plugin_option() -> Any:
    """`--plugin`, read by `models.plugins.load_plugins`."""
    return option((), "Python file with layers of your own; may be repeated", action="append", metavar="FILE.py")
