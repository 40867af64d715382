"""The settings of `train.py`: its flags, the rules between them, and what a recipe or a default fills in."""

from dataclasses import dataclass, replace

from engine.evaluation.protocol_flags import PROTOCOL_RULES, eval_iou_option, protocol_option, size_bins_option
from engine.optim.optimizer import OPTIMIZERS
from engine.optim.rules import MOST
from engine.training.recipe import Recipe, augment_keys
from models.assign.by_name import ANCHOR_ASSIGNERS, POINT_ASSIGNERS
from models.catalogue import NO_NECK
from models.config_checks import LEVELS
from models.necks.start import STARTS
from models.registry import known_necks
from utils.cli import LONGEST_SIDE, Rule, check_flags, flag_of, fraction, not_empty, number, positive
from utils.errors import UserError
from utils.frame import SIDE
from utils.options import (
    Options,
    device_option,
    max_pixels_option,
    option,
    plugin_option,
    size_option,
    workers_option,
)
from utils.reporting.run_log import NAME_RULE

DEFAULT_MODEL = "yolov8n-assn"
LOGGERS = ("wandb", "mlflow", "clearml")


def batch_size(text: str) -> int:
    """An argparse type: a whole number from 1, or -1."""
    return -1 if text.strip() == "-1" else int(number(int, 1, 65536)(text))


