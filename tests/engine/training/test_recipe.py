"""Recipes: what a file may say, and that ours say what the facts about the originals say."""

import re
from dataclasses import dataclass, replace

import pytest
import yaml

from data.augment.policies import POLICIES, policy_type
from data.augment.policies.policy import Policy
from data.augment.policies.ssd import SsdPolicy
from data.augment.policies.yolo import YoloPolicy
from engine.training.config import TrainConfig, resolve_settings
from engine.training.evolve import search_space
from engine.training.recipe import Recipe, known_options, load_recipe
from engine.training.setup import family_recipe, no_mosaics, unreached_milestones
from models import build_model
from models.catalogue import resolve
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.config import CFG_ROOT
from utils.errors import UserError

WORDS = list(YoloPolicy.__dataclass_fields__)
# Column of the facts' table -> our recipe.
COLUMNS = {"v7 p5": "yolov7", "v7 p6": "yolov7-p6", "v7 tiny": "yolov7-tiny", "v7 custom": "yolov7-custom",
           "v5 low": "yolov5", "v5 med": "yolov5-med", "v5 high": "yolov5-high", "v3 v9.6": "yolov3",
           "yolor 1280 scratch / finetune": ("yolor", "yolor-finetune"),
           "yolo4 scratch / finetune": ("yolov4", "yolov4-finetune"), "v8 default": "yolov8"}
ROWS = {"lr0": ["lr0"], "lrf": ["lrf"], "momentum": ["momentum"], "weight decay": ["weight_decay"],
        "warmup ep / mom / bias lr": ["warmup_epochs", "warmup_momentum", "warmup_bias_lr"],
        "box / cls / obj": ["box", "cls", "obj"], "hsv h/s/v": ["hsv_h", "hsv_s", "hsv_v"],
        "degrees, shear, perspective, flipud": ["degrees", "shear", "perspective", "flipud"],
        **{word: [word] for word in ("translate", "scale", "fliplr", "mosaic", "mixup", "copy_paste", "fl_gamma")}}
EVOLVED = {"lr0": "lr0", "lrf": "lrf", "momentum": "momentum", "wd": "weight_decay", "box": "box", "cls": "cls",
           "obj": "obj", "anchor_t": "anchor_t", "translate": "translate", "scale": "scale", "mosaic": "mosaic",
           "mixup": "mixup", "anchors": "anchors"}


def everything(name):
    """All values of a recipe, those of the augmentation's defaults too."""
    recipe = load_recipe(name)
    return {**{word: getattr(YoloPolicy(), word) for word in WORDS},
            **{word: option.neutral for word, option in known_options().items()}, **recipe.values()}


def split(cell, count):
    """What a cell of the table says of each of `count` numbers: floats, None where it says nothing."""
    if cell in ("", "-"):
        return [None] * count
    parts = [float(x) if re.fullmatch(r"[\d.e-]+", x) else x for x in re.split(r"\s*/\s*", cell.strip("()"))]
    return parts * count if len(parts) == 1 else parts


def test_recipes_hold_what_the_facts_say(shared):
    text = (shared / "facts" / "training_recipes.md").read_text(encoding="utf-8")
    table = [[cell.strip() for cell in line.strip("|").split("|")]
             for line in text.partition("## 2.")[2].partition("(\"=\"")[0].splitlines() if line.startswith("|")]
    header = [next((k for k in COLUMNS if cell.startswith(k)), None) for cell in table[0]]
    compared = 0
    for title, *cells in table[2:]:
        words, first = ROWS.get(title, []), cells[0]
        for column, cell in zip(header[1:], cells, strict=True):
            names = COLUMNS[column] if isinstance(COLUMNS[column], tuple) else (COLUMNS[column],)
            if cell == "=":
                cell = first
            cell = cell.replace(" fixed", "").replace("always", "1").partition(" (off")[0].replace("dfl ", "")
            two = len(names) == 2 and len(words) == 1 and " / " in cell
            variants = cell.split(" / ") if two else [cell] * len(names)
            for name, variant in zip(names, variants, strict=True):
                own = ["box", "cls", "dfl"] if name == "yolov8" and words == ROWS["box / cls / obj"] else words
                for word, expected in zip(own, split(variant, len(own)), strict=True):
                    if expected is not None:
                        assert everything(name)[word] == pytest.approx(expected), (name, word)
                        compared += 1
    assert compared > 250


