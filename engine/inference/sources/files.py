"""Files as a source: an image, a folder, a glob, a list or a video."""

import glob
import os
from collections.abc import Iterator
from pathlib import Path

from data.formats.paths import IMAGE_SUFFIXES
from data.images.decode import MAX_PIXELS, decode, read_bytes
from engine.inference.sources.addresses import without_secrets
from engine.inference.sources.frames import Frame, Source
from engine.inference.sources.videos import VIDEO_SUFFIXES, is_still, is_video, open_video, read_video
from utils.errors import UserError

OTHER_SUFFIXES = frozenset({".heic", ".heif", ".jxl"})  # photographs that no decoder here reads: reported as skipped
READABLE = "images ({}) or videos ({})".format(*(" ".join(sorted(s)) for s in (IMAGE_SUFFIXES, VIDEO_SUFFIXES)))
KINDS = "an image, a folder, a glob, a .txt list, a video file, a camera's number or the URL of a stream"


class FileSource(Source):
    """The frames of `files`, in order. max_pixels: larger images and videos are skipped."""

    def __init__(self, source: str, files: list[str], vid_stride: int = 1, max_pixels: int = MAX_PIXELS) -> None:
        super().__init__(source)
        self.files, self.vid_stride, self.max_pixels = files, vid_stride, max_pixels

    def __len__(self) -> int:
        """Number of files; a video counts once."""
        return len(self.files)

    @property
    def is_endless(self) -> bool:
        """Whether there is a video."""
        return any(map(is_video, self.files))

    def _frames(self) -> Iterator[Frame]:
        seen = 0
        for path in self.files:
            if self.stopped:
                return
            try:
                for frame in self._file(path):
                    seen += 1
                    yield frame
            except FileNotFoundError:
                self.skipped.append(f"{path}: no such file")
            except (OSError, ValueError) as error:
                self.skipped.append(f"{path}: {getattr(error, 'strerror', None) or error}")
        if not seen:
            what = "cannot be read as an image or a video" if len(self.files) == 1 else (
                f"none of its {len(self.files)} files can be read as an image or a video")
            first = next(iter(self.skipped + self.incomplete), "").removeprefix(f"{self.source}: ")
            raise UserError(f"{without_secrets(self.source)}: {what}{f' ({first})' if first else ''}; check that the "
                            f"files are whole", "unreadable-source")

    def _file(self, path: str) -> Iterator[Frame]:
        if is_video(path) and not is_still(path):
            yield from read_video(path, self.vid_stride, self.max_pixels, self.incomplete)
        else:
            yield Frame(path, 0, decode(read_bytes(path), self.max_pixels), "image")


def open_files(source: str, files: list[str], vid_stride: int, max_pixels: int) -> FileSource:
    """`FileSource`. Raises `UserError` if the only file is a video that cannot be opened."""
    if len(files) == 1 and is_video(files[0]) and Path(files[0]).is_file():
        try:
            if not is_still(files[0]):
                open_video(files[0], max_pixels).release()
        except (OSError, ValueError) as error:
            raise UserError(f"{files[0]}: {getattr(error, 'strerror', None) or error}", "unreadable-source") from None
    return FileSource(source, files, vid_stride, max_pixels)


def is_image(path: str | Path) -> bool:
    """By its suffix."""
    return Path(path).suffix.lower() in IMAGE_SUFFIXES | OTHER_SUFFIXES


def find_files(source: str) -> list[str]:
    """The images and videos of a file, a folder (not its subfolders) or a glob pattern. Raises `UserError` if there
    are none."""
    path = Path(source)
    if path.is_dir():
        return _readable([str(p) for p in sorted(path.iterdir())], source, "the folder holds no")
    if path.is_file():  # before globs: a file's name may hold brackets
        return _readable([source], source, "the file is none of the")
    if path.exists():
        raise UserError(f"{source}: a pipe or device, not a file; give {KINDS}", "unsupported-source")
    if glob.has_magic(source):
        return _readable(sorted(glob.glob(source, recursive=True)), source,  # noqa: PTH207 (pathlib refuses absolute)
                         "the pattern matches no")
    raise UserError(f"{source}: no such file or folder; give {KINDS}", "missing-file")


def read_list(path: Path) -> list[str]:
    """The lines of a list of files or streams, without blanks and comments (`#`)."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a UTF-8 text file of paths or streams, one per line",
                        "unreadable-source") from None
    return [line for line in lines if line and (not line.startswith("#") or is_image(line) or is_video(line))]


def listed_files(path: Path, lines: list[str]) -> list[str]:
    """The files that a list names, relative to the current folder or else to that of the list."""
    files = [line if os.path.exists(line) else str(path.parent / line)  # noqa: PTH110  Path raises where it is too long
             for line in lines]
    foreign = [name for name in files if not is_image(name) and not is_video(name)]
    if foreign or not files:
        what = f"names {foreign[0][:200]}, which is no image or video" if foreign else "names no files or streams"
        raise UserError(f"{path}: {what}; list paths of {READABLE}, or streams, one per line", "bad-list")
    return files


def _readable(paths: list[str], source: str, complaint: str) -> list[str]:
    files = [p for p in paths if (is_image(p) or is_video(p)) and not Path(p).is_dir()
             and not Path(p).name.startswith("._")]  # metadata files of macOS on other file systems
    if not files:
        raise UserError(f"{source}: {complaint} {READABLE}", "no-images")
    return files
