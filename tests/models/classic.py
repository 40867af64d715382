"""Model files as their authors write them: one row per layer, plain lists, numbers for names. Text, to be read as YAML.

Only what differs from file to file is listed here; runs of rows that every file repeats are made by functions.
"""

import yaml

UP2, UP4 = [-1, 1, "nn.Upsample", ["None", 2, "nearest"]], [-1, 1, "nn.Upsample", ["None", 4, "nearest"]]
MP, CAT = [-1, 1, "MP", []], [[-1, -2], 1, "Concat", [1]]
ANCHORS_V7 = [[12, 16, 19, 36, 40, 28], [36, 75, 76, 55, 72, 146], [142, 110, 192, 243, 459, 401]]
ANCHORS_V5 = [[10, 13, 16, 30, 33, 23], [30, 61, 62, 45, 59, 119], [116, 90, 156, 198, 373, 326]]
ANCHORS_P5 = [[13, 17, 31, 25, 24, 51, 61, 45], [48, 102, 119, 96, 97, 189, 217, 184],
              [171, 384, 324, 451, 616, 618, 800, 800]]


def conv(c: int, k: int = 1, s: int = 1, source: int = -1) -> list:
    return [source, 1, "Conv", [c, k, s]]


def elan(a: int, b: int, out: int, taps: list[int]) -> list:
    """A 1x1 beside a 1x1 and four 3x3, some of them concatenated, 1x1: eight rows."""
    return [conv(a), conv(a, source=-2), *[conv(b, 3)] * 4, [taps, 1, "Concat", [1]], conv(out)]


def transition(c: int, *lateral: int) -> list:
    return [MP, conv(c), conv(c, source=-3), conv(c, 3, 2), [[-1, -3, *lateral], 1, "Concat", [1]]]


def text(backbone: list, head: list, **keys: object) -> str:
    """The file."""
    return yaml.safe_dump({"nc": 80, "depth_multiple": 1.0, "width_multiple": 1.0, **keys, "backbone": backbone,
                           "head": head}, sort_keys=False)


def yolov7(tail: list, head: str = "IDetect") -> str:
    """yolov7.yaml up to row 104, then `tail`, whose last row names what `head` reads."""
    sparse, dense = [-1, -3, -5, -6], [-1, -2, -3, -4, -5, -6]
    backbone = [conv(32, 3), conv(64, 3, 2), conv(64, 3), conv(128, 3, 2), *elan(64, 64, 256, sparse),
                *transition(128), *elan(128, 128, 512, sparse), *transition(256), *elan(256, 256, 1024, sparse),
                *transition(512), *elan(256, 256, 1024, sparse)]
    rows = [[-1, 1, "SPPCSPC", [512]], conv(256), UP2, conv(256, source=37), CAT, *elan(256, 128, 256, dense),
            conv(128), UP2, conv(128, source=24), CAT, *elan(128, 64, 128, dense),
            *transition(128, 63), *elan(256, 128, 256, dense), *transition(256, 51), *elan(512, 256, 512, dense),
            [75, 1, "RepConv", [256, 3, 1]], [88, 1, "RepConv", [512, 3, 1]], [101, 1, "RepConv", [1024, 3, 1]]]
    *tail, read = tail
    return text(backbone, [*rows, *tail, [read, 1, head, ["nc", "anchors"]]], anchors=ANCHORS_V7)


def assn_yolov7() -> str:
    """assn-yolov7.yaml of the ASSN repository: rows 105 to 119."""
    dense = [-1, -2, -3, -4, -5, -6]
    return yolov7([conv(256, source=103), conv(256, source=104), [105, *UP2[1:]], [106, *UP4[1:]],
                   [[102, 107, 108], 1, "CBAM", [256]], *elan(256, 128, 256, dense), [[-1, 102], 1, "Shortcut", [1]],
                   [118, 103, 104]])


def ss_yolov7(conv3d: list | None = None) -> str:
    """ss-yolov7.yaml of the ASSN repository: rows 105 to 115."""
    return yolov7([conv(256, source=103), conv(256, source=104), [105, *UP2[1:]], [106, *UP4[1:]],
                   [102, 1, "Unsqueeze", [2]], [107, 1, "Unsqueeze", [2]], [108, 1, "Unsqueeze", [2]],
                   [[109, 110, 111], 1, "Concat", [2]], [-1, 1, "Conv3D", conv3d or [256, 256, 3, 1]],
                   [[113, 102], 1, "Concat", [1]], [114, 103, 104]])