@dataclass(frozen=True)
class TrainConfig(Options):
    """The settings of `train.py`. None: not given; `resolve_settings` takes it from the recipe, else the default."""

    GROUPS = {"weights": "model", "data": "data", "epochs": "training", "seed": "start, end and checkpoints",
              "noval": "validation", "noplots": "what is written", "device": "machine",
              "evolve": "search, and looking instead of training"}

    weights: str = option("", "checkpoint to start from; '' trains from scratch", metavar="FILE")
    backbone: str = option("", "a classifier's state dict for the backbone: ResNet or VGG-16, as torchvision's",
                           metavar="FILE")
    cfg: str = option("", f"name (yolov8n-assn, yolov7, ...) or YAML of the model; default {DEFAULT_MODEL}",
                      metavar="NAME")
    neck: str | None = option(None, f"another neck: {', '.join([NO_NECK, *known_necks()])}, or a plugin's",
                              metavar="NAME")
    levels: str | None = option(None, "p2: add a level of half the finest stride", choices=LEVELS)
    start: str | None = option(None, "of the neck: identity begins as the base alone; the default with --weights",
                               choices=STARTS)
    neck_lr: float | None = option(None, "learning rate of the neck put in by --neck, times the others'; default 1",
                                   type=number(float, 0, MOST), metavar="F")
    box_loss: str | None = option(None, "iou, giou, diou, ciou (default), sca, nwd, wiou, ...: docs/losses.md",
                                  metavar="NAME")
    assign: str | None = option(None, f"heads with anchors: {', '.join(ANCHOR_ASSIGNERS)}; without: "
                                f"{', '.join(POINT_ASSIGNERS)}", metavar="NAME")
    noautoanchor: bool = option(False, "keep the anchors of --cfg, however well they fit the data")
    freeze: tuple[int, ...] = option((0,), "rows not to train: 10 = rows 0 to 9, or a list", nargs="+",
                                     type=number(int, 0), metavar="N")
    plugin: tuple[str, ...] = plugin_option()

    data: str = option("", "name in cfg/data or a YAML; default: the built-in shapes, demo recipe", metavar="NAME")
    imgsz: tuple[int, ...] | None = size_option("train, validation")
    batch_size: int | None = option(None, "images per step, over all processes; -1: what fits; default 16",
                                    type=batch_size, metavar="N")
    cache: str | None = option(None, "keep decoded images: in memory, a file, or on the device, augmented there",
                               nargs="?", const="ram", choices=("ram", "disk", "gpu"))
    tile: int | None = option(None, "train on overlapping windows of this side, cut on the fly",
                              type=number(int, 32, LONGEST_SIDE), metavar="PX")
    tile_overlap: float = option(0.2, "share of a window that its neighbour repeats", type=number(float, 0, 0.9),
                                 metavar="F")
    oversample_small: float | None = option(None, "show images with small objects up to F times as often; F: 3",
                                            nargs="?", const=3.0, type=number(float, 1, 1000), metavar="F")
    copy_paste_small: float | None = option(None, "paste copies of each object below 32 px, with probability P",
                                            type=fraction, metavar="P")
    rare_classes: float | None = option(None, "repeat images of classes in less than the share T of images; T: 0.01",
                                        nargs="?", const=0.01, type=fraction, metavar="T")
    image_weights: bool = option(False, "show images of classes with a low AP more often")
    rect: bool = option(False, "batches of like aspect with little padding, without mosaic")
    single_cls: bool = option(False, "treat all classes as one")
    strict: bool = option(False, "stop at labels that would otherwise be repaired or left out")
    max_pixels: int = max_pixels_option()

    epochs: int | None = option(None, "default 100", type=positive, metavar="N")
    hyp: str = option("", "recipe: name in cfg/train or a YAML that changes the model family's", metavar="NAME")
    multi_scale: bool = option(False, "every batch at a size of its own, 0.5 to 1.5 times --imgsz")
    optimizer: str | None = option(None, "default: the recipe's", choices=OPTIMIZERS)
    cos_lr: bool = option(False, "cosine learning-rate schedule")
    linear_lr: bool = option(False, "linear learning-rate schedule")
    label_smoothing: float | None = option(None, "epsilon of anchor heads' class targets", type=fraction, metavar="F")
    close_mosaic: int | None = option(None, "last epochs without mosaic and mixup", type=number(int, 0), metavar="N")
    clip_grad: float | None = option(None, "largest norm of all gradients; 0 = off; default: the recipe's",
                                     type=number(float, 0, 1e9), metavar="F")
    amp: str = option("auto", "precision of the forward pass", choices=("auto", "bf16", "fp16", "fp32"))
    skip_bad_batches: int = option(0, "go on after up to N batches whose loss is not finite", type=number(int, 0),
                                   metavar="N")
    seed: int = option(0, "same seed, same machine: same result", type=number(int, 0, 2**32 - 1), metavar="N")
    resume: str | bool = option(False, "continue the newest run, or the checkpoint or folder named here", nargs="?",
                                const=True, metavar="FILE")
    allow_data_change: bool = option(False, "--resume: continue although images or labels have changed")
    patience: int = option(100, "epochs without a better result to stop after; 0 = never", type=number(int, 0),
                           metavar="N")
    save_best_by: str = option("fitness", "number that chooses best.pt: AP_S, AR100, F1, AP:person, ...; default "
                               "fitness", metavar="NAME")
    save_every_minutes: float = option(0, "write last.pt within epochs too; 0 = after epochs only",
                                       type=number(float, 0), metavar="M")
    save_period: int = option(-1, "also keep a checkpoint every so many epochs", type=number(int, -1), metavar="N")
    nosave: bool = option(False, "save after the last epoch only")
    noval: bool = option(False, "validate after the last epoch only", "--notest")
    val_interval: int | None = option(None, "epochs between two validations; default 1", type=positive, metavar="N")
    protocol: str = protocol_option()
    size_bins: tuple[float, ...] | None = size_bins_option()
    eval_iou: tuple[float, ...] | None = eval_iou_option()
    noplots: bool = option(False, "no pictures and curves")
    project: str = option("runs/train", "folder of results", metavar="DIR")
    name: str = option("exp", "sub-folder of results; a number is added where it exists", metavar="NAME")
    exist_ok: bool = option(False, "write into an existing folder")
    logger: tuple[str, ...] = option((), f"also log to these, where installed: {', '.join(LOGGERS)}", nargs="+",
                                     choices=LOGGERS, metavar="NAME")
    device: str = device_option()
    workers: int | None = workers_option()
    compile: bool = option(False, "torch.compile the model: minutes at first, faster steps after")
    sync_bn: bool = option(False, "batch norm over all processes of a torchrun")
    evolve: int | None = option(None, "search hyper-parameters in N trainings", nargs="?", const=300, type=positive,
                                metavar="N")
    storage: str = option("", "--evolve: Optuna's database, for machines that share a search", metavar="URL")
    study: str = option("", "--evolve: name of the search in the database", metavar="NAME")
    audit_assignment: int | None = option(None, "count the positives of objects in N batches, by size; N: 32",
                                          nargs="?", const=32, type=positive, metavar="N")
    replay: str | None = option(None, "run a batch again whose loss was not finite, and report where", metavar="FILE")

    def check(self, processes: int) -> "TrainConfig":
        """Itself. Raises one `UserError` for all given flags that have no effect, alone or together, in so many
        processes; those that depend on the model's head are checked later (`HEAD_RULES`)."""
        unread = [flag_of(name) for name in self.given if name not in WITH_REPLAY] if self.replay else []
        if unread:
            raise UserError(f"--replay runs one batch again and reads no other flag; drop {' '.join(unread)}",
                            "flag-without-effect")
        check_flags(self, RULES, processes)
        return self


