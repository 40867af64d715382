"""Settings of a script as a frozen dataclass whose fields are its flags."""

from dataclasses import FrozenInstanceError, dataclass

import pytest

from utils.cli import positive
from utils.options import Options, option, plugin_option, size_option


@dataclass(frozen=True)
class Config(Options):
    weights: str = option("", "checkpoint", required=True)
    max_det: int = option(300, "most detections", "--most", type=positive)
    nosave: bool = option(False, "write nothing")
    formats: tuple[str, ...] = option(("onnx",), "formats", nargs="+")
    imgsz: tuple[int, ...] | None = size_option()
    plugin: tuple[str, ...] = plugin_option()


def parse(*words: str) -> Config:
    return Config.from_args(Config.parser("A script.", "train").parse_args(list(words)))


def test_flags_become_fields_and_plain_data():
    config = parse("--weights", "a.pt", "--most", "7", "--nosave", "--imgsz", "64", "96", "--plugin", "b.py")
    assert (config.weights, config.max_det, config.nosave) == ("a.pt", 7, True)
    assert (config.formats, config.imgsz, config.plugin) == (("onnx",), (64, 96), ("b.py",))
    assert config.to_dict() == {"weights": "a.pt", "max_det": 7, "nosave": True, "formats": ["onnx"], "imgsz": [64, 96],
                                "plugin": ["b.py"]}


def test_given_holds_what_stood_on_the_command_line_even_at_its_default():
    assert dict(parse("--weights", "a.pt", "--max-det", "300").given) == {"weights": "a.pt", "max_det": 300}
    assert parse("--weights", "a.pt") == parse("--weights", "a.pt", "--max-det", "300")  # equal settings


def test_a_configuration_is_frozen_and_replaced():
    config = parse("--weights", "a.pt")
    with pytest.raises(FrozenInstanceError):
        config.max_det = 5
    assert config.replace(max_det=5).max_det == 5 and config.max_det == 300
    assert config.replace(max_det=5).given == config.given


def test_required_and_unsupported_flags_end_the_program(capsys):
    for words in ((), ("--weights", "a.pt", "--adam")):
        with pytest.raises(SystemExit):
            parse(*words)
    assert "use --optimizer Adam" in capsys.readouterr().err


def test_repeated_flags_do_not_reach_the_defaults():
    parse("--weights", "a.pt", "--plugin", "one.py")
    assert parse("--weights", "a.pt").plugin == ()
