import torch

from utils.boxes import box_iou


def test_iou_is_that_of_torchvision_to_the_last_bit():
    from torchvision.ops import box_iou as reference

    random = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.float64):
        corner = torch.rand(40, 2, generator=random, dtype=dtype) * 50
        boxes = torch.cat((corner, corner + torch.rand(40, 2, generator=random, dtype=dtype) * 30), 1)
        boxes[3, 2:] = boxes[3, :2]  # without area
        torch.testing.assert_close(box_iou(boxes, boxes[:15]), reference(boxes, boxes[:15]), rtol=0, atol=0,
                                   equal_nan=True)
    assert box_iou(boxes[:0], boxes).shape == (0, 40) and box_iou(boxes, boxes[:0]).shape == (40, 0)
