"""The numbers of a validation: columns of results.csv, the printed line, and the one that chooses best.pt.

Columns are `metrics/AP` for COCO's numbers, `metrics/aitod/AP` for those of another protocol, `metrics/AP:person` for
those of a class.
"""

from collections.abc import Sequence

from engine.evaluation.evaluate import Evaluation
from engine.evaluation.metrics.protocol import COCO, Protocol
from engine.evaluation.metrics.scores import Metrics, Scores
from utils.errors import UserError, nearest, shown

COCO_COLUMNS = ("AP50", "AP", "AP75", "AP_S", "AP_M", "AP_L")  # always in results.csv
FITNESS, F1 = "fitness", "F1"
OF_SCORES = {"P": "precision", "R": "recall", F1: "f1"}  # at the confidence of the highest mean F1
MANY = 40  # names that a message lists


def best_column(wanted: str, protocol: Protocol, names: Sequence[str]) -> str:
    """The column of the number that `--save-best-by` names; `fitness` and `F1` as they are, computed from columns.

    A name is one of the protocol's numbers, else of COCO's, or P or R; `coco/AP` is COCO's where both have it; after a
    colon a class may follow, `AP:person`. names: of the classes. Raises `UserError` for a name that is none of these.
    """
    known = nameable(protocol, names)
    if wanted not in known:
        short = [name for name in known if ":" not in name]
        near = nearest(wanted, list(known)) or f"known: {', '.join(short[:MANY])}, and of a class such as AP:{names[0]}"
        raise UserError(f"--save-best-by {shown(wanted, 60)}: no such number with --protocol {protocol.name}; {near}",
                        "unknown-number")
    return known[wanted]


def nameable(protocol: Protocol, names: Sequence[str]) -> dict[str, str]:
    """What `--save-best-by` may name -> the column."""
    own = {} if protocol.name == COCO.name else {stat: f"metrics/{protocol.name}/{stat}" for stat in protocol.names}
    coco = {stat: f"metrics/{stat}" for stat in COCO.names}
    known = {FITNESS: FITNESS, F1: F1, "P": "metrics/precision", "R": "metrics/recall", **coco, **own,
             **{f"coco/{stat}": column for stat, column in coco.items()},
             **{column.removeprefix("metrics/"): column for column in own.values()}}
    stems = {name: column for name, column in known.items() if column.startswith("metrics/")}
    stems |= {name: f"metrics/{name}" for name in OF_SCORES}
    return known | {f"{name}:{label}": f"{column}:{label}" for name, column in stems.items() for label in names}


def all_numbers(result: Evaluation, names: Sequence[str]) -> dict[str, float]:
    """Column -> value of everything that was computed, by class too."""
    values = {"metrics/precision": result.metrics.precision, "metrics/recall": result.metrics.recall}
    for metrics in (result.metrics, result.own):
        if metrics is not None:
            stem = _stem(metrics)
            values |= {f"{stem}{stat}": value for stat, value in metrics.values.items()}
            for name, row in zip(names, metrics.per_class, strict=True):
                values |= {f"{stem}{stat}:{name}": value for stat, value in row.values.items()}
    rows: list[tuple[str, Scores]] = list(zip(names, result.metrics.per_class, strict=True))
    return values | {f"metrics/{short}:{name}": getattr(row, word) for name, row in rows
                     for short, word in OF_SCORES.items()}


def _stem(metrics: Metrics) -> str:
    return "metrics/" if metrics.protocol.name == COCO.name else f"metrics/{metrics.protocol.name}/"


def validation_row(result: Evaluation, names: Sequence[str], best_by: str = FITNESS) -> dict[str, float]:
    """The row for results.csv: COCO's main numbers, all of the protocol, the losses, and the column `best_by`."""
    values = all_numbers(result, names)
    columns = ["metrics/precision", "metrics/recall", *(f"metrics/{stat}" for stat in COCO_COLUMNS)]
    if result.own is not None:
        columns += [_stem(result.own) + stat for stat in result.own.protocol.names]
    if best_by not in (FITNESS, F1, *columns):
        columns.append(best_by)
    return {**{column: values[column] for column in columns},
            **{f"val/{term}": loss for term, loss in result.losses.items()}}


def validation_lines(result: Evaluation) -> str:
    """The printed numbers of a validation: COCO's, and in a second line those of the protocol."""
    m = result.metrics
    line = "  ".join(f"{name} {m[name]:.4f}" for name in ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L"))
    line = f"    {line}  AR {m['AR100']:.4f}  P {m.precision:.3f}  R {m.recall:.3f}"
    if result.own is None:
        return line
    own = result.own
    precisions = [stat.name for stat in own.protocol.stats if stat.kind == "AP"]
    return f"{line}\n    {own.protocol.name}: " + "  ".join(f"{name} {own[name]:.4f}" for name in precisions)


def score_of(row: dict[str, float], best_by: str = FITNESS) -> float:
    """The score of a validated epoch by a column, `fitness` or `F1`."""
    if best_by == FITNESS:
        return 0.1 * row["metrics/AP50"] + 0.9 * row["metrics/AP"]  # as in YOLOv5
    if best_by == F1:
        p, r = row["metrics/precision"], row["metrics/recall"]
        return 2 * p * r / max(p + r, 1e-9)
    return row[best_by]
