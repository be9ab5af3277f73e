"""Labelled utterances of the training and the test part, and who may stand in which.

Shapes: N utterances.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speechssl.errors import AudioError, ConfigError
from speechssl.manifest import Manifest
from speechssl.probe.classify import Labels, draw_balanced
from speechssl.probe.settings import ProbeConfig


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some labelled utterances: ids, labels and groups of equal length."""

    ids: Labels
    labels: Labels
    groups: Labels | None

    def select(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> "Part":
        """Some of the rows."""
        groups = None if self.groups is None else self.groups[rows]
        return Part(ids=self.ids[rows], labels=self.labels[rows], groups=groups)

    def without(self, ids: Sequence[str]) -> "Part":
        """All rows but those."""
        return self.select(~np.isin(self.ids, list(ids)))


def load_parts(config: ProbeConfig) -> tuple[Manifest, Manifest]:
    """Training and test part: two manifests, or one that is divided.

    Raises:
        ConfigError: no such column, or too few groups or labels to divide.
        ManifestError: a manifest cannot be read.
    """
    manifest = Manifest.load(config.manifest)
    if config.test_manifest is not None:
        return manifest, Manifest.load(config.test_manifest)
    return split(manifest, config)


def split(manifest: Manifest, config: ProbeConfig) -> tuple[Manifest, Manifest]:
    """Training and test part: whole groups where `group` is set, else utterances with each label's share kept.

    Raises:
        ConfigError: no such column, or too few groups or labels to divide.
    """
    from sklearn.model_selection import GroupShuffleSplit, ShuffleSplit, StratifiedShuffleSplit

    part = labelled_part(manifest, config)
    kind = StratifiedShuffleSplit if config.is_stratified else ShuffleSplit
    kind = kind if part.groups is None else GroupShuffleSplit
    divider = kind(n_splits=1, test_size=config.test_fraction, random_state=config.seed)
    try:
        train, test = next(divider.split(part.ids, part.labels, part.groups))
    except ValueError as error:
        what = f"values of {(config.kept_apart or config.label)!r}"
        raise ConfigError(
            f"{len(part.ids)} utterances with {what} cannot be divided ({error}); give a"
            " test_manifest, or leave out rare values"
        ) from None
    ids = strings(manifest, "id")
    return manifest.filter(np.isin(ids, part.ids[train])), manifest.filter(~np.isin(ids, part.ids[train]))


def labelled_part(manifest: Manifest, config: ProbeConfig) -> Part:
    """The rows that have a label (and a group, where one is asked for)."""
    labels = strings(manifest, config.label)
    groups = None if config.kept_apart is None else strings(manifest, config.kept_apart)
    known = labels != "" if groups is None else (labels != "") & (groups != "")
    return Part(ids=strings(manifest, "id"), labels=labels, groups=groups).select(known)


def strings(manifest: Manifest, name: str) -> Labels:
    """A column as text, empty where there is no value."""
    if name not in manifest.table.column_names:
        known = ", ".join(manifest.table.column_names)
        raise ConfigError(f"the manifest has no column {name!r} to probe; it has {known}")
    return np.array(["" if value is None else str(value) for value in manifest.column(name).to_pylist()], dtype=np.str_)


def draw_training(train: Part, config: ProbeConfig) -> list[NDArray[np.int64]]:
    """Rows of the training part for each seed: all of them, or as many as wanted with the classes balanced."""
    if config.num_train is None or config.num_train >= len(train.ids):
        return [np.arange(len(train.ids))] * config.num_seeds
    return [
        draw_balanced(train.labels, config.num_train, np.random.default_rng([config.seed, number]))
        for number in range(config.num_seeds)
    ]


def majority(train: Part, test: Part) -> float:
    """Test accuracy of always naming the training part's most frequent label."""
    most = Counter(train.labels.tolist()).most_common(1)[0][0]
    return float((test.labels == most).mean())


def check_parts(train: Part, test: Part, config: ProbeConfig) -> None:
    """Refuse parts that share utterances or groups, and labels that leave nothing to tell apart.

    Raises:
        ConfigError: with what they share, or what is missing.
    """
    shared = sorted(set(train.ids) & set(test.ids))
    if shared:
        raise ConfigError(
            f"{len(shared)} utterances are in the training and in the test part, such as {shared[0]!r};"
            " divide them anew"
        )
    if train.groups is not None and test.groups is not None:
        shared = sorted(set(train.groups) & set(test.groups))
        if shared:
            raise ConfigError(
                f"{len(shared)} values of {config.kept_apart!r} are in the training and in the test part, such as"
                f" {shared[0]!r}; divide by {config.kept_apart}{'' if config.group is None else ', or leave group out'}"
            )
    classes = set(train.labels)
    if len(classes) < 2:
        raise ConfigError(
            f"the column {config.label!r} has {len(classes)} different values in the training part; a probe needs two"
        )
    if not len(test.ids):
        raise ConfigError(f"no utterance of the test part has a value of {config.label!r}; give one that is labelled")


def check_left(draws: Sequence[Part], test: Part, config: ProbeConfig, failures: Mapping[str, str]) -> None:
    """Refuse to go on with what unusable recordings have left over.

    Raises:
        AudioError: no test utterance, or a draw with one class only.
    """
    if len(test.ids) and all(len(set(draw.labels)) > 1 for draw in draws):
        return
    first = next(iter(failures.values()), "num_train draws only one class")
    raise AudioError(
        f"too few recordings are left to probe for {config.label!r}: {len(failures)} cannot be used, the first: {first}"
    )
