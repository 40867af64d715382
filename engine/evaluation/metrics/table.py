"""The text table of an evaluation."""

from collections.abc import Sequence

from engine.evaluation.metrics.judge import UNDEFINED, Metrics

NAME_WIDTH = 24


def format_table(metrics: Metrics, names: Sequence[str], per_class: bool = True) -> str:
    """A row for all classes, one for each alternative, and on request one per class that has objects; undefined values
    (-1) are '-'."""
    columns = metrics.protocol.names
    rows = [("all", metrics.n_images, metrics.n_labels, {**vars(metrics), **metrics.values})]
    rows += [(row.title, metrics.n_images, metrics.n_labels, row.values | UNDEFINED) for row in metrics.alternatives]
    if per_class:
        rows += [(names[k], row.n_images, row.n_labels, {**vars(row), **row.values})
                 for k, row in enumerate(metrics.per_class) if row.n_labels]
    width = min(max(len("Class"), *(len(row[0]) for row in rows)), NAME_WIDTH)
    widths = [max(5, len(title)) for title in ("P", "R", *columns)]
    heads = "".join(f" {title:>{size}}" for title, size in zip(("P", "R", *columns), widths, strict=True))
    lines = [f"{'Class':<{width}} {'Images':>7} {'Labels':>7}{heads}"]
    for name, n_images, n_labels, values in rows:
        shown = (values[key] for key in ("precision", "recall", *columns))
        cells = "".join(f" {'-' if value < 0 else format(value, '.3f'):>{size}}"
                        for value, size in zip(shown, widths, strict=True))
        short = name if len(name) <= width else name[:width - 1] + "…"
        lines.append(f"{short:<{width}} {n_images:>7} {n_labels:>7}{cells}")
    absent = sum(row.n_labels == 0 for row in metrics.per_class)
    if per_class and absent:
        lines.append(f"{absent} of {len(metrics.per_class)} classes have no object in these images")
    if metrics.unseen:
        lines.append(f"{metrics.unseen} of {metrics.n_images} images were not evaluated: their objects count as missed")
    return "\n".join([*lines, *(f"{row.title}: {row.why}" for row in metrics.alternatives)])


def format_size_table(metrics: Metrics, names: Sequence[str]) -> str:
    """AP over all IoUs and, in brackets, the number of objects, by class and size; '' without sizes or objects."""
    sizes = metrics.sizes
    if sizes is None or not sizes.objects.any():
        return ""
    rows = [("all", sizes.mean, sizes.objects.sum(0))]
    rows += [(name, sizes.ap[k], sizes.objects[k]) for k, name in enumerate(names) if metrics.per_class[k].n_labels]
    cells = [[f"{'-' if ap < 0 else format(ap, '.3f')} ({count})" for ap, count in zip(aps, counts, strict=True)]
             for _, aps, counts in rows]
    widths = [max(len(label), *(len(row[a]) for row in cells)) for a, label in enumerate(sizes.labels)]
    width = min(max(len("Class"), *(len(name) for name, _, _ in rows)), NAME_WIDTH)
    spans = list(metrics.protocol.areas.values())[1:]
    legend = ", ".join(f"{label} {low:g} to {high:g}" for label, (low, high) in zip(sizes.labels, spans, strict=True))
    lines = [f"AP by class and size (objects in brackets); areas in px^2: {legend}".replace(" to 1e+10", " and more"),
             f"{'Class':<{width}}" + "".join(f"  {label:>{w}}" for label, w in zip(sizes.labels, widths, strict=True))]
    for (name, _, _), row in zip(rows, cells, strict=True):
        short = name if len(name) <= width else name[:width - 1] + "…"
        lines.append(f"{short:<{width}}" + "".join(f"  {cell:>{w}}" for cell, w in zip(row, widths, strict=True)))
    return "\n".join(lines)