def yolov8_assn() -> str:
    """yolov8-assn.yaml of the ASSN repository: rows 22 to 36."""
    def follow(ratio: float, k: int, source: int = -1) -> list:
        return [source, 1, "ConvP3", [15, ratio, k, 1]]

    def c2f(c: int, *shortcut: bool, n: int = 3) -> list:
        return [-1, n, "C2f", [c, *shortcut]]

    backbone = [conv(64, 3, 2), conv(128, 3, 2), c2f(128, True), conv(256, 3, 2), c2f(256, True, n=6), conv(512, 3, 2),
                c2f(512, True, n=6), conv(1024, 3, 2), c2f(1024, True), [-1, 1, "SPPF", [1024, 5]]]
    head = [UP2, [[-1, 6], 1, "Concat", [1]], c2f(512), UP2, [[-1, 4], 1, "Concat", [1]], c2f(256),
            conv(256, 3, 2), [[-1, 12], 1, "Concat", [1]], c2f(512), conv(512, 3, 2), [[-1, 9], 1, "Concat", [1]],
            c2f(1024),
            follow(1, 1, 18), follow(1, 1, 21), [22, *UP2[1:]], [23, *UP4[1:]], [[15, 24, 25], 1, "CBAMP3", []],
            follow(1, 1), follow(1, 1, -2), *[follow(0.5, 3)] * 4, [[-1, -2, -3, -4, -5, -6], 1, "Concat", [1]],
            follow(1, 1), [[-1, 15], 1, "Shortcut", [0]], [[35, 18, 21], 1, "Detect", ["nc"]]]
    scales = {"n": [0.33, 0.25, 1024], "s": [0.33, 0.5, 1024], "m": [0.67, 0.75, 768]}
    return text(backbone, head, scales=scales)


def yolov4_p5_sequence() -> str:
    """yolov4-p5-sequence.yaml of the ssFPN repository. Mish is in that repository's code, not in the file."""
    def csp(c: int, n: int, kind: str = "BottleneckCSP") -> list:
        return [-1, n, kind, [c]]

    backbone = [conv(32, 3), conv(64, 3, 2), csp(64, 1), conv(128, 3, 2), csp(128, 3), conv(256, 3, 2), csp(256, 15),
                conv(512, 3, 2), csp(512, 15), conv(1024, 3, 2), csp(1024, 7)]
    head = [[-1, 1, "SPPCSP", [512]], conv(256), UP2, conv(256, source=8), CAT, csp(256, 3, "BottleneckCSP2"),
            conv(128), UP2, conv(128, source=6), CAT, csp(128, 3, "BottleneckCSP2"), conv(256, 3),
            conv(256, 3, 2, -2), [[-1, 16], 1, "Concat", [1]], csp(256, 3, "BottleneckCSP2"), conv(512, 3),
            conv(512, 3, 2, -2), [[-1, 11], 1, "Concat", [1]], csp(512, 3, "BottleneckCSP2"), conv(1024, 3),
            conv(256, source=30), UP4, conv(256, source=26), UP2,
            [22, 1, "Unsqueeze", [2]], [34, 1, "Unsqueeze", [2]], [32, 1, "Unsqueeze", [2]],
            [[35, 36, 37], 1, "Concat", [2]], [-1, 1, "Conv3D", [256, 256]], [[-1, 22], 1, "Concat", [1]],
            [[40, 26, 30], 1, "Detect", ["nc", "anchors"]]]
    return text(backbone, head, anchors=ANCHORS_P5, activation="Mish")


def yolov8_ghost() -> str:
    """yolov8-ghost.yaml of Ultralytics."""
    def ghost(c: int, s: int = 2) -> list:
        return [-1, 1, "GhostConv", [c, 3, s]]

    def c3(c: int, *shortcut: bool, n: int = 3) -> list:
        return [-1, n, "C3Ghost", [c, *shortcut]]

    backbone = [conv(64, 3, 2), ghost(128), c3(128, True), ghost(256), c3(256, True, n=6), ghost(512),
                c3(512, True, n=6), ghost(1024), c3(1024, True), [-1, 1, "SPPF", [1024, 5]]]
    head = [UP2, [[-1, 6], 1, "Concat", [1]], c3(512), UP2, [[-1, 4], 1, "Concat", [1]], c3(256), ghost(256),
            [[-1, 12], 1, "Concat", [1]], c3(512), ghost(512), [[-1, 9], 1, "Concat", [1]], c3(1024),
            [[15, 18, 21], 1, "Detect", ["nc"]]]
    return text(backbone, head, scales={"n": [0.33, 0.25, 1024], "s": [0.33, 0.5, 1024], "m": [0.67, 0.75, 768]})


