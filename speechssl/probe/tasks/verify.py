"""The task `verify`: are two utterances of one speaker? Equal error rate of cosines."""

import numpy as np

from speechssl.errors import ConfigError
from speechssl.probe.features import LayerVectors
from speechssl.probe.parts import Part, strings
from speechssl.probe.sources import layer_names, utterance_vectors
from speechssl.probe.tasks.job import Finished, Job, Sources
from speechssl.probe.verify import draw_trials, verify
from speechssl.progress import Tell


def verify_speakers(job: Job, sources: Sources, tell: Tell) -> Finished:
    """Equal error rates among pairs of each part's utterances."""
    config = job.config
    recordings = [job.rows(part) for part in (0, 1)]
    vectors: dict[str, list[LayerVectors]] = {}
    for name, every in sources.items():
        tell(f"{name}: vectors of {sum(len(part.ids) for part in job.parts)} utterances")
        vectors[name] = [utterance_vectors(source, recordings, config.pool, job.failures) for source in every]
    train, test = job.left(0), job.left(1)
    for part, which in ((train, "training"), (test, "test")):
        if not 0 < draw_trials(part.labels, num_pairs=config.num_pairs, seed=0).same.mean() < 1:
            raise ConfigError(
                f"the {which} part has no pairs of one and of two values of {config.label!r}; give speakers with"
                " several utterances each"
            )
    _note_shared_recordings(job, test)
    outcomes = {}
    for name, every_vectors in vectors.items():
        tell(f"{name}: trials")
        stacks = [
            [np.stack([found[str(key)] for key in part.ids]) for found in every_vectors] for part in (train, test)
        ]
        outcomes[name] = verify(
            stacks[0],
            stacks[1],
            train.labels,
            test.labels,
            layers=layer_names(sources[name][0]),
            num_seeds=config.num_seeds,
            num_pairs=config.num_pairs,
            num_bootstrap=config.num_bootstrap,
            seed=config.seed,
        )
    return Finished(
        outcomes=outcomes,
        metric="equal error rate",
        better="lower",
        chance=0.5,
        sizes=(len(train.ids), len(test.ids)),
        unit="utterances",
        num_classes=len(set(test.labels)),
        interval_over=f"values of {config.label}",
    )


def _note_shared_recordings(job: Job, test: Part) -> None:
    """Pairs cut from one recording share its room and microphone: say so."""
    files = dict(zip(strings(job.manifests[1], "id"), strings(job.manifests[1], "audio_filepath"), strict=True))
    trials = draw_trials(test.labels, num_pairs=job.config.num_pairs, seed=job.config.seed)
    path = np.array([files[name] for name in test.ids])
    shared = float((path[trials.first] == path[trials.second])[trials.same].mean())
    if shared > 0:
        job.notes.append(
            f"{100 * shared:.0f} % of the pairs of one speaker are cut from one recording, so room and microphone help"
        )
