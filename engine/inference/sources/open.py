"""What `--source` means: files or streams."""

from pathlib import Path

from data.images.decode import MAX_PIXELS
from engine.inference.sources.files import find_files, listed_files, open_files, read_list
from engine.inference.sources.frames import Source
from engine.inference.sources.reader import PATIENCE, Patience
from engine.inference.sources.streams import StreamSource, check_streams, is_stream
from utils.errors import UserError

LIST_SUFFIXES = (".txt", ".streams")


def open_source(source: str, *, vid_stride: int = 1, max_pixels: int = MAX_PIXELS,
                patience: Patience = PATIENCE) -> Source:
    """Open an image, video, folder (not its subfolders), glob pattern, camera (its number), URL of a stream, or a
    .txt or .streams list of files or of streams.

    vid_stride: take every vid_stride-th frame of a video or stream. max_pixels: larger images are not decoded.
    patience: with streams that break. Raises `UserError`, before the first frame, if nothing matches, a folder is empty
    or the only file is a video that cannot be opened; streams are opened when the first frame is asked for.
    """
    if vid_stride < 1:
        raise UserError(f"--vid-stride {vid_stride}: give 1 for every frame, 2 for every second one, and so on",
                        "bad-value")
    source = str(source)
    if is_stream(source):
        addresses = [source]
    else:
        path = Path(source)
        listed = path.is_file() and path.suffix.lower() in LIST_SUFFIXES
        lines = read_list(path) if listed else []
        addresses = [line for line in lines if is_stream(line)]
        if not addresses:
            files = listed_files(path, lines) if listed else find_files(source)
            return open_files(source, files, vid_stride, max_pixels)
        if len(addresses) < len(lines):
            other = next(line for line in lines if not is_stream(line))
            raise UserError(f"{source}: lists streams and files ({other[:200]}); keep them in two lists, since streams "
                            f"have no end", "bad-list")
    check_streams(addresses)
    return StreamSource(source, addresses, vid_stride, max_pixels, patience)
