"""The task `ctc`: character error rates of a small recogniser on frozen frames."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from speechssl.probe import ctc_head
from speechssl.probe.parts import draw_training
from speechssl.probe.results import ratio_outcome
from speechssl.probe.sources import layer_names
from speechssl.probe.tasks.job import Finished, Job, Sources
from speechssl.progress import Tell
from speechssl.scoring import error_rates
from speechssl.text import Vocabulary, normalize


def recognise_texts(job: Job, sources: Sources, tell: Tell) -> Finished:
    """Character error rates of a head for every representation and seed."""
    config = job.config
    texts = {
        str(name): normalize(str(label), ctc_head.NORMALIZER)
        for part in job.parts
        for name, label in zip(part.ids, part.labels, strict=True)
    }
    draws = [job.parts[0].select(rows) for rows in draw_training(job.parts[0], config)]
    wanted = np.unique(np.concatenate([draw.ids for draw in draws]))
    vocabulary = Vocabulary.from_texts(texts[str(name)] for name in wanted)
    unknown = sum(bool(vocabulary.unknown_characters(texts[str(name)])) for name in job.parts[1].ids)
    if unknown:
        job.notes.append(f"{unknown} test texts hold characters that no training text has; they count as errors")
    errors: dict[str, list[dict[str, int]]] = {}
    extras: dict[str, Mapping[str, Any]] = {}
    # Encoders first: what is too short for them is then known before a head is trained on hand-made features.
    for name, every in sorted(sources.items(), key=lambda pair: pair[1][0].encoder is None):
        tell(f"{name}: frames")
        errors[name] = []
        extra: dict[str, list[Any]] = {"learning_rates": [], "steps": [], "layer_weights": [], "wer": []}
        rates: tuple[float, ...] = ctc_head.LEARNING_RATES
        for number, draw in enumerate(draws):
            if number < len(every):
                frames = {
                    key: found.astype(np.float16)
                    for part, ids in ((0, wanted), (1, None))
                    for key, found in every[number].stream(job.rows(part, ids), on_error=job.failed)
                }
            test_ids = [str(key) for key in job.left(1).ids]
            mine = draw.without(list(job.failures))
            ids = ctc_head.fitting([str(key) for key in mine.ids], frames, texts, vocabulary)
            tell(f"{name}: CTC head of seed {config.seed + number}, {len(ids)} utterances to train on")
            trained = ctc_head.train_head(
                ids,
                frames,
                texts,
                vocabulary,
                rates=rates,
                num_updates=config.num_updates,
                seed=config.seed + number,
                groups=None if mine.groups is None else mine.groups[np.isin(mine.ids, ids)],
            )
            rates = (trained.learning_rate,)  # found once, inside the first seed's training utterances
            counted = ctc_head.recognise(trained.head, test_ids, frames, texts, vocabulary)
            errors[name].append({one.id: one.char_errors for one in counted})
            extra["learning_rates"].append(trained.learning_rate)
            extra["steps"].append(trained.step)
            extra["layer_weights"].append(trained.head.layer_weights)
            extra["wer"].append(error_rates(counted)[0])
        extras[name] = {**extra, "weighted_layers": list(layer_names(every[0]))}
    test = job.left(1)
    outcomes = {
        name: ratio_outcome(
            np.array([[[row[str(key)] for key in test.ids]] for row in errors[name]], dtype=np.float64),
            np.array([len(texts[str(key)]) for key in test.ids], dtype=np.float64),
            [0] * len(draws),
            test.ids if test.groups is None else test.groups,
            layers=(),
            dimension=sources[name][0].dimension,
            num_bootstrap=config.num_bootstrap,
            seed=config.seed,
            extra=extras[name],
        )
        for name in sources
    }
    return Finished(
        outcomes=outcomes,
        metric="character error rate",
        better="lower",
        chance=None,
        sizes=(len(draws[0].without(list(job.failures)).ids), len(test.ids)),
        unit="utterances",
        num_classes=len(vocabulary) - 1,
        interval_over="test utterances" if config.group is None else f"values of {config.group}",
    )
