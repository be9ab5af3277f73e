"""Names of tar members, as WebDataset reads them: `KEY.EXTENSION`, split at the first dot of the last part."""

import hashlib
import re

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}\Z")
_UNSAFE_CHARACTERS = re.compile(r"[^A-Za-z0-9]+")
_MEMBER = re.compile(r"(?P<key>(?:.*/)?[^./][^./]*)\.(?P<extension>[^/]*)\Z", re.DOTALL)


def make_key(id: str) -> str:
    """The key of an utterance id: itself if it is plain, else its plain part and a hash of the whole.

    Dots would end a key, slashes make folders, and long or foreign names trouble other tools.
    """
    if _SAFE.match(id):
        return id
    plain = _UNSAFE_CHARACTERS.sub("_", id).strip("_")[-48:].strip("_")
    digest = hashlib.blake2b(id.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return f"{plain}-{digest}" if plain else digest


def split_name(name: str) -> tuple[str, str] | None:
    """Key and extension (lower case) of a member; None for what WebDataset passes over, without a dot or a key."""
    found = _MEMBER.match(name.removeprefix("./"))
    return None if found is None else (found["key"], found["extension"].lower())


def refusal(name: str) -> str | None:
    """Why a member's name is not taken as an id: it points out of the folder that a tar would be unpacked to."""
    if name.startswith("/") or name.startswith("\\") or re.match(r"[A-Za-z]:[\\/]", name):
        return "an absolute path"
    if ".." in re.split(r"[\\/]", name):
        return "a path with `..`"
    if "\0" in name or "\n" in name or "\r" in name:
        return "a name with control characters"
    return None