@pytest.mark.parametrize("name, title", [("yolov5-voc", "VOC"), ("yolov5-objects365", "Objects365")])
def test_evolved_recipes_hold_what_the_facts_say(shared, name, title):
    text = (shared / "facts" / "training_recipes.md").read_text(encoding="utf-8")
    told = re.search(rf"{title} \((lr0.*?)\)[,.]", text, re.DOTALL)[1]
    values, compared = everything(name), 0
    for part in told.split(", "):
        word, *numbers = part.split()
        pairs = [(EVOLVED[word], numbers[0])] if word in EVOLVED else []
        if "pw" in numbers:
            pairs.append((f"{word}_pw", numbers[2]))
        if word in ("warmup", "hsv"):
            own = {"warmup": ROWS["warmup ep / mom / bias lr"], "hsv": ROWS["hsv h/s/v"]}[word]
            pairs = list(zip(own, numbers[0].split("/"), strict=True))
        assert pairs, part
        for key, number in pairs:
            assert values[key] == pytest.approx(float(number)), key
        compared += len(pairs)
    assert compared >= 16


def test_recipes_of_ssd_and_assd_hold_what_the_facts_say(shared):
    text = (shared / "facts" / "assd_ssd.md").read_text(encoding="utf-8").partition("## 9.")[2]
    assert text.startswith(" Recipes\nSGD, momentum .9 (no Nesterov), wd 5e-4 on **all** parameters, lr .001, no "
                           "warm-up, no EMA, no clipping, no AMP, no accumulation.")
    cells = {row.split("|")[1].strip(): row.split("|")[2:4] for row in text.splitlines() if row.startswith("| ")}
    for data, names in (("VOC", ("assd-321", "assd")), ("COCO", ("assd-coco-321", "assd-coco"))):
        length = cells[f"ASSD [P] {data} 321 / 513"][1].split(" / ")
        for name, cell, images in zip(names, length, (10, 8), strict=True):
            epochs, *drops = map(int, re.findall(r"\d+", cell))
            recipe = load_recipe(name)
            assert recipe.run == {"epochs": epochs, "batch_size": 8 * images} and recipe.milestones == drops
    iterations = cells["SSD300 VOC / COCO (amdegroot)"][1].removeprefix("iterations ").split(" / ")
    for name, cell, images in zip(("ssd", "ssd-coco"), iterations, (16_551, 118_287), strict=True):
        recipe, thousands = load_recipe(name), [int(n) for n in re.findall(r"(\d+)k", cell)]
        epochs = [round(n * 1000 * 32 / images) for n in thousands]
        assert [recipe.run["epochs"], *recipe.milestones] == epochs and recipe.run["batch_size"] == 32
    repeated = load_recipe("ssd-mmdetection")
    assert cells["mmdetection SSD300/512 COCO"][1].strip() == "lr .002, 24 x 5 epochs (16, 22), 500 it. warm-up"
    assert (repeated.lr0, repeated.run["epochs"], repeated.milestones) == (0.002, 24 * 5, [16 * 5, 22 * 5])
    assert (repeated.warmup_min_iters, repeated.run["batch_size"]) == (500, 64) and repeated.warmup_epochs > 0
    for name in ("ssd", "ssd-coco", "assd", "assd-321", "assd-coco", "assd-coco-321", "assd-vgg"):
        r = load_recipe(name)
        assert (r.optimizer, r.momentum, r.nesterov, r.weight_decay, r.decay) == ("SGD", 0.9, False, 5e-4, "all"), name
        assert (r.lr0, r.gamma, r.warmup_epochs, r.ema, r.clip_grad, r.nominal_batch) == (0.001, 0.1, 0, 0, 0, 0), name
        assert r.make_policy() == policy_type("ssd")(), "the policy's defaults are SSD's"
        assert (r.loss, r.policy, r.schedule) == ("mean", "ssd", "steps") and r.milestones[-1] < r.run["epochs"], name


def test_the_schedule_of_retinanet_is_1x():
    recipe = load_recipe("retinanet")
    assert recipe.run == {"epochs": 12, "batch_size": 16} and recipe.milestones == [8, 11]
    policy = recipe.make_policy()
    assert (policy.mosaic, policy.scale, policy.translate, policy.hsv_h, policy.hsv_s, policy.hsv_v) == (0,) * 6
    assert (recipe.lr0, recipe.weight_decay, policy.fliplr) == (0.01, 1e-4, 0.5)


