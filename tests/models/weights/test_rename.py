"""State dicts of other code bases under our names, by rules that a head declares."""

import pytest
import torch

from models import build_model
from models.weights.originals import Original
from models.weights.rename import adapted, fits, our_names, renamed, with_their_names
from models.weights.transfer import import_state_dict
from tests.refusals import user_error

ROWS = {"nc": 2, "backbone": [[-1, 1, "Conv", [8, 3, 2], "stem"], [-1, 1, "Conv", [8, 3, 2], "deep"]],
        "head": [[[0, 1], 1, "DFLDetect", ["nc"]]]}
RENAMES = {r"^trunk\.(conv|bn)1\.": r"stem.\1.", r"^trunk\.(conv|bn)2\.": r"deep.\1.", r"^(?:box|cls)_": "gone.",
           r"^det\.": "head."}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_model(ROWS)


def original(model, order=reversed):
    """Its weights under other names and in another order."""
    names = {"model.0.": "trunk.", "model.1.": "trunk.", "model.2.": "det."}
    state = {}
    for key, value in order(list(model.state_dict().items())):
        row = key[:8]
        rest = key[8:].replace("conv.", f"conv{int(row[6]) + 1}.", 1).replace("bn.", f"bn{int(row[6]) + 1}.", 1)
        state[names[row] + (rest if row != "model.2." else key[8:])] = value + 1
    return state


def test_tensors_are_found_by_name_whatever_their_order(model):
    state = original(model)
    assert our_names(model.model, ["trunk.bn2.weight", "det.cv2.0.2.bias", "other", "box_head"], RENAMES) == {
        "trunk.bn2.weight": "1.bn.weight", "det.cv2.0.2.bias": "2.cv2.0.2.bias"}
    assert fits(model.model, state, RENAMES)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    report = import_state_dict(model, renamed(model.model, state, RENAMES))
    geometry = [key for key in before if "dfl" in key]
    assert all(torch.equal(value, before[key] + 1) for key, value in model.state_dict().items() if key not in geometry)
    pairs = with_their_names(report, model.model, Original(None, "", state), RENAMES).transferred
    assert ("trunk.conv1.weight", "model.0.conv.weight") in pairs


def test_counters_may_be_missing_on_either_side(model):
    state = original(model)
    bare = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    assert fits(model.model, bare, RENAMES) and len(renamed(model.model, bare, RENAMES)) == len(bare)
    more = {**state, "trunk.extra.num_batches_tracked": torch.tensor(3)}
    assert fits(model.model, state, RENAMES) and len(renamed(model.model, more, RENAMES)) == len(state)


def test_what_has_no_place_and_what_has_two_is_told(model):
    state = original(model)
    for changed, told in (({**state, "det.more.weight": torch.zeros(1)}, "no place for the original's det.more.weight"),
                          ({k: v for k, v in state.items() if k != "trunk.conv2.weight"}, "the model's 1.conv.weight")):
        assert not fits(model.model, changed, RENAMES)
        with user_error("weights-do-not-fit", told):
            renamed(model.model, changed, RENAMES)
    twice = {**state, "trunk.conv1.weight ": torch.zeros(1)}
    with user_error("weights-do-not-fit", "two for one"):
        renamed(model.model, twice, {r"^trunk\.conv1\.weight ?": "stem.conv.weight", **RENAMES})
    other = {**state, "trunk.conv1.weight": torch.zeros(1)}
    assert not fits(model.model, other, RENAMES)


def test_a_head_may_change_the_state_and_say_what_it_needs():
    class Head:
        @classmethod
        def adapt_original(cls, state):
            return {"b": state["a"] * 2}, {"pixels": {"order": "bgr"}, "names": ["cat"]}

    found = adapted(Original(None, "", {"a": torch.ones(1)}), Head)
    assert found.state == {"b": torch.tensor([2.0])} and found.implied == {"pixels": {"order": "bgr"}}
    assert found.names == ["cat"]
    assert adapted(Original(None, "", {"a": torch.ones(1)}, names=["dog"]), Head).names == ["dog"]
