"""The words of YOLOv5, YOLOv7 and Ultralytics that are not ours, and what is said here instead.

One table for the four scripts; a word that becomes a flag of ours is taken out. A text that is one flag (`--weights`)
is that flag's name here; any other text completes "--word is not supported: ...".
"""

import shlex
from collections.abc import Iterable, Mapping, Sequence

from utils.commands import command

DROP = "drop the flag"
RECIPE = "part of the recipe; write a YAML and give that to --hyp"
OTHER_TASK = "of segmentation, poses or classification, and only boxes are found here; drop it"
NOT_UPLOADED = "nothing is uploaded; drop the flag"


def _each(words: str, text: str) -> dict[str, str]:
    return dict.fromkeys(words.split(), text)


EVERYWHERE = {
    "model": "--weights", "nms": "NMS is part of every model that needs it; drop the flag",
    "cls-remap": "classes are matched by name; drop the flag",
    "mode": "the script says it: train.py, val.py, detect.py, export.py",
    **_each("retina-masks overlap-mask no-overlap-mask mask-ratio mask-downsample-ratio pose kobj rle erasing "
            "auto-augment embed angle dlog dgrad dlam", OTHER_TASK),
    "quantize": "use --half", "verbose": f"what matters is always printed; {DROP}",
    **_each("profile channels-last", f"done where it is faster; {DROP}"),
}

TRAIN = {
    "adam": "use --optimizer Adam", "cache-images": "use --cache ram", "quad": "raise --batch-size instead",
    "entity": "set WANDB_ENTITY and use --logger wandb", "local-rank": "torchrun tells each process its rank",
    **_each("bucket upload-dataset", NOT_UPLOADED),
    **_each("bbox-interval artifact-alias", f"--logger wandb logs the numbers of each epoch and best.pt; {DROP}"),
    **_each("ndjson-console ndjson-file", f"results.csv holds the numbers of each epoch; {DROP}"),
    "v5-metric": "AP is COCO's; choose another by --protocol", "hyperparameters": "--hyp",
    **_each("lr0 lrf momentum weight-decay warmup-epochs warmup-momentum warmup-bias-lr box cls dfl obj cls-pw obj-pw "
            "iou-t anchor-t fl-gamma anchors hsv-h hsv-s hsv-v degrees translate scale shear perspective flipud fliplr "
            "mosaic mixup copy-paste paste-in loss-ota", RECIPE),
    "nbs": "`nominal_batch` of the recipe; write a YAML and give that to --hyp",
    **_each("bgr cutmix copy-paste-mode", f"there is no such augmentation; {DROP}"),
    "pretrained": "--weights", "time": "a training has a number of epochs; use --epochs",
    "deterministic": f"--seed repeats a training on the same machine; {DROP}",
    "fraction": "list fewer images under `train:` of the data YAML", "split": "the split `val:` is validated; "
    "val.py --task chooses another", "dropout": OTHER_TASK, "save": "last.pt and best.pt are written, but for --nosave",
    "val": "every epoch is validated, but for --noval", "plots": "drawn, but for --noplots",
    **_each("distill-model dis", "there is no distillation; drop the flag"),
    **_each("conf conf-thres iou iou-thres max-det",
            "thresholds of validation are the model's own; val.py takes others"),
}

VAL = {
    "save-hybrid": "use --save-txt", "verbose": f"the per-class table is always printed; {DROP}",
    "dnn": "give an .onnx file as --weights", "split": "--task", "plots": "drawn, but for --noplots",
    "v5-metric": "AP is COCO's; choose another by --protocol", "no-trace": f"nothing is traced here; {DROP}",
    "visualize": "val_batch0.jpg shows truth beside detections; --diagnose says what is missed",
    "agnostic-nms": "COCO's protocol judges each class alone; detect.py has it",
    "classes": "per_class.csv has the numbers of each class; detect.py --classes keeps some",
    "save": f"results are written in any case; {DROP}",
}

DETECT = {
    "line-width": "--line-thickness", "show": "--view-img",
    "update": f"checkpoints stay as they are; {DROP}",
    "visualize": "use --explain, which draws gates, levels and attention",
    "dnn": f"ONNX files run with onnxruntime; {DROP}", "no-trace": f"nothing is traced here; {DROP}",
    "save-frames": "--vid-stride leaves frames out; --save-crop "
    "writes objects", "save": "pictures are written, but for --nosave",
    **_each("stream stream-buffer", f"of a stream the newest frame is looked at; {DROP}"),
    "show-labels": "drawn, but for --hide-labels", "show-conf": "drawn, but for --hide-conf",
    "show-boxes": f"boxes are drawn in any case; {DROP}", "tracker": "use --track, of bytetrack or ocsort",
    "batch": f"images are looked at one by one; {DROP}",
    "batch-size": f"images are looked at one by one; {DROP}", "workers": f"of training and validation; {DROP}",
}