def test_mosaics_of_nine_are_yolov7s_alone():
    shares = {name: everything(name)["mosaic9"] for name in ("yolov7", "yolov7-custom", "yolov7-p6", "yolor", "yolov5")}
    assert shares == {"yolov7": 0.2, "yolov7-custom": 0.2, "yolov7-p6": 0.2, "yolor": 0.0, "yolov5": 0.0}


def test_a_file_may_name_a_base_beside_it_or_among_ours(tmp_path):
    (tmp_path / "near.yaml").write_text("base: yolov7\nlr0: 0.2\nmixup: 0.3\n")
    (tmp_path / "far.yaml").write_text("base: near.yaml\nmixup: 0.4\n")
    recipe = load_recipe(tmp_path / "far.yaml", base=load_recipe("yolov8"))
    assert (recipe.lr0, recipe.augment["mixup"], recipe.schedule) == (0.2, 0.4, "cosine")
    assert "dfl" not in recipe.gains  # the base that the file names, not the one of the model's family


@pytest.mark.parametrize("text, message", [
    ("base: loop.yaml", "its own base"), ("base: yolov77", "no such train config; did you mean"),
    ("base: 7", "base: expected"), ("anchor_t: 1.0", "anchor_t: 1 should be"), ("obj_pw: -1", "obj_pw: -1 should be 0"),
    ("momentum: 2147483648", "momentum: 2.14748e+09 should be 0 or more and below 1"), ("momentum: 1", "below 1"),
    ("warmup_momentum: 1.0e+308", "below 1"), ("lr0: -.inf", "lr0: expected a finite number"), ("lr0: -1", "0 to 1000"),
    ("lrf: 1.0e+308", "lrf: 1e+308 should be 0 to 1000"), ("box: .nan", "box: expected a finite number"),
    ("box: -1", "box: -1 should be 0 to 1e"), ("weight_decay: 1.0e+30", "0 to 1000"), ("clip_grad: -1", "0 to 1e"),
    ("mosaic: .inf", "mosaic: expected a finite"), ("warmup_epochs: -1", "0 to 1e"), ("label_smoothing: 2", "0 to 1$")])
def test_wrong_bases_and_numbers_are_told(tmp_path, text, message):
    (tmp_path / "loop.yaml").write_text(f"{text}\n")
    with pytest.raises(UserError, match=message.replace("e+", r"e\+")):
        load_recipe(tmp_path / "loop.yaml")


@pytest.mark.parametrize("text, message", [
    ("schedule: steps", "milestones: [] with schedule: steps"), ("milestones: [3]", "milestones: [3] with schedule: l"),
    ("schedule: steps\nmilestones: 3", "milestones: expected a list, got 3"),
    ("schedule: steps\nmilestones: [3, 2]", "milestones: [3, 2] should be epochs in rising order"),
    ("schedule: steps\nmilestones: [0, 2]", "milestones: "), ("schedule: steps\nmilestones: [1.5]", "milestones: "),
    ("schedule: steps\nmilestones: [2, true]", "milestones: "), ("schedule: steps\nmilestones: [[1]]", "milestones: "),
    ("schedule: steps\nmilestones: [1]\nlrf: 0.1", "lrf: 0.1 is not read with schedule: steps"),
    ("gamma: 0.5", "gamma: 0.5 is not read with schedule: linear"),
    ("schedule: steps\nmilestones: [1]\ngamma: 2", "gamma: 2 should be 0 to 1"),
    ("nominal_batch: -1", "nominal_batch: -1 should be 0 to"), ("nominal_batch: 1.5", "nominal_batch: expected a int"),
    ("loss: median", "loss: 'median' is none of sum, mean"), ("decay: none", "decay: 'none' is none of weights, all"),
    ("nesterov: 0", "nesterov: expected a bool, got 0"), ("ema: 1.0", "ema: 1 should be 0 or more and below 1"),
    ("policy: 7", "policy: expected a str"), ("policy: mosaic", "policy: unknown augmentation"),
    ("groups: {part: head}", "groups: expected a list"),
    ("groups: [{part: head, lr: -1}]", "groups[0].lr: -1"), ("groups: [{match: '(', lr: 1}]", "groups[0].match: '('")])
def test_conventions_of_other_families_are_checked(tmp_path, text, message):
    (tmp_path / "a.yaml").write_text(f"{text}\n")
    with pytest.raises(UserError, match=rf"a\.yaml: {re.escape(message)}"):
        load_recipe(tmp_path / "a.yaml")


