"""`speechssl manifest augment`."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from speechssl.cli.manifests.registry import parse
from speechssl.cli.output import progress_bar, say
from speechssl.config import from_dict, read_yaml
from speechssl.data.augmentation import AugmentConfig, Augmenter
from speechssl.data.augmentation.preview import write_preview
from speechssl.errors import ConfigError
from speechssl.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class AugmentOptions:
    """Options of `speechssl manifest augment`.

    Attributes:
        manifest: the manifest to take utterances from.
        output: folder that gets the wav files and augmented.json, which lists what was done to each.
        count: how many utterances, spread evenly over the manifest.
        epoch: of which epoch; the next epoch draws anew.
        seed: of the draws; that of the training run to hear what it hears.
        sample_rate: of the files in Hz.
        recipe: a training configuration; its data.augment is what is applied.
        augment: effects and their probabilities, where no recipe is given.
    """

    manifest: Path
    output: Path
    count: int = 5
    epoch: int = 0
    seed: int = 0
    sample_rate: int = 16000
    recipe: Path | None = None
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        if self.count < 1 or self.sample_rate < 1:
            raise ConfigError(f"count and sample_rate must be above 0, but are {self.count} and {self.sample_rate}")
        if self.recipe is not None and self.augment.enabled:
            raise ConfigError("--recipe and --augment exclude each other: the effects come from one of them")
        if self.recipe is None and not self.augment.enabled:
            raise ConfigError(
                "nothing to apply: name a training configuration with --recipe, or switch effects on, for example"
                " --augment.speed.probability 1"
            )


def run(words: list[str]) -> int:
    """Parse, call, print."""
    options: AugmentOptions | None = parse("augment", AugmentOptions, words, ("manifest",))
    if options is None:
        return 0
    config = options.augment if options.recipe is None else recipe_config(options.recipe)
    augmenter = Augmenter(config, sample_rate=options.sample_rate, seed=options.seed)
    manifest = Manifest.load(options.manifest)
    with progress_bar("augmenting") as progress:
        preview = write_preview(
            manifest, augmenter, options.output, count=options.count, epoch=options.epoch, progress=progress
        )
    for example in preview.examples:
        say(f"{example.augmented}: {json.dumps(example.effects, ensure_ascii=False)}")
    for name, reason in preview.problems.items():
        say(f"passed over {name}: {reason}")
    say(f"{len(preview.examples)} utterances, as they are and augmented -> {options.output}")
    return 0


def recipe_config(path: Path) -> AugmentConfig:
    """The augmentation of a training configuration.

    Raises:
        ConfigError: the file has none, or it is off.
    """
    data = read_yaml(path).get("data")
    found = data.get("augment") if isinstance(data, dict) else None
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: has no mapping data.augment; nothing is augmented there")
    config = from_dict(AugmentConfig, found, source=f"{path}: data.augment")
    if not config.enabled:
        raise ConfigError(f"{path}: data.augment: no effect has a probability above 0; nothing is augmented there")
    return config
