"""The measurements in order of importance, and the time limit of each."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from utils.errors import UserError, nearest

SECTIONS = {"correct": 2.0, "speed": 3.0, "latency": 1.5, "necks": 5.5}  # shares of the time
GOLDENS = ("yolov8n", "yolov8n-assn", "yolov7", "yolov7-assn", "yolov7-ss", "yolov5s", "yolov3-tiny", "yolov7-w6",
           "yolor-csp", "yolov4-p5-ss")  # one of each family and neck
# every head and assigner: DFL with task-aligned assignment; anchors by shape, by OTA, with auxiliary levels
STEPS = ("yolov8n-assn", "yolov5n --neck ssfpn", "yolov7-tiny", "yolov7-tiny --assign anchor",
         "yolov3-tiny --box-loss sca", "yolov7-w6")
TRAINED = ("yolov8n", "yolov8s", "yolov8n-assn", "yolov8n --neck ssfpn", "yolov7")
LATENCY = tuple(f"{base}{neck}" for base in ("yolov8n", "yolov7", "yolov8s", "yolov7-w6")
                for neck in ("", " --neck assn", " --neck ssfpn"))
PLACE = "benchmarks.gpu."
CONTEST = "contest"  # a function that starts programs of its own, so this program runs it itself


@dataclass(frozen=True)
class Task:
    """One piece. function: `module.name`, called with a Context and `args`; seconds: without which it is not begun;
    limit: after which it is stopped."""

    section: str
    key: str
    function: str
    args: tuple = ()
    seconds: float = 5.0
    limit: float = 40.0


def make_plan(small: bool) -> list[Task]:
    """All pieces but the trainings of section `necks`, which are planned by `trainings.plan`."""
    plan = [*_correct(small), *_speed(small), *_latency(small)]
    return [replace(task, seconds=0.0, limit=max(task.limit, 120.0)) for task in plan] if small else plan


def _correct(small: bool) -> list[Task]:
    def task(key: str, function: str, *args: object, seconds: float = 5.0, limit: float = 40.0) -> Task:
        return Task("correct", key, PLACE + function, args, seconds, limit)

    runs = [(a, b) for a in ("gpu", "cpu") for b in ("gpu", "cpu") if (a, b) != ("cpu", "cpu")]
    return [
        *[task(f"golden {name}", "goldens.measure_model", name, seconds=5, limit=60)
          for name in (GOLDENS[:1] if small else GOLDENS)],
        task("golden losses", "goldens.measure_losses"),
        *[task(f"step {name}", "steps.measure", name, seconds=6) for name in (STEPS[1:2] if small else STEPS[:-1])],
        task("nms", "behaviour.measure_nms"),
        task("cache gpu", "behaviour.measure_cache"),
        task("page-locked rings", "behaviour.measure_rings"),
        task("precision", "steps.measure_precision", seconds=8, limit=60),
        task("losses read every 10 steps", "runs.measure_reading", seconds=8, limit=60),
        task("two equal runs", "runs.measure_deterministic", seconds=8, limit=60),
        *[task(f"resume {a} to {b}", "runs.measure_resume", a, b, seconds=8, limit=60)
          for a, b in (runs[:1] if small else runs)],
        *[task(f"step {variant}", "steps.measure", variant, seconds=25, limit=90)  # the largest model, on the CPU too
          for variant in ([] if small else STEPS[-1:])],
        task("compile", "steps.measure_compiled", seconds=45, limit=120)]


def _speed(small: bool) -> list[Task]:
    def step(variant: str, batch: int, compiled: bool = False) -> Task:
        word = " compiled" if compiled else ""
        seconds, limit = (60.0, 150.0) if compiled else (8.0, 60.0)
        return Task("speed", f"train step {variant} batch {batch}{word}", PLACE + "speed.measure",
                    (variant, batch, compiled), seconds, limit)

    def contest(model: str, batch: int, source: str, only: str = "plain") -> Task:
        word = "" if only == "plain" else " compiled"
        seconds, limit = (50.0, 150.0) if only == "plain" else (90.0, 240.0)
        return Task("speed", f"train.py {model} batch {batch} {source}{word}", CONTEST, (model, batch, source, only),
                    seconds, limit)

    card = Task("speed", "roofline", PLACE + "speed.measure_card", (), 5.0)
    if small:
        return [card, step("yolov8n", 2), contest("yolov8n", 2, "gpu")]
    return [card, *[step(variant, 64) for variant in TRAINED],
            contest("yolov8n", 64, "gpu"), contest("yolov8n", 64, "workers"), step("yolov8n", 64, True),
            *[step(variant, 128) for variant in TRAINED],
            contest("yolov8s", 64, "gpu"), contest("yolov8s", 64, "workers"),
            contest("yolov8n", 64, "gpu", "compiled"), *[step(variant, 64, True) for variant in TRAINED[1:]]]


def _latency(small: bool) -> list[Task]:
    models = ("yolov8n", "yolov8n --neck assn") if small else LATENCY
    compiled = ("yolov3-tiny",) if small else LATENCY[:3]
    return [Task("latency", "latency nms", PLACE + "latency.measure_nms", (), 10.0),
            *[Task("latency", f"latency {variant}", PLACE + "latency.measure", (variant,), 6.0) for variant in models],
            *[Task("latency", f"latency {name} compiled", PLACE + "latency.measure_compiled", (name,), 30.0, 100.0)
              for name in compiled]]


def choose(plan: Sequence[Task], trainings: Sequence[str], names: Sequence[str]) -> tuple[list[Task], list[str]]:
    """The pieces and trainings that `names` ask for: sections, or keys, or how keys begin. `UserError` for others."""
    if not names:
        return list(plan), list(trainings)
    known = [*SECTIONS, *(task.key for task in plan), *trainings]

    def wanted(section: str, key: str) -> bool:
        return any(name in (section, key, f"{section} {key}") or key.startswith(f"{name} ") for name in names)

    for name in names:
        if not any(name == key or key.startswith(f"{name} ") or name.partition(" ")[2] == key for key in known):
            raise UserError(f"--pieces {name}: there is no such piece{nearest(name, known)}; --list names them all",
                            code="unknown-name")
    return ([task for task in plan if wanted(task.section, task.key)],
            [key for key in trainings if wanted("necks", key)])