DEFAULTS = {"epochs": 100, "imgsz": SIDE, "batch_size": 16, "val_interval": 1}
WITH_REPLAY = ("replay", "plugin", "debug")
ONLY_LAST = "with --noval only the last epoch is validated; drop one of the two"
ONLY_LAST_SAVED = "with --nosave only the last epoch is saved; choose one"
RULES = [
    *not_empty(("resume", "replay", "data", "hyp", "backbone", "project", "name", "storage", "study")), NAME_RULE,
    *PROTOCOL_RULES,
    Rule("backbone", lambda config, _: not config.resume and not config.weights,
         "--weights and --resume bring a backbone of their own; choose one"),
    Rule("tile_overlap", lambda config, _: config.tile, "windows overlap where there are some; add --tile"),
    Rule("rect", lambda config, _: not config.tile, "windows of --tile are square; drop --rect"),
    Rule("sync_bn", lambda _, processes: processes > 1, "one process sees the whole batch", fatal=False),
    Rule("val_interval", lambda config, _: not config.noval, ONLY_LAST),
    Rule("patience", lambda config, _: not config.noval or not config.patience, ONLY_LAST),
    Rule("save_best_by", lambda config, _: not config.noval or config.evolve, ONLY_LAST),
    Rule("image_weights", lambda config, _: not config.noval, ONLY_LAST),
    Rule("save_period", lambda config, _: not config.nosave or config.save_period <= 0, ONLY_LAST_SAVED),
    Rule("save_every_minutes", lambda config, _: not config.nosave or not config.save_every_minutes, ONLY_LAST_SAVED),
    Rule("linear_lr", lambda config, _: not config.cos_lr, "--cos-lr is another schedule; choose one"),
    Rule("allow_data_change", lambda config, _: config.resume, "a new run has no data to compare with; add --resume"),
    Rule("evolve", lambda config, processes: not config.resume and processes == 1,
         "a search continues by itself, and trains in one process at a time: drop --resume and torchrun; several GPUs "
         "or machines share a search by the same --storage and --study"),
    *(Rule(name, lambda config, _: config.evolve, "these belong to --evolve; add it, or drop this")
      for name in ("storage", "study")),
    *(Rule(name, lambda config, _: not config.evolve, "a search names its folders itself, by --study", fatal=False)
      for name in ("name", "exist_ok")),
    Rule("audit_assignment", lambda config, processes: processes == 1 and not (config.resume or config.evolve),
         "it looks at a training before it starts, in one process: drop --resume, --evolve and torchrun"),
    Rule("audit_assignment", lambda config, _: config.batch_size != -1, "--batch-size -1 measures steps of a training; "
         "give a number"),
    Rule("noplots", lambda config, _: not config.evolve, "trials of --evolve are never plotted", fatal=False),
]
HEAD_RULES = [
    Rule("noautoanchor", lambda _, head: hasattr(head, "anchors"), "this model's head has no anchors", fatal=False),
]
ONE_SIZE = "this model takes images of one size alone; drop the flag"
FRAME_RULES = [
    *(Rule(flag, lambda _, frame: frame.size is None, ONE_SIZE) for flag in ("multi_scale", "rect")),
    Rule("rect", lambda _, frame: not frame.fits_images, "the frames of this model fit the images of a batch in any "
         "case; drop the flag"),
]


def resolve_settings(config: TrainConfig, recipe: Recipe) -> tuple[TrainConfig, Recipe]:
    """Every setting with its value: flag, else recipe, else default. Flags that override the recipe are also entered
    into the returned recipe. Raises `UserError` for last epochs without mosaic where the policy has none."""
    run = {name: recipe.run.get(name, default) for name, default in DEFAULTS.items() if getattr(config, name) is None}
    if "imgsz" in run:
        run["imgsz"] = (run["imgsz"],)
    both = {name: getattr(recipe if getattr(config, name) is None else config, name)
            for name in ("optimizer", "close_mosaic", "clip_grad")}
    if both["close_mosaic"] and not recipe.has_mosaic:
        key = "close_mosaic in the recipe:" if config.close_mosaic is None else "--close-mosaic"
        raise UserError(f"{key} {both['close_mosaic']}: policy {recipe.policy} shows no mosaics; drop it",
                        "flag-without-effect")
    smoothing, head = config.label_smoothing, recipe.head
    if smoothing is None:
        smoothing = head.get("label_smoothing", 0.0)
    else:
        head = {**head, "label_smoothing": smoothing}
    if config.copy_paste_small is not None:
        _check_copies(config.replace(**run, **both), recipe)
        recipe = replace(recipe, augment={**recipe.augment, "copy_paste_small": config.copy_paste_small})
    if config.cos_lr or config.linear_lr:
        recipe = replace(recipe, schedule="cosine" if config.cos_lr else "linear", milestones=[])
    return (config.replace(**run, **both, label_smoothing=smoothing),
            replace(recipe, head=head, **both))


def _check_copies(config: TrainConfig, recipe: Recipe) -> None:
    """Raises `UserError` where `--copy-paste-small` would paste nothing."""
    said, epochs = f"--copy-paste-small {config.copy_paste_small:g}", config.epochs
    if "copy_paste_small" not in augment_keys(recipe.policy):
        raise UserError(f"{said}: policy {recipe.policy} pastes no copies; drop it", "flag-without-effect")
    if config.copy_paste_small and epochs <= config.close_mosaic:
        raise UserError(f"{said}: of {epochs} epochs the last {config.close_mosaic} paste none (--close-mosaic); give "
                        f"--close-mosaic {epochs // 10} or more epochs", "flag-without-effect")