STEPS = ("base: yolov5\noptimizer: SGD\nschedule: steps\nmilestones: [2, 4]\ngamma: 0.5\nloss: mean\nnominal_batch: 0\n"
         "nesterov: false\nema: 0\ndecay: all\ngroups: [{part: backbone, lr: 0.1}, {match: '^head', decay: 0.0}]\n")


def test_lists_of_a_recipe_are_kept(tmp_path):
    (tmp_path / "steps.yaml").write_text(STEPS)
    recipe = load_recipe(tmp_path / "steps.yaml")
    assert (recipe.milestones, recipe.gamma, recipe.loss) == ([2, 4], 0.5, "mean")
    assert recipe.groups == [{"part": "backbone", "lr": 0.1}, {"match": "^head", "decay": 0.0}]
    assert (recipe.nesterov, recipe.decay, recipe.nominal_batch, recipe.ema) == (False, "all", 0, 0)
    assert "lrf" not in recipe.values() and "lrf" not in search_space(recipe)
    assert not {"milestones", "gamma"} & load_recipe("yolov5").values().keys()
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(recipe.with_values({"lr0": 0.5}).values()))
    assert load_recipe(tmp_path / "again.yaml") == replace(recipe, lr0=0.5)
    save_checkpoint({"recipe": vars(recipe)}, tmp_path / "a.pt")
    assert Recipe.from_checkpoint(load_checkpoint(tmp_path / "a.pt")["recipe"]) == recipe


def test_another_schedule_needs_no_milestones(tmp_path):
    (tmp_path / "steps.yaml").write_text(STEPS)
    (tmp_path / "curve.yaml").write_text("base: steps.yaml\nschedule: cosine\nlrf: 0.1\n")
    assert load_recipe(tmp_path / "curve.yaml").milestones == []
    steps = load_recipe(tmp_path / "steps.yaml")
    _, curve = resolve_settings(TrainConfig(cos_lr=True), steps)
    assert (curve.schedule, curve.milestones) == ("cosine", [])
    assert resolve_settings(TrainConfig(), steps)[1].milestones == [2, 4]
    assert "4 of the recipe are not reached in 4 epochs" in unreached_milestones(steps, 4)[0]
    assert unreached_milestones(steps, 5) == []


def test_a_training_whose_last_epochs_without_mosaic_are_all_is_told(tmp_path):
    def notes(recipe="yolov8", **settings):
        config = TrainConfig(**{"epochs": 4, "close_mosaic": 10, **settings})
        return no_mosaics(load_recipe(recipe), config)

    assert "10 epochs" in notes()[0] and "there are 4" in notes()[0] and len(notes(epochs=10)) == 1
    assert notes(epochs=11) == notes(rect=True) == notes(close_mosaic=0) == notes("ssd") == []


@pytest.mark.parametrize("name", ["assd-coco-321", "retinanet", "ssd-mmdetection"])
def test_a_recipe_of_another_family_written_out_is_itself(tmp_path, name):
    """As --evolve writes it."""
    recipe = load_recipe(name)
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(recipe.values()))
    assert load_recipe(tmp_path / "a.yaml") == recipe
    assert {"lr0", "weight_decay", "fliplr"} < search_space(recipe).keys() and "lrf" not in search_space(recipe)


@dataclass(frozen=True)
class Crops(Policy):
    """A policy without mosaics."""

    tries: int = 50
    crop: str = "paper"


def test_words_are_those_of_the_policy(tmp_path, monkeypatch):
    monkeypatch.setitem(POLICIES, "crops", Crops)
    (tmp_path / "crops.yaml").write_text("base: yolov7\npolicy: crops\ncrop: code\ntries: 10\n")
    recipe = load_recipe(tmp_path / "crops.yaml")
    assert (recipe.augment, recipe.close_mosaic) == ({"crop": "code", "tries": 10.0}, 0)
    assert recipe.make_policy() == Crops(10, "code")
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(recipe.values()))
    assert load_recipe(tmp_path / "again.yaml") == recipe
    for text, message in (("mosaic: 1.0", "'mosaic'; it is a word of policy yolo, and this recipe's is crops"),
                          ("crop: 1", "crop: expected a str"), ("cropp: paper", "did you mean 'crop'")):
        (tmp_path / "bad.yaml").write_text(f"{text}\n")
        with pytest.raises(UserError, match=message):
            load_recipe(tmp_path / "bad.yaml", base=recipe)
    for config, changed in ((TrainConfig(close_mosaic=3), recipe), (TrainConfig(), replace(recipe, close_mosaic=3))):
        with pytest.raises(UserError, match="close.mosaic.* 3: policy crops shows no mosaics") as error:
            resolve_settings(config, changed)
        assert error.value.code == "flag-without-effect"
    assert resolve_settings(TrainConfig(), family_recipe(TrainConfig(), str(tmp_path / "crops.yaml")))[0].epochs == 10