def yolov6() -> str:
    """yolov6.yaml of Ultralytics."""
    def convs(n: int, c: int) -> list:
        return [-1, n, "Conv", [c, 3, 1]]

    def up(c: int, lateral: int) -> list:
        return [conv(c), [-1, 1, "nn.ConvTranspose2d", [c, 2, 2, 0]], [[-1, lateral], 1, "Concat", [1]], conv(c, 3),
                convs(9, c)]

    def down(c: int, lateral: int) -> list:
        return [conv(c, 3, 2), [[-1, lateral], 1, "Concat", [1]], conv(2 * c, 3), convs(9, 2 * c)]

    backbone = [conv(64, 3, 2), conv(128, 3, 2), convs(6, 128), conv(256, 3, 2), convs(12, 256), conv(512, 3, 2),
                convs(18, 512), conv(1024, 3, 2), convs(6, 1024), [-1, 1, "SPPF", [1024, 5]]]
    head = [*up(256, 6), *up(128, 4), *down(128, 15), *down(256, 10), [[19, 23, 27], 1, "Detect", ["nc"]]]
    return text(backbone, head, activation="nn.ReLU()", scales={"n": [0.33, 0.25, 1024], "s": [0.33, 0.5, 1024]})


def yolov5(block: str = "C3", head_block: str | None = None, deep: str | None = None, **keys: object) -> str:
    """The 6.0 layout of YOLOv5 with other blocks: yolov5s-ghost.yaml, yolov5s-transformer.yaml and the like."""
    deep, head_block = deep or block, head_block or block
    backbone = [[-1, 1, "Conv", [64, 6, 2, 2]], conv(128, 3, 2), [-1, 3, block, [128]], conv(256, 3, 2),
                [-1, 6, block, [256]], conv(512, 3, 2), [-1, 9, block, [512]], conv(1024, 3, 2), [-1, 3, deep, [1024]],
                [-1, 1, "SPPF", [1024, 5]]]
    head = [conv(512), UP2, [[-1, 6], 1, "Concat", [1]], [-1, 3, head_block, [512, False]], conv(256), UP2,
            [[-1, 4], 1, "Concat", [1]], [-1, 3, head_block, [256, False]], conv(256, 3, 2),
            [[-1, 14], 1, "Concat", [1]], [-1, 3, head_block, [512, False]], conv(512, 3, 2),
            [[-1, 10], 1, "Concat", [1]], [-1, 3, head_block, [1024, False]],
            [[17, 20, 23], 1, "Detect", ["nc", "anchors"]]]
    return text(backbone, head, anchors=ANCHORS_V5, **{"depth_multiple": 0.33, "width_multiple": 0.5, **keys})


def resnet_csp(block: str) -> str:
    """r50-csp.yaml and x50-csp.yaml of YOLOv7."""
    backbone = [[-1, 1, "Stem", [128]], [-1, 3, block, [128]], conv(256, 3, 2), [-1, 4, block, [256]], conv(512, 3, 2),
                [-1, 6, block, [512]], conv(1024, 3, 2), [-1, 3, block, [1024]]]
    cspb = "BottleneckCSPB"
    head = [[-1, 1, "SPPCSPC", [512]], conv(256), UP2, conv(256, source=5), CAT, [-1, 2, cspb, [256]], conv(128), UP2,
            conv(128, source=3), CAT, [-1, 2, cspb, [128]], conv(256, 3), conv(256, 3, 2, -2),
            [[-1, 13], 1, "Concat", [1]], [-1, 2, cspb, [256]], conv(512, 3), conv(512, 3, 2, -2),
            [[-1, 8], 1, "Concat", [1]], [-1, 2, cspb, [512]], conv(1024, 3),
            [[19, 23, 27], 1, "IDetect", ["nc", "anchors"]]]
    return text(backbone, head, anchors=ANCHORS_V7)
