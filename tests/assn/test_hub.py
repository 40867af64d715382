"""torch.hub beside a repository that has `models` and `utils` of its own, as YOLOv5 and YOLOv7 have."""

import json

import pytest

import assn
from models import known_models
from tests.running import ENVIRONMENT, ROOT, run
from tests.tiny import picture, tiny_checkpoint

# The other repository is loaded first and stays in use: its modules and its place on sys.path.
PROBE = """
import json, sys, warnings
import torch
theirs, ours, weights, source = sys.argv[1:]
sys.path.insert(0, theirs)
import models, utils, utils.general
built = torch.hub.load(ours, "yolov8n_assn", source="local", num_classes=2)
model = torch.hub.load(ours, "custom", path=weights, source="local")
found = model.predict(source, slice=64, imgsz=64)[0]
import assn.train, assn.val, assn.export, assn.data.__main__
from assn.data.formats import reader
reader("coco")
files = {name: getattr(module, "__file__", None) or "" for name, module in list(sys.modules.items())}
from utils.general import check
import models.common
print(json.dumps({"built": [type(built).__module__, len(built.names), built.model.num_classes],
                  "found": found.to_coco(), "drawn": found.plot().shape == found.image.shape,
                  "theirs": [check(), models.common.WHO, utils.WHO],
                  "below": sorted(n for n in sys.modules if n.startswith(("models.", "utils.", "data.", "engine."))),
                  "plain": [name for name, file in files.items() if file.startswith(ours + "/")
                            and "site-packages" not in file and name.partition(".")[0] != "assn"]}))
"""


@pytest.fixture(scope="module")
def answer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    who = "WHO = 'them'"
    for file, text in {"models/__init__.py": "", "models/common.py": who, "utils/__init__.py": who,
                       "utils/general.py": "def check():\n    from models.common import WHO\n    return WHO"}.items():
        (folder / "theirs" / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / "theirs" / file).write_text(text, encoding="utf-8")
    weights, source = tiny_checkpoint(folder / "tiny.pt"), picture(folder / "a.png")
    done = run("-c", PROBE, folder / "theirs", ROOT, weights, source,
               environment={**ENVIRONMENT, "PYTHONPATH": "", "PYTHONSAFEPATH": "1"})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), weights, source


def test_an_entry_builds_a_model_that_predicts(answer):
    assert answer[0]["built"] == ["assn.engine.inference.model", 2, 2]


def test_predictions_are_those_without_the_hub(answer):
    from engine.inference.model import load_model

    told, weights, source = answer
    assert told["found"] == load_model(weights, "cpu").predict(source, slice=64, imgsz=64)[0].to_coco() != []
    assert told["drawn"]


def test_the_other_repository_stays_what_it_was(answer):
    assert answer[0]["theirs"] == ["them"] * 3
    assert answer[0]["below"] == ["models.common", "utils.general"] and answer[0]["plain"] == []


def test_every_name_of_the_zoo_is_an_entry_and_nothing_is_downloaded():
    """As torch.hub.list looks for them."""
    import hubconf

    entries = {name for name in dir(hubconf) if callable(getattr(hubconf, name)) and not name.startswith("_")}
    names = {f"{name}{neck}".replace("-", "_") for name in known_models() for neck in ("", "-assn", "-ssfpn")}
    assert entries == {"create", "custom", *names} and all(name.isidentifier() for name in entries)
    assert all(getattr(hubconf, name).__doc__ for name in entries)
    with pytest.raises(assn.UserError, match="nothing is downloaded"):
        hubconf.yolov8n_assn(pretrained=True)
