"""What detect.py looks at: images, videos, cameras and streams, and lists of them, as one stream of frames."""

from engine.inference.sources.files import is_image
from engine.inference.sources.frames import Frame, Source
from engine.inference.sources.open import open_source
from engine.inference.sources.reader import Patience
from engine.inference.sources.videos import is_video

__all__ = ["Frame", "Patience", "Source", "is_image", "is_video", "open_source"]
