"""`assn.models` beside any other `models`: own modules, own registry, and nothing of another repository."""

import pickle

import pytest

import assn
from assn._isolation import builtins_beside
from tests.refusals import user_error
from tests.running import ENVIRONMENT, ROOT, run
from tests.tiny import tiny_data

# Another YOLO repository, whose modules stand in the way under every name of ours.
STRANGER = """
import json, sys
from types import ModuleType
for name in ("models", "models.registry", "utils", "utils.errors", "data", "engine", "train", "val", "detect"):
    sys.modules[name] = ModuleType(name)
"""

def test_importing_assn_is_cheap():
    done = run("-c", "import sys, assn; print(sorted({'torch', 'numpy', 'cv2', 'yaml'} & set(sys.modules)))")
    assert done.stdout.strip() == "[]", done.stderr


def module(text: str, beside: str) -> dict:
    """The names that a piece of code has bound, run beside a module."""
    names = {"__builtins__": builtins_beside(beside), "__name__": "someone", "__package__": ""}
    exec(compile(text, "someone.py", "exec"), names)
    return names


@pytest.mark.parametrize("statement", [
    "from models.registry import register", "from assn.models.registry import register",
    "import models.registry as r\nregister = r.register", "import assn.models.registry as r\nregister = r.register",
    "import models.registry\nregister = models.registry.register",
    "import assn.models.registry\nregister = assn.models.registry.register",
    "from models import registry\nregister = registry.register",
    "from assn import models\nregister = models.registry.register",
    "def late():\n    from models.registry import register\n    return register\nregister = late()",
    "import importlib.util, os.path, xml.etree.ElementTree as tree\nfrom models.registry import register"])
@pytest.mark.parametrize("beside", ["models.plugins", "assn.models.plugins"])
def test_either_name_is_the_module_in_use(beside, statement):
    from importlib import import_module

    import assn.models.registry
    import models.registry
    assert models.registry is not assn.models.registry
    assert module(statement, beside)["register"] is import_module(beside.replace("plugins", "registry")).register


def test_a_plugin_beside_a_plain_tree_still_reaches_assn_itself():
    assert module("import assn\nversion = assn.__version__", "models.plugins")["version"] == assn.__version__


PLUGIN = """
from torch import nn
from {} import register

@register("{}", width="c2")
class Halve(nn.Conv2d):
    def __init__(self, c1, c2):
        super().__init__(c1, c2, 1, 2)
        self.out_channels, self.stride_of_map = c2, 2
"""


@pytest.mark.parametrize("source", ["models.registry", "assn.models.registry"])
def test_a_plugin_registers_in_the_copy_that_loads_it(tmp_path, source):
    """The same file in both copies, whichever name it imports."""
    from assn.models import plugins as isolated
    from models import plugins as plain

    path = tmp_path / "mine.py"
    name = "Halve" + source.replace(".", "")
    path.write_text(PLUGIN.format(source, name), encoding="utf-8")
    for copy in (plain, isolated):
        assert name not in copy.known_layers()
        assert copy.load_plugin(path) == [name]
        assert name in copy.known_layers()


def test_classes_are_pickled_by_the_name_that_another_process_can_import():
    from assn.utils.structures import Detections

    assert b"assn.utils.structures" in pickle.dumps(Detections)


WORKERS = STRANGER + """
import pickle
if __name__ == "__main__":
    import assn
    from assn.data.augment.policies.yolo import YoloPolicy
    from assn.data.index import load_index
    from assn.data.loading.build import train_loader
    from assn.data.loading.config import LoaderConfig
    index = load_index(sys.argv[1], "train")
    for start in ("spawn", "forkserver"):
        loader = train_loader(index, 64, YoloPolicy(), LoaderConfig(2, workers=1, start_method=start, device="cpu"))
        print(sum(len(batch) for batch in loader), type(batch := next(iter(loader))).__module__)
"""


@pytest.mark.slow
def test_loader_workers_of_every_start_method(tmp_path):
    """Workers run the main file again, and so meet the stranger before they import `assn...`."""
    (tmp_path / "main.py").write_text(WORKERS, encoding="utf-8")
    yaml = tiny_data(tmp_path, 4, 2)
    yaml = yaml / "tiny.yaml" if yaml.is_dir() else yaml
    done = run(tmp_path / "main.py", yaml, environment={**ENVIRONMENT, "PYTHONPATH": str(ROOT)})
    assert done.stdout.splitlines() == ["4 assn.utils.structures"] * 2, done.stderr


def test_errors_of_this_copy_are_assn_user_errors():
    with pytest.raises(assn.UserError, match="did you mean 'yolov8n'"):
        assn.build_model("yolov8nn")
    with user_error("unknown-name"):
        __import__("models").build_model("yolov8nn")


def test_unknown_names():
    with pytest.raises(AttributeError, match="'assn' has no attribute 'load_modle'"):
        assn.load_modle  # noqa: B018
    with pytest.raises(ModuleNotFoundError, match=r"assn\.nothing"):
        __import__("assn.nothing")
    with pytest.raises(ModuleNotFoundError, match=r"assn\.models\.nothing"):
        __import__("assn.models.nothing")
    assert set(assn.__all__) <= set(dir(assn))
    assert all(getattr(assn, name) is not None for name in assn.__all__)
