"""Words of YOLOv5, YOLOv7 and Ultralytics that are not ours are refused with ours."""

import re

import pytest

import detect
import export
import train
import val
from utils.errors import UserError
from utils.other_programs import MODES, WORDS, _is_flag, is_setting, spelled

PARSERS = {"train": train.build_parser, "val": val.build_parser, "detect": detect.build_parser,
           "export": export.build_parser}
# The settings of Ultralytics 8.4 that each of its modes reads, as `yolo cfg` and its documentation list them.
ULTRALYTICS = {
    "train": """mode model data epochs time patience batch imgsz save save_period cache device workers project name
        exist_ok pretrained cls_remap optimizer verbose seed deterministic single_cls rect cos_lr close_mosaic resume
        amp fraction profile freeze multi_scale compile channels_last overlap_mask mask_ratio dropout val split plots
        lr0 lrf momentum weight_decay warmup_epochs warmup_momentum warmup_bias_lr distill_model dis box cls cls_pw dfl
        pose kobj rle angle dlog dgrad dlam nbs hsv_h hsv_s hsv_v degrees translate scale shear perspective flipud
        fliplr bgr mosaic mixup cutmix copy_paste copy_paste_mode auto_augment erasing cfg""",
    "val": """task mode model data imgsz batch save_json conf iou max_det half quantize device dnn plots classes rect
        split project name verbose save_txt save_conf workers augment agnostic_nms single_cls visualize exist_ok""",
    "detect": """mode model source conf iou imgsz half quantize device batch max_det vid_stride stream_buffer
        visualize augment agnostic_nms classes retina_masks embed project name exist_ok stream verbose show save
        save_frames save_txt save_conf save_crop show_labels show_conf show_boxes line_width tracker dnn nms""",
    "export": """mode model format imgsz keras optimize half int8 quantize dynamic simplify opset workspace nms
        batch device data fraction conf iou max_det agnostic_nms verbose""",
}
FACTS = re.compile(r"^\*\*(\w+)\.py\*\*.*?(?=^\*\*|\Z)", re.MULTILINE | re.DOTALL)


def is_known(script: str, word: str) -> bool:
    flag = "--" + spelled(word)
    own = PARSERS[script]()._option_string_actions
    return flag in own or spelled(word) in WORDS[script] or sum(name.startswith(flag) for name in own) == 1


def said(capsys, script: str, *words: str) -> str:
    with pytest.raises(SystemExit) as stop:
        PARSERS[script]().parse_args(list(words))
    text = capsys.readouterr().err
    assert stop.value.code == 2 and text.startswith("error: ") and text.count("\n") == 1
    return text


def test_every_flag_of_yolov5_and_yolov7_is_ours_or_answered(shared):
    text = (shared / "facts/cli_words.md").read_text(encoding="utf-8")
    found = {match[1]: sorted(set(re.findall(r"--[\w-]+", match[0]))) for match in FACTS.finditer(text)}
    assert set(found) == set(WORDS) and min(map(len, found.values())) > 15
    lacking = [(script, word) for script, words in found.items() for word in words if not is_known(script, word)]
    assert lacking == []


@pytest.mark.parametrize("script", WORDS)
def test_every_setting_of_ultralytics_is_ours_or_answered(script):
    assert [word for word in ULTRALYTICS[script].split() if not is_known(script, word)] == []


@pytest.mark.parametrize("script", WORDS)
def test_no_word_of_the_table_is_a_flag_of_ours(script):
    own = PARSERS[script]()._option_string_actions
    assert [word for word in WORDS[script] if f"--{word}" in own] == []
    assert all(text and "_" not in word for word, text in WORDS[script].items())


def test_flags_that_are_advised_exist():
    parsers = {script: set(build()._option_string_actions) for script, build in PARSERS.items()}
    renamed = [(script, text) for script, words in WORDS.items() for text in words.values() if _is_flag(text)]
    assert renamed and [(script, flag) for script, flag in renamed if flag not in parsers[script]] == []
    texts = " ".join(text for words in WORDS.values() for text in words.values())
    assert set(re.findall(r"--[a-z][\w-]*", texts)) <= set().union(*parsers.values())


@pytest.mark.parametrize("script, words, told", [
    ("train", ["--lr0", "0.1", "--box=3"], "--lr0, --box are not supported: part of the recipe"),
    ("train", ["--adam"], "--adam is not supported: use --optimizer Adam"),
    ("train", ["--local_rank", "0"], "torchrun"), ("train", ["--weight_decay", "0.1"], "recipe"),
    ("val", ["--weights", "a.pt", "--split", "test"], "use --task"),
    ("export", ["--weights", "a.pt", "--format", "onnx"], "use --include"),
    ("train", ["model=yolov8n.pt", "data=coco.yaml", "epochs=3", "imgsz=640"],
     "python train.py --weights yolov8n.pt --data coco.yaml --epochs 3 --imgsz 640"),
    ("train", ["detect", "train", "model=yolov8n.yaml", "cos_lr=True", "amp=False", "save=False", "rect=False",
                  "lr0=0.1"], "python train.py --cfg yolov8n --cos-lr --amp fp32 --nosave; lr0 is not supported: part"),
    ("train", ["--rect", "imgsz=640"], "--rect --imgsz 640"),
    ("train", ["yolo", "predict", "model=a.pt", "source=x y.jpg"],
     "python detect.py --weights a.pt --source 'x y.jpg"),
    ("train", ["track", "model=a.pt", "source=0"], "python detect.py --weights a.pt --source 0 --track"),
    ("detect", ["segment", "predict", "model=a.pt"], "segment: only boxes are found here"),
    ("val", ["val"], "python val.py"), ("detect", ["model=a.pt", "classes=[0, 2]"], "--classes 0 2"),
    ("export", ["export", "model=a.pt", "format=onnx", "half=True"], "--weights a.pt --include onnx --half")])
def test_what_is_said(capsys, script, words, told):
    assert told in said(capsys, script, *words)


@pytest.mark.parametrize("script, words", [
    ("train", ["--batch", "2", "--img", "64", "--weight", "a.pt", "--cache", "--name", "val=3"]),
    ("val", ["--weights", "a.pt", "--conf", "0.1", "--iou", "0.5", "--data", "train"]),
    ("detect", ["--weights", "a.pt", "--source", "track", "--classes", "person", "--conf", "0.5", "--vid", "2"]),
    ("export", ["--weights", "model=a.pt", "--img", "640", "640", "--batch", "2"])])
def test_values_and_prefixes_are_not_taken_for_such_words(script, words):
    PARSERS[script]().parse_args(words)


def test_a_file_may_be_named_like_a_setting(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model=b.pt").touch()
    args = val.build_parser().parse_args(["--weights", "a.pt", "model=b.pt"])
    assert args.weights == ["a.pt", "model=b.pt"] and is_setting("model=b.pt") and not is_setting("a-b=c")


def test_modes_name_our_scripts():
    assert {target for target in MODES.values() if target} == set(WORDS) and UserError
