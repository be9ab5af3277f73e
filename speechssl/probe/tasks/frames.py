"""The task `frames`: the label of every frame of an alignment, by a linear classifier."""

import numpy as np

from speechssl.alignments import read_ctm
from speechssl.errors import AudioError, ConfigError
from speechssl.probe import aligned
from speechssl.probe.classify import best_choice
from speechssl.probe.results import ratio_outcome
from speechssl.probe.sources import layer_names
from speechssl.probe.tasks.job import Finished, Job, Sources
from speechssl.progress import Tell


def classify_frames(job: Job, sources: Sources, tell: Tell) -> Finished:
    """Frame accuracies; layer and strength are chosen inside the training part."""
    config = job.config
    assert config.alignment is not None, "checked by the configuration"
    alignments = read_ctm(config.alignment)
    held = [sum(str(name) in alignments for name in part.ids) for part in job.parts]
    if not all(held):
        raise ConfigError(
            f"{config.alignment}: holds {held[0]} utterances of the training part and {held[1]} of the test part;"
            " both need some, under the manifest's ids"
        )
    missing = sum(len(part.ids) for part in job.parts) - sum(held)
    if missing:
        job.notes.append(f"{missing} utterances are not in the alignment")
    seeds = range(config.num_seeds)
    numbers = [config.seed + number for number in seeds]
    moments = [
        aligned.draw_moments(job.parts[0].ids, alignments, max_frames=config.max_frames, seeds=numbers),
        aligned.draw_moments(job.parts[1].ids, alignments, max_frames=2 * config.max_frames, seeds=numbers[:1]),
    ]
    found: dict[str, list[list[aligned.LabelledFrames]]] = {}
    for name, every in sources.items():
        tell(f"{name}: frames")
        found[name] = [
            [aligned.gather(job.rows(part), source, moments[part], on_error=job.failed) for source in every]
            for part in (0, 1)
        ]
    usable = {
        name: [[one.select(~np.isin(one.owners, list(job.failures))) for one in gathered] for gathered in parts]
        for name, parts in found.items()
    }
    first, last = (part[0] for part in next(iter(usable.values())))
    if len(set(first.labels)) < 2 or not len(last.labels):
        reason = next(iter(job.failures.values()), "the alignment has fewer than two labels")
        raise AudioError(f"too few frames are left to classify: {reason}")
    outcomes = {}
    for name, (train, test) in usable.items():
        tell(f"{name}: classifiers")
        hits, chosen, strengths = [], [], []
        for number in seeds:
            mine, theirs = train[number % len(train)], test[number % len(test)]
            mine = mine.select(mine.draws[number])
            choices = aligned.choose_inside(mine, seed=config.seed + number)
            chosen.append(best_choice(choices).layer)
            strengths.append(choices[chosen[-1]].strength)
            hits.append(aligned.count_layers(mine, theirs, choices))
        outcomes[name] = ratio_outcome(
            np.stack(hits),
            np.ones(len(last.labels)),
            chosen,
            last.owners,
            layers=layer_names(sources[name][0]),
            dimension=sources[name][0].dimension,
            num_bootstrap=config.num_bootstrap,
            seed=config.seed,
            extra={"strengths": strengths},
        )
    names, counts = np.unique(first.labels, return_counts=True)
    return Finished(
        outcomes=outcomes,
        metric="frame accuracy",
        better="higher",
        chance=float((last.labels == names[counts.argmax()]).mean()),
        sizes=(int(first.draws[0].sum()), len(last.labels)),
        unit="frames",
        num_classes=len(names),
        interval_over="test utterances",
    )
