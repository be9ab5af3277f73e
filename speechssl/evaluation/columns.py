"""Which columns of a manifest an evaluation is divided by, and their values."""

import datetime
from collections.abc import Sequence
from typing import Any

from speechssl.errors import ConfigError
from speechssl.evaluation.folder import Values
from speechssl.manifest import Manifest
from speechssl.scoring.groups import Value
from speechssl.types import ErrorReport

COUNTED = ("num_words",)
"""What is known of the texts rather than of the manifest: words of the reference after normalisation."""
DEFAULT = ("speaker", "language", "duration")
TEXTUAL = ("id", "text", "audio_filepath")


def chosen_columns(asked: Sequence[str] | None, manifest: Manifest) -> list[str]:
    """The columns to divide by; those of `DEFAULT` that there are where none was asked for.

    Raises:
        ConfigError: a column that there is not.
    """
    known = [*manifest.column_names, *COUNTED]
    if asked is None:
        return [name for name in DEFAULT if name in known]
    unknown = [name for name in asked if name not in known or name in TEXTUAL]
    if unknown:
        usable = ", ".join(name for name in known if name not in TEXTUAL)
        raise ConfigError(f"breakdown: there is no column {unknown[0]!r} to divide by; the columns are {usable}")
    return list(asked)


def column_values(names: Sequence[str], manifest: Manifest, report: ErrorReport) -> Values:
    """The values of the named columns by utterance id; `duration` is always among them."""
    ids = [str(name) for name in manifest.column("id").to_pylist()]
    found: dict[str, dict[str, Value]] = {}
    for name in dict.fromkeys([*names, "duration"]):
        if name in COUNTED:
            found[name] = {utterance.id: utterance.num_words for utterance in report.utterances}
        else:
            values = manifest.column(name).to_pylist()
            found[name] = {key: _scalar(value) for key, value in zip(ids, values, strict=True)}
    return found


def has_several(values: dict[str, Value] | Any) -> bool:
    """Whether dividing by these values makes more than one group."""
    return len(set(values.values())) > 1


def _scalar(value: Any) -> Value:
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return str(value.isoformat() if isinstance(value, datetime.date) else value)


__all__ = ["COUNTED", "chosen_columns", "column_values", "has_several"]
