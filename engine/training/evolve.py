"""Search of hyper-parameters through Optuna: `--evolve [N] --storage URL --study NAME`.

Machines that name the same storage and study share one search; the same command continues a search. Optuna is optional
and imported only when it is used.
"""

import csv
import io
import random
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from engine.training.autobatch import is_out_of_memory
from engine.training.config import TrainConfig
from engine.training.recipe import Recipe, known_gains, known_options
from engine.training.study import load_optuna, open_study
from utils.errors import UserError
from utils.files import write_bytes

Trial = Study = Stored = Any  # optuna.Trial, optuna.Study, optuna.trial.FrozenTrial: the package may be absent
# What YOLOv5 evolves and its bounds, beside gains and options of the head; a recipe's own value beyond one extends it.
BOUNDS = {"lr0": (1e-5, 0.1), "lrf": (0.01, 1.0), "momentum": (0.6, 0.98), "weight_decay": (0.0, 0.001),
          "warmup_epochs": (0.0, 5.0), "warmup_momentum": (0.0, 0.95), "warmup_bias_lr": (0.0, 0.2),
          "hsv_h": (0.0, 0.1), "hsv_s": (0.0, 0.9), "hsv_v": (0.0, 0.9), "degrees": (0.0, 45.0),
          "translate": (0.0, 0.9), "scale": (0.0, 0.9), "shear": (0.0, 10.0), "perspective": (0.0, 0.001),
          "flipud": (0.0, 1.0), "fliplr": (0.0, 1.0), "mosaic": (0.0, 1.0), "mixup": (0.0, 1.0),
          "copy_paste": (0.0, 1.0)}
GAIN_RANGE = 0.4, 4.0  # times the recipe's own gain: YOLOv5's bounds for box 0.05
SET_BY_AUTO = ("lr0", "momentum", "warmup_bias_lr")  # chosen by --optimizer auto
ANSWERED = ("COMPLETE", "PRUNED")
STARTUP = 10  # random trials before the sampler uses their results

Space = dict[str, tuple[float, float]]
TrainOnce = Callable[[TrainConfig, Recipe, Callable[[float, int], None]], float]


def search(config: TrainConfig, recipe: Recipe, train_once: TrainOnce) -> Path:
    """`--evolve`: trainings with other hyper-parameters, one after the other; the same command continues a search.
    Returns the folder of results.

    recipe: of the first trial; train_once(config, recipe, on_validation) trains, calls on_validation(fitness, epoch)
    after each validation, and returns the fitness.
    """
    folder = Path(config.project) / (config.study or "evolve")

    def objective(changed: Recipe, trial: Trial) -> float:
        own = config.replace(evolve=None, project=str(folder), name=f"trial{trial.number}", exist_ok=True, noplots=True)
        return train_once(own, changed, lambda fitness, epoch: stop_if_hopeless(trial, fitness, epoch))

    evolve(objective, recipe, folder=folder, trials=config.evolve, storage=config.storage, study=config.study,
           seed=config.seed)
    return folder


def search_space(recipe: Recipe) -> Space:
    """(lowest, highest) value of every hyper-parameter of the recipe that YOLOv5 evolves; gains as in the file, before
    `Head.scale_gains`."""
    values = recipe.values()
    bounds = {**BOUNDS, **{key: option.search for key, option in known_options().items() if option.search}}
    space = {key: bounds[key] for key in bounds if key in values}
    low, high = GAIN_RANGE
    space.update({key: (gain * low, gain * high) for key, gain in recipe.gains.items() if gain > 0})
    left = SET_BY_AUTO if recipe.optimizer == "auto" else ()
    return {key: (min(low, values[key]), max(high, values[key])) for key, (low, high) in space.items()
            if key not in left}


def is_logarithmic(key: str) -> bool:
    """Whether a hyper-parameter is searched by its order of magnitude."""
    return key == "lr0" or key in known_gains()


def evolve(objective: Callable[[Recipe, Trial], float], recipe: Recipe, *, folder: Path | str,
           trials: int = 300, storage: str = "", study: str = "", seed: int = 0) -> Recipe:
    """Search hyper-parameters; returns the best recipe.

    objective(recipe, trial) trains once and returns the fitness, higher is better; between epochs it may call
    `stop_if_hopeless`. recipe: of the first trial, as in its file. trials: of the study in the end, on all machines
    together. storage: an Optuna URL (sqlite:///file.db, postgresql://...), or the path of a journal file, by default a
    database in `folder`. A trial that ends with a `UserError` or out of memory is recorded as failed and the search
    continues; any other error and Ctrl-C end it, and the same call continues it. Writes to `folder`: hyp_evolve.yaml
    for --hyp, evolve.csv, evolve.png. Raises `UserError` if Optuna is missing, the storage cannot be opened, or no
    trial gave a result.
    """
    optuna = load_optuna("--evolve")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    space = search_space(recipe)
    found = open_study(optuna, storage or f"sqlite:///{(folder / 'evolve.db').as_posix()}", study or "evolve",
                       sampler=_sampler(optuna, seed, 0), pruner=optuna.pruners.MedianPruner(n_startup_trials=5))
    _enqueue(found, {key: recipe.values()[key] for key in space})
    try:
        for _ in range(trials):
            if sum(t.state.name in ANSWERED for t in found.get_trials(deepcopy=False)) >= trials:
                break
            _try_once(optuna, found, objective, recipe, space, seed)
            write_results(found.get_trials(deepcopy=False), recipe, folder)
    finally:
        tried = found.get_trials(deepcopy=False)
        plot_trials(tried, folder / "evolve.png")
    best = best_trial(tried)
    if best is None:
        errors = [t.user_attrs["error"] for t in tried if "error" in t.user_attrs]
        raise UserError(f"--evolve: none of {len(tried)} trials gave a result; the first one failed with: "
                        f"{errors[0] if errors else 'it was stopped'}", "no-result")
    print(f"--evolve: best of {len(tried)} trials is number {best.number}, fitness {best.value:.4f}; use it: "
          f"--hyp {folder / 'hyp_evolve.yaml'}")
    return recipe.with_values(_known(best.params, recipe))


