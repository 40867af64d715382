"""Class names: which class of a model is which class of a dataset, and counts as text."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher

from utils.errors import UserError

# Names of Pascal VOC and Darknet, and COCO's for the same classes.
SYNONYMS = {"aeroplane": "airplane", "motorbike": "motorcycle", "sofa": "couch", "tvmonitor": "tv",
            "televisionmonitor": "tv"}
NAMELESS = re.compile(r"(class|cls|c|category|cat|object|obj|item|label)?[\s_-]*\d*", re.IGNORECASE)
IRREGULAR = {"sheep": "sheep", "fish": "fish", "deer": "deer", "aircraft": "aircraft", "people": "people",
             "mouse": "mice", "knife": "knives", "leaf": "leaves", "man": "men", "woman": "women", "child": "children",
             "goose": "geese", "tooth": "teeth", "foot": "feet", "tomato": "tomatoes", "potato": "potatoes"}
ALIKE = 0.85  # least similarity of two spellings of one class
LISTED = 20  # names that a message shows


def match_classes(model: Sequence[str], data: Sequence[str], who: str, what: str) -> tuple[list[int] | None, str]:
    """The dataset's label of each label of the model, None if they are the same; and a note for the user, '' if the
    lists are equal.

    The same names in another order are matched by name. Different spellings at the same positions (case, spaces,
    plural) are matched by position, and so are placeholders (`class0`). Raises `UserError` for anything else. who,
    what: model and dataset in messages.
    """
    if list(model) == list(data):
        return None, ""
    if len(model) != len(data):
        raise UserError(f"{who} has {len(model)} classes ({_list(model)}), {what} has {len(data)} ({_list(data)}); "
                        f"give the --data it was trained on, and --single-cls where it was trained so", "other-classes")
    keys = [spelling(name) for name in model], [spelling(name) for name in data]
    for ours, theirs in ((model, data), keys):
        if len(set(ours)) == len(ours) and sorted(ours) == sorted(theirs) and list(ours) != list(theirs):
            order = [list(theirs).index(name) for name in ours]
            moved = next(k for k, label in enumerate(order) if k != label)
            return order, (f"{what} has the classes of {who} in another order: they are matched by name "
                           f"({model[moved]!r} is class {moved} of the model and class {order[moved]} of the data)")
    if all(_alike(a, b, keys) for a, b in zip(*keys, strict=True)):
        pair = next(f"{a!r} and {b!r}" for a, b in zip(model, data, strict=True) if a != b)
        return None, f"warning: {who} and {what} spell their classes differently ({pair}); they are matched by position"
    for side, names in ((who, model), (what, data)):
        if all(map(NAMELESS.fullmatch, names)):
            return None, (f"warning: the class names of {side} are placeholders ({_list(names)}); classes are matched "
                          f"by position")
    raise UserError(f"{who} has other classes than {what}: {_list(model)} and {_list(data)}; give the --data it was "
                    f"trained on, or correct `names`", "other-classes")


def plural(name: str) -> str:
    """The English plural of a class name: `persons`, `crosses`, `batteries`; `scissors`, names in other scripts and
    numbered ones are unchanged."""
    last = re.split(r"[\s_-]", name)[-1]
    if last.lower() in IRREGULAR:
        return name[:len(name) - len(last)] + IRREGULAR[last.lower()]
    if not re.search(r"[a-z]$", name, re.IGNORECASE):
        return name
    if name.endswith(("ss", "us", "x", "ch", "sh")):
        return f"{name}es"
    if name.endswith("y") and name[-2:-1] not in ("", *"aeiou"):
        return f"{name[:-1]}ies"
    return name if name.endswith("s") else f"{name}s"


def count_classes(labels: Iterable[int], names: Sequence[str]) -> str:
    """Class indices as text: `2 persons, 1 dog`, in the order of the classes."""
    counts = sorted(Counter(labels).items())
    return ", ".join(f"{count} {names[label] if count == 1 else plural(names[label])}" for label, count in counts)


def spelling(name: str) -> str:
    """A name in lower case and singular, without spaces and punctuation."""
    key = re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", name).casefold()) or name
    if key.endswith("ies") and len(key) > 4:
        key = key[:-3] + "y"
    elif key.endswith(("sses", "shes", "ches", "xes", "uses")):
        key = key[:-2]
    elif key.endswith("s") and not key.endswith(("ss", "us", "is")):
        key = key[:-1]
    return SYNONYMS.get(key, key)


def _alike(a: str, b: str, keys: tuple[Sequence[str], Sequence[str]]) -> bool:
    """Whether two spellings at the same position mean one class: equal, or similar and not the name of another."""
    if a == b:
        return True
    digits = [re.sub(r"\D", "", key) for key in (a, b)]
    return (digits[0] == digits[1] and min(len(a), len(b)) >= 6 and a not in keys[1] and b not in keys[0]
            and SequenceMatcher(None, a, b).ratio() >= ALIKE)


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(name[:40] for name in names[:LISTED])
    return shown if len(names) <= LISTED else f"{shown} ... of {len(names)}"
