"""Weights of Salience DETR and of its forks as their code saves them: one flat state dict.

Beside the weights it holds constants and second names of tensors, and in `_classes_` perhaps the class names.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from models.heads.published_ssd import RAW_COCO, keep_outputs
from utils.class_lists import COCO, COCO_IDS
from utils.errors import UserError, printable

CLASSES = "_classes_"  # character codes; -1 ends a name
NO_NAME = "none"  # of an id that the data set does not use
DERIVED = re.compile(r"^position_embedding\.dim_t[xy]$|\.(level|layer)_filter_ratio$|\.enhance_mcsp\.")
CLASS_ROWS = re.compile(r"(^|\.)(class_head\.\d+|encoder_class_head)\.(weight|bias)$|(^|\.)label_encoder\.weight$")
COUNTED = re.compile(r"(^|\.)encoder_class_head\.weight$")
RATIOS = {"level_ratios": "transformer.level_filter_ratio", "layer_ratios": "transformer.layer_filter_ratio"}


def count_classes(state: Mapping[str, Tensor]) -> int | None:
    """Rows of the proposals' class layer."""
    return next((len(value) for key, value in state.items() if COUNTED.search(key)), None)


def state_options(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """How many queries and decoder layers there are."""
    queries = next((len(value) for key, value in state.items() if re.search(r"(^|\.)tgt_embed\.weight$", key)), None)
    layers = {match[1] for key in state if (match := re.search(r"(?:^|\.)decoder\.layers\.(\d+)\.", key))}
    return {**({"queries": queries} if queries else {}), **({"decoder_layers": len(layers)} if layers else {})}


def adapt(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict, and what it needs of the model file: see `Head.adapt_original`.

    Labels are category ids of a data set, so some rows of the class layers name nothing: those that have a name are
    kept. Without names 91 rows are taken for COCO's ids. Raises `UserError` where there are more names than rows.
    """
    kept = {key: value for key, value in state.items() if key != CLASSES and not DERIVED.search(key)}
    options = {option: [round(ratio, 4) for ratio in state[key].tolist()] for option, key in RATIOS.items()
               if key in state}
    implied: dict[str, Any] = {"options": options} if options else {}
    width, names = count_classes(state) or 0, None
    if CLASSES in state:
        written = read_names(state[CLASSES])
        if len(written) > width:
            raise UserError(f"{len(written)} names in {CLASSES} for {width} rows of the class layers, the last one "
                            f"{printable(written[-1])[:80]!r}", code="weights-do-not-fit")
        ids = [number for number, name in enumerate(written) if name != NO_NAME]
        names = [written[number] for number in ids]
    elif width == RAW_COCO:
        ids, names = list(COCO_IDS), list(COCO)
    if not names:
        return kept, implied
    kept = {key: keep_outputs(value, width, ids) if CLASS_ROWS.search(key) else value for key, value in kept.items()}
    return kept, {**implied, "names": names}


def read_names(codes: Tensor) -> list[str]:
    """Class names from the codes of their characters, of which -1 ends a name."""
    names, letters = [], []
    for code in codes.flatten().tolist():
        if code >= 0:
            letters.append(chr(int(code)) if code <= 0x10FFFF else "?")
        elif letters:
            names.append("".join(letters))
            letters = []
    return [*names, "".join(letters)] if letters else names
