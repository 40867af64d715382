"""What detect.py looks at: images, videos, and lists of them, as one stream of frames."""

from engine.inference.sources.files import Frame, Source, is_image, is_video, open_source

__all__ = ["Frame", "Source", "is_image", "is_video", "open_source"]