EXPORT = {
    "quantize": "use --half or --int8", "fp16": "--half", "format": "--include",
    "dynamic-batch": "use --dynamic, which leaves batch and size free", "grid": f"boxes are always decoded; {DROP}",
    **_each("inplace train optimize ml", DROP), "keras": "use --include onnx, which onnx2tf reads",
    "workspace": f"TensorRT takes what memory it needs; {DROP}", "fraction": "use --images",
    **_each("end2end include-nms", "--nms"), "max-wh": f"classes are kept apart exactly; {DROP}",
    **_each("topk-per-class topk-all", "--max-det"), "name": "--output",
}

WORDS: Mapping[str, Mapping[str, str]] = {
    "train": EVERYWHERE | TRAIN, "val": EVERYWHERE | VAL, "detect": EVERYWHERE | DETECT,
    "export": {word: text for word, text in EVERYWHERE.items() if word != "nms"} | EXPORT}
MODES = {"train": "train", "val": "val", "predict": "detect", "track": "detect", "export": "export",
         "benchmark": ""}
TASKS = ("detect", "segment", "semantic", "depth", "classify", "pose", "obb")
NEGATED = {"save": "--nosave", "val": "--noval", "plots": "--noplots", "show-labels": "--hide-labels",
           "show-conf": "--hide-conf"}  # flags of ours that say `False`


def spelled(word: str) -> str:
    """A flag or key as the table has it: `--cos_lr` is `cos-lr`."""
    return word.lstrip("-").replace("_", "-").lower()


def refusal(words: Iterable[str], script: str) -> str:
    """What is said of flags that are in the table of a script; '' where there are none."""
    table, by_advice = WORDS.get(script, {}), {}
    for word in words:
        advice = table.get(spelled(word), "")
        if advice:
            by_advice.setdefault(f"use {advice}" if _is_flag(advice) else advice, []).append(word)
    return "; ".join(f"{', '.join(flags)} {'are' if len(flags) > 1 else 'is'} not supported: {advice}"
                     for advice, flags in by_advice.items())


def is_setting(word: str) -> bool:
    """Whether a word of the command line is one of Ultralytics' settings, such as `epochs=3`."""
    return "=" in word and word.partition("=")[0].isidentifier()


def translated(words: Sequence[str], script: str) -> str:
    """One sentence for a command line in Ultralytics' form: the same command in ours, and what of it is not supported.

    words: `detect train model=yolov8n.pt epochs=3`, flags of ours among them.
    """
    modes = [word for word in words if word in MODES]
    target = MODES[modes[0]] or script if modes else script
    flags, lacking, rest = [], [], iter(words)
    for word in rest:
        if is_setting(word):
            own = _as_flags(*word.split("=", 1), WORDS[target])
            flags += own if own is not None else []
            lacking += [word.partition("=")[0]] if own is None else []
        elif word not in (*MODES, *TASKS, "yolo"):
            flags.append(word)
    flags += ["--track"] * ("track" in modes)
    others = [task for task in TASKS[1:] if task in words or f"task={task}" in words]
    parts = [f"settings are flags here: {command(target)} {shlex.join(flags)}"]
    parts += [refusal(lacking, target)] if lacking else []
    parts += [f"{', '.join(others)}: only boxes are found here"] if others else []
    return "; ".join(parts)


def _is_flag(advice: str) -> bool:
    return advice.startswith("--") and " " not in advice


def _as_flags(key: str, value: str, table: Mapping[str, str]) -> list[str] | None:
    """A setting as words of our command line; None where there is none."""
    word, is_false = spelled(key), value.lower() == "false"
    if word in NEGATED and value.lower() in ("true", "false"):
        return [NEGATED[word]] if is_false else []
    if word in ("task", "mode"):  # the script says it
        return []
    if word == "amp":
        return ["--amp", "fp32"] if is_false else []
    if word == "model" and value.endswith((".yaml", ".yml")):
        return ["--cfg", value.rsplit(".", 1)[0]]
    if is_false or value.lower() in ("none", ""):
        return []
    advice = table.get(word, f"--{word}")
    if not _is_flag(advice):
        return None
    if value.lower() == "true":
        return [advice]
    return [advice, *(value.strip("[]()").replace(" ", "").split(",") if value[:1] in "[(" else [value])]
