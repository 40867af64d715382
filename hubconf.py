"""torch.hub entry points: `torch.hub.load("path/to/this", "custom", path="best.pt", source="local").predict("images")`.

`custom` opens a trained model; every name of the zoo, with `_` for `-`, builds an untrained one: `yolov8n_assn`,
`yolov7_ssfpn`, `ssd300`, ... All are `assn.Model`s; the code behind them is imported as `assn.models`, `assn.utils`,
..., so another repository's `models` and `utils` may be in use beside it.
"""

import assn as _assn

dependencies = ["torch", "torchvision", "numpy", "cv2", "yaml", "PIL"]


def custom(path, device="", half=False):
    """A trained model from a checkpoint or an exported file, ready to predict; see `assn.load_model`."""
    return _assn.load_model(path, device, half)


def create(name="yolov8n-assn", num_classes=80, device="", pretrained=False, **options):
    """An untrained model of this name or model file; `.model` is the PyTorch module.

    options: `neck`, ... of `assn.build_model`. pretrained: refused, nothing is ever downloaded.
    """
    if pretrained:
        raise _assn.UserError(f"{name}: no weights are published with it, and nothing is downloaded; train it, and "
                              "load your file as torch.hub.load(..., \"custom\", path=\"best.pt\")", "no-weights")
    return _assn.Model.of(_assn.build_model(name, num_classes, **options), device)


def _entry(name):
    def entry(num_classes=80, device="", pretrained=False, **options):
        return create(name, num_classes, device, pretrained, **options)

    entry.__doc__ = f"An untrained {name}; see `create`, and `custom` for trained models."
    return entry


for _name in _assn.known_models():
    for _full in (_name, f"{_name}-assn", f"{_name}-ssfpn"):
        globals()[_full.replace("-", "_")] = _entry(_full)
