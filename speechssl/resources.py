"""Files that come with the package: corpus cards, recipes, the shipped encoder."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def resource_folder(name: str) -> Path:
    """Folder `name` ("manifests", "recipes" or "assets"), in a source tree and in an installed package alike.

    Cards and recipes lie at the top of the repository; the wheel carries a copy inside the package.
    """
    if name == "assets":
        return _PACKAGE / "assets"
    packaged = _PACKAGE / "_resources" / name
    return packaged if packaged.is_dir() else _PACKAGE.parent / name
