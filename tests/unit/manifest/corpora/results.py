"""What a build gave, in forms that are easy to compare."""

import shutil
from pathlib import Path

from speechssl.manifest import BuildResult

Row = tuple[str | None, str | None, dict[str, object]]


def rows(result: BuildResult) -> dict[str, Row]:
    """Text, speaker and extra columns by id."""
    return {u.id: (u.text, u.speaker, dict(u.extra)) for u in result.manifest}


def parts_of(result: BuildResult, column: str) -> dict[str, list[str]]:
    """Ids by the values of an extra column, null ones left away."""
    parts: dict[str, list[str]] = {}
    for utterance in result.manifest:
        if column in utterance.extra:
            parts.setdefault(str(utterance.extra[column]), []).append(utterance.id)
    return parts


def reasons(result: BuildResult) -> dict[str, str]:
    """Why something was left out, by the last part of its name; of long reasons the part up to the first comma."""
    short = {}
    for path, reason in result.skipped:
        name = path.rsplit("/", 1)[-1]
        text = reason.removeprefix(f"{path}: ")
        short[name] = text.split(",")[0] + ", not audio" if text.startswith("is text") else text
    return short


def without(folder: Path) -> None:
    """Remove a folder of a miniature."""
    shutil.rmtree(folder)
