"""State dicts of other code bases under our names, by the renames that their head declares (`Head.renames`)."""

import re
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from models.graph import Graph
from models.heads import Head
from models.weights.originals import Original
from models.weights.transfer import COUNTER, TransferReport
from utils.errors import UserError


def adapted(original: Original, head: type[Head]) -> Original:
    """The file as the head wants it, with the keys of a model file that it implies; class names only where it has none
    of its own."""
    state, implied = head.adapt_original(original.state)
    names = original.names or implied.pop("names", None)
    implied.pop("names", None)
    derived = [key for key in original.state if key not in state]
    return replace(original, state=state, names=names, implied=implied, derived=derived)


def our_names(graph: Graph, names: Mapping[str, object], renames: Mapping[str, str]) -> dict[str, str]:
    """Names of an original -> names in the rows of `graph`, `number.rest`, for those that have one."""
    rows = {"head": str(len(graph) - 1), **{node.name: str(node.index) for node in graph.nodes if node.name}}
    patterns = [(re.compile(pattern), new) for pattern, new in renames.items()]
    found = {}
    for name in names:
        for pattern, new in patterns:
            changed, count = pattern.subn(new, name, count=1)
            if count:
                row, _, rest = changed.partition(".")
                if row in rows:
                    found[name] = f"{rows[row]}.{rest}"
                break
    return found


def fits(graph: Graph, state: Mapping[str, Tensor], renames: Mapping[str, str]) -> bool:
    """Whether all tensors of `state` have a place of their shape in `graph`, and none is left without one; counters,
    which some files lack and constant norms do not have, apart."""
    ours = {key: value.shape for key, value in graph.state_dict().items() if not key.endswith(COUNTER)}
    theirs = {key: value.shape for key, value in state.items() if not key.endswith(COUNTER)}
    places = our_names(graph, theirs, renames)
    return places.keys() == theirs.keys() and {places[key]: shape for key, shape in theirs.items()} == ours


def renamed(graph: Graph, state: Mapping[str, Tensor], renames: Mapping[str, str]) -> dict[str, Tensor]:
    """`state` under the names of a detector, without counters that it has no place for.

    Raises `UserError` for a tensor without a place, a place without a tensor, and another shape.
    """
    places, ours = our_names(graph, state, renames), graph.state_dict()
    kept = {key: value for key, value in state.items() if not (key.endswith(COUNTER) and places.get(key) not in ours)}
    lost = next((key for key in kept if places.get(key) not in ours), None)
    if lost is not None:
        raise UserError(f"weights do not fit: the model has no place for the original's {lost}",
                        code="weights-do-not-fit")
    found = {places[key]: value for key, value in kept.items()}
    empty = next((key for key in ours if key not in found and not key.endswith(COUNTER)), None)
    if empty is not None or len(found) != len(kept):
        raise UserError(f"weights do not fit: the original has nothing for the model's {empty}, or two for one",
                        code="weights-do-not-fit")
    return {f"model.{key}": found[key] for key in ours if key in found}


def with_their_names(report: TransferReport, graph: Graph, original: Original,
                     renames: Mapping[str, str]) -> TransferReport:
    """A report on what `renamed` gave, with the names of the original."""
    theirs = {f"model.{ours}": name for name, ours in our_names(graph, original.state, renames).items()}
    report.transferred = [(theirs.get(key, key), ours) for key, ours in report.transferred]
    dropped = original.state.keys() - {their for their, _ in report.transferred}
    report.left |= dict.fromkeys(sorted(dropped), "a counter that the model lacks")
    report.left |= dict.fromkeys(original.derived, "another name of a tensor, or a constant that the model works out")
    return report
