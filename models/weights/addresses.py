"""Where the originals publish their weights. Nothing is downloaded: an error names the page, and the user decides."""

import re
from dataclasses import dataclass
from pathlib import Path

from utils.errors import UserError


@dataclass(frozen=True)
class Published:
    """Weights that others publish. title: what they are of; files: a pattern of their names, without the suffix;
    shown: those names in docs/originals.md; address: the page, or with a final `/` the folder of the files."""

    title: str
    files: str
    shown: str
    address: str

    def page(self, name: str) -> str:
        """Where a file of this name is."""
        return self.address + name if self.address.endswith("/") else self.address


PUBLISHED = (
    Published("Ultralytics YOLOv8", r"yolov8[nsmlx]", "yolov8n.pt", "https://github.com/ultralytics/assets/releases"),
    Published("Ultralytics YOLOv5", r"yolov5[nsmlx]6?u?", "yolov5s.pt, yolov5s6.pt",
              "https://github.com/ultralytics/yolov5/releases"),
    Published("Ultralytics YOLOv3", r"yolov3(-spp|-tiny)?u?", "yolov3-spp.pt",
              "https://github.com/ultralytics/yolov3/releases"),
    Published("YOLOv7", r"yolov7(x|-tiny|-w6|-e6|-d6|-e6e)?(_training)?", "yolov7.pt, yolov7_training.pt",
              "https://github.com/WongKinYiu/yolov7/releases"),
    Published("ScaledYOLOv4", r"yolov4[-_](csp|p5|p6|p7).*", "yolov4-p5.pt",
              "https://github.com/WongKinYiu/ScaledYOLOv4"),
    Published("YOLOR", r"yolor[-_].*", "yolor_p6.pt", "https://github.com/WongKinYiu/yolor"),
    Published("ASSN", r".*assn.*", "", "https://github.com/smu-ivpl/ASSN"),
    Published("ssFPN", r".*ssfpn.*", "", "https://github.com/smu-ivpl/ssFPN"),
    Published("SSD300 and its reduced VGG-16", r"ssd_?300_map.*|vgg16_reducedfc", "ssd300_mAP_77.43_v2.pth, "
              "vgg16_reducedfc.pth", "https://github.com/amdegroot/ssd.pytorch"),
    Published("ASSD", r"assd.*|end_model", "end_model.pth", "https://github.com/yijingru/ASSD-Pytorch"),
    Published("torchvision", r"(ssd300_vgg16_coco|retinanet_resnet50_fpn_coco|resnet\d+|vgg16)-[0-9a-f]{8}",
              "ssd300_vgg16_coco-b556d3b4.pth, retinanet_resnet50_fpn_coco-eeacb38b.pth, resnet50-11ad3fa6.pth, "
              "vgg16-397923af.pth", "https://download.pytorch.org/models/"),
    Published("Salience DETR", r"salience.*|best_ap", "best_ap.pth", "https://github.com/xiuqhou/Salience-DETR"),
    Published("Scale-Focused DETR", r"scale[-_]focused.*", "", "https://github.com/qiqidonebyte/Salience-DETR"),
)
LATER = re.compile(r"yolo(v9|v1\d|1\d|26).*|rtdetr.*", re.IGNORECASE)


def where_published(path: Path | str) -> str:
    """A clause for a file of this name: who publishes it where; '' for any other."""
    name = Path(path).name
    stem = Path(name).stem
    if LATER.fullmatch(stem):
        return f"{stem} is of a later family, which is not read here: take YOLOv3 to v8"
    found = next((one for one in PUBLISHED if re.fullmatch(one.files, stem, re.IGNORECASE)), None)
    return f"{found.title} publishes weights at {found.page(name)}" if found else ""


def require_file(path: Path | str) -> None:
    """Raises `UserError` where there is no such file: it says where the originals publish a file of this name."""
    if not Path(path).is_file():
        cure = where_published(path) or "give the path of trained weights, such as runs/train/exp/weights/best.pt"
        what = "is not a file" if Path(path).exists() else "no such file"
        raise UserError(f"{path}: {what}; nothing is downloaded: {cure}", "missing-file")