def test_what_anchor_heads_alone_have_reaches_them(tmp_path):
    (tmp_path / "a.yaml").write_text("base: yolov5-voc\nfl_gamma: 1.5\nlabel_smoothing: 0.1\n")
    head = build_model("yolov5n", 2).head
    options = load_recipe(tmp_path / "a.yaml").head_arguments(head)
    assert options == {"anchor_t": 3.3744, "cls_pw": 0.5, "obj_pw": 0.67198, "focal_gamma": 1.5, "label_smoothing": 0.1}
    head = build_model("yolov5n", 2, **options).head
    assert {word: getattr(head.loss_config, word) for word in options} == options
    assert load_recipe("yolov7").head_arguments(head) == {}


def test_a_recipe_is_checked_against_the_head(tmp_path):
    heads = build_model("yolov5n", 2).head, build_model("yolov8n", 2).head
    (tmp_path / "a.yaml").write_text("base: yolov5\ncls_pw: 0.5\n")
    assert load_recipe(tmp_path / "a.yaml").for_head(heads[0]).head == {
        "label_smoothing": 0.0, "fl_gamma": 0.0, "anchor_t": 4.0, "cls_pw": 0.5, "obj_pw": 1.0}
    assert load_recipe("yolov8").for_head(heads[1]).head == {}  # its label_smoothing changes nothing
    (tmp_path / "b.yaml").write_text("base: yolov8\ncls_pw: 0.5\n")
    for recipe, head, key in ((tmp_path / "b.yaml", heads[1], "cls_pw"), ("yolov5", heads[1], "obj"),
                              ("yolov8", heads[0], "dfl")):
        with pytest.raises(UserError, match=key) as error:
            load_recipe(recipe).for_head(head)
        assert error.value.code == "unknown-key"


def test_recipes_in_checkpoints_of_before():
    stored = {**vars(load_recipe("yolov7")), "anchor_t": 3.0}
    del stored["head"]
    recipe = Recipe.from_checkpoint(stored)
    assert recipe.head == {"anchor_t": 3.0} and recipe.gains["obj"] == 0.7


def test_values_make_a_file_that_reads_back_as_the_same_recipe(tmp_path):
    recipe = load_recipe("yolov5-voc").with_values({"lr0": 0.5, "box": 0.06, "mosaic": 0.25})
    assert (recipe.lr0, recipe.gains["box"], recipe.augment["mosaic"]) == (0.5, 0.06, 0.25)
    (tmp_path / "b.yaml").write_text(yaml.safe_dump(recipe.values()))
    assert load_recipe(tmp_path / "b.yaml") == recipe


def test_the_page_on_recipes_names_them_all_and_its_commands_hold():
    text = (CFG_ROOT.parent / "docs" / "recipes.md").read_text(encoding="utf-8")
    names = {path.stem for path in (CFG_ROOT / "train").glob("*.yaml")}
    assert not [name for name in names if f"`{name}`" not in text and f"--hyp {name}" not in text]
    for name in re.findall(r"--hyp ([\w-]+)(?![\w.-])", text):
        assert name in names or name == "mine"
    for name in re.findall(r"--cfg ([\w@-]+)", text):
        assert resolve(name)["recipe"] in names
    flags = {word for action in TrainConfig.parser("")._actions for word in action.option_strings}
    for word in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text):
        assert word.startswith(("--nproc", "--nnodes", "--rdzv")) or any(flag.startswith(word) for flag in flags), word


def test_images_are_padded_with_the_colour_of_the_models_frames() -> None:
    assert Recipe().make_policy((114, 114, 114)) == YoloPolicy() == Recipe().make_policy()
    assert Recipe().make_policy((124, 116, 104)).fill_bgr == (104, 116, 124)
    assert Recipe(augment={"fill": 30.0}).make_policy((124, 116, 104)).fill == 30
    assert Recipe(policy="ssd").make_policy((0, 0, 0)).fill == SsdPolicy().fill  # around an expanded image, not padding