def stop_if_hopeless(trial: Trial, fitness: float, epoch: int) -> None:
    """Report the fitness of a trial after `epoch` (from 1). Raises the exception by which `evolve` prunes it if it is
    below the median of the other trials at that epoch."""
    trial.report(fitness, epoch)
    if trial.should_prune():
        raise load_optuna("--evolve").TrialPruned(f"worse than the median after epoch {epoch}")


def _try_once(optuna: ModuleType, study: Study, objective: Callable[[Recipe, Trial], float],
              recipe: Recipe, space: Space, seed: int) -> None:
    """Run one trial and record how it ended in the study."""
    trial = study.ask()
    # the sampler is seeded by (seed, trial number): machines that share a study draw different values
    study.sampler = _sampler(optuna, seed, trial.number)
    values = {key: trial.suggest_float(key, *bounds, log=is_logarithmic(key)) for key, bounds in space.items()}
    print(f"--evolve: trial {trial.number} of study {study.study_name!r}")
    try:
        fitness = float(objective(recipe.with_values(values), trial))
        if fitness != fitness:
            raise UserError("its fitness is not a number", "no-result")
        study.tell(trial, fitness)
    except optuna.TrialPruned as reason:
        print(f"--evolve: trial {trial.number} stops early: {reason}")
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    except BaseException as error:
        trial.set_user_attr("error", str(error) or type(error).__name__)
        study.tell(trial, state=optuna.trial.TrialState.FAIL, skip_if_finished=True)
        if not isinstance(error, UserError) and not is_out_of_memory(error):
            raise
        print(f"--evolve: trial {trial.number} failed: {error}")


def _sampler(optuna: ModuleType, seed: int, number: int) -> Any:
    with warnings.catch_warnings():  # the two arguments were experimental in Optuna 3 and 4
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(n_startup_trials=STARTUP, multivariate=False, constant_liar=True,
                                          seed=random.Random(f"{seed} {number}").randrange(2**32))


def _enqueue(study: Study, values: Mapping[str, float]) -> None:
    """Make the recipe itself the next trial, unless it was tried or is queued already."""
    for trial in study.get_trials(deepcopy=False):
        fixed = trial.system_attrs.get("fixed_params", trial.params)
        if trial.state.name != "FAIL" and all(fixed.get(key) == value for key, value in values.items()):
            return
    study.enqueue_trial(dict(values))


def best_trial(trials: list[Stored]) -> Stored | None:
    """The finished trial of the highest fitness."""
    return max((t for t in trials if t.state.name == "COMPLETE"), key=lambda t: t.value, default=None)


def _known(params: Mapping[str, float], recipe: Recipe) -> dict[str, float]:
    """The parameters of a trial that this recipe has; the study may have been started with another one."""
    return {key: value for key, value in params.items() if key in recipe.values()}


def write_results(trials: list[Stored], recipe: Recipe, folder: Path) -> None:
    """Write evolve.csv with a line per trial, and hyp_evolve.yaml with the recipe of the best one."""
    keys = list(dict.fromkeys(key for t in trials for key in t.params))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "state", "fitness", "seconds", *keys, "error"])
    for t in trials:
        seconds = f"{t.duration.total_seconds():.0f}" if t.duration else ""
        fitness = "" if t.value is None else f"{t.value:.6g}"
        values = [f"{t.params[key]:.6g}" if key in t.params else "" for key in keys]
        writer.writerow([t.number, t.state.name.lower(), fitness, seconds, *values, t.user_attrs.get("error", "")])
    write_bytes(folder / "evolve.csv", text.getvalue().encode())
    best = best_trial(trials)
    if best is not None:
        rounded = {key: float(f"{value:.5g}") for key, value in _known(best.params, recipe).items()}
        content = yaml.safe_dump(recipe.with_values(rounded).values(), sort_keys=False)
        head = f"# Trial {best.number} of {len(trials)}: fitness {best.value:.4f}\n"
        write_bytes(folder / "hyp_evolve.yaml", (head + content).encode())


def plot_trials(trials: list[Stored], path: Path) -> None:
    """Plot fitness against each hyper-parameter with the best trial marked; nothing if no trial has finished."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    done, best = [t for t in trials if t.state.name == "COMPLETE"], best_trial(trials)
    if best is None:
        return
    keys = list(best.params)
    rows = -(-len(keys) // 5)
    figure = Figure(figsize=(15, 3 * rows), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for axes, key in zip(figure.subplots(rows, 5, squeeze=False).flat, [*keys, *[""] * (5 * rows - len(keys))]):
        if not key:
            axes.set_axis_off()
            continue
        known = [t for t in done if key in t.params]
        axes.scatter([t.params[key] for t in known], [t.value for t in known], c=[t.number for t in known], s=12,
                     cmap="viridis")
        axes.plot(best.params[key], best.value, "+", color="crimson", markersize=14)
        axes.set_title(f"{key} = {best.params[key]:.4g}", fontsize=10)
        if is_logarithmic(key):
            axes.set_xscale("log")
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.print_png(str(path))
