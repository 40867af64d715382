"""Losses as pure functions: raw maps and targets -> weighted scalars."""

from models.assign.task_aligned import TalOptions
from models.boxes.similarity import box_similarity
from models.losses.anchor_head import AnchorLossConfig, anchor_head_loss
from models.losses.dfl_head import DFLLossConfig, dfl_head_loss
from models.losses.gains import GAIN_RULES, scale_gains
from models.losses.normalisers import AllReduce

__all__ = ["GAIN_RULES", "AllReduce", "AnchorLossConfig", "DFLLossConfig", "TalOptions", "anchor_head_loss",
           "box_similarity", "dfl_head_loss", "scale_gains"]
