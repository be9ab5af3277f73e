"""What a recording's path says: which file, and which bytes of it."""

import re
from dataclasses import dataclass

_RANGE = re.compile(r"(?P<file>.+):(?P<start>\d+):(?P<num_bytes>\d+)\Z", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Location:
    """`file` is a path or a URL; `start` and `num_bytes` are a range within it, None for the whole."""

    file: str
    start: int | None = None
    num_bytes: int | None = None

    @property
    def is_remote(self) -> bool:
        """Whether fsspec reads it: the file is a URL."""
        return is_url(self.file)


def locate(path: str) -> Location:
    """Take a path apart: `FILE`, or `FILE:START:NUM_BYTES` for a member of an uncompressed archive."""
    found = _RANGE.match(path) if ":" in path else None  # the pattern alone is slow on long paths
    if found is None:
        return Location(file=path)
    return Location(file=found["file"], start=int(found["start"]), num_bytes=int(found["num_bytes"]))


def is_url(path: str) -> bool:
    """Whether a path is a URL, such as `s3://bucket/clip.flac`."""
    return "://" in path
