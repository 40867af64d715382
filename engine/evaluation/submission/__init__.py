"""Results files of test servers (COCO, VisDrone, VOC): written, checked, and continued after an interruption."""
