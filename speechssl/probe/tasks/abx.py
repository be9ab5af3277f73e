"""The task `abx`: is a third recording nearer to the one of its own kind?"""

import numpy as np
from numpy.typing import NDArray

from speechssl.alignments import read_ctm
from speechssl.errors import AudioError
from speechssl.probe import abx
from speechssl.probe.parts import strings
from speechssl.probe.results import ratio_outcome
from speechssl.probe.sources import layer_names
from speechssl.probe.tasks.job import Finished, Job, Sources
from speechssl.progress import Tell


def discriminate(job: Job, sources: Sources, tell: Tell) -> Finished:
    """Errors among triples of each part's recordings or aligned spans."""
    config = job.config
    alignments = None if config.alignment is None else read_ctm(config.alignment)
    items, triples = [], []
    for number, which in enumerate(("training", "test")):
        part = job.parts[number]
        contexts = None
        if config.across is not None:
            column = dict(
                zip(strings(job.manifests[number], "id"), strings(job.manifests[number], config.across), strict=True)
            )
            contexts = np.array([column[name] for name in part.ids], dtype=np.str_)
        items.append(
            abx.Items(ids=part.ids, kinds=part.labels, contexts=contexts, spans=[None] * len(part.ids))
            if alignments is None
            else abx.aligned_items(part.ids, contexts, alignments)
        )
        triples.append(abx.draw_triples(items[-1], config.num_triples, seed=config.seed, part=which))
    errors: dict[str, list[list[NDArray[np.float64]]]] = {}
    usable = [np.ones(len(one.x), dtype=bool) for one in triples]
    for name, every in sources.items():
        errors[name] = [[], []]
        for source in every:
            for number in (0, 1):
                tell(f"{name}: {len(triples[number].x)} triples")
                mine = triples[number]
                frames = abx.load_items(job.rows(number), source, items[number], mine.items, on_error=job.failed)
                here = np.array([{a, b, x} <= frames.keys() for a, b, x in zip(mine.a, mine.b, mine.x, strict=True)])
                if not here.any():
                    reason = next(iter(job.failures.values()), "no recording gives a frame")
                    raise AudioError(f"no triple is left; the first recording that cannot be used: {reason}")
                usable[number] &= here
                counted = np.full((max(1, len(source.layers)), len(here)), np.nan)
                kept = abx.Triples(a=mine.a[here], b=mine.b[here], x=mine.x[here])
                counted[:, here] = abx.triple_errors(kept, frames)
                errors[name][number].append(counted)
    outcomes = {}
    for name, (train, test) in errors.items():
        seeds = range(config.num_seeds)
        inside = [train[n % len(train)][:, usable[0]].mean(axis=1) for n in seeds]
        outcomes[name] = ratio_outcome(
            np.stack([test[n % len(test)][:, usable[1]] for n in seeds]),
            np.ones(int(usable[1].sum())),
            [int(rates.argmin()) for rates in inside],
            triples[1].x[usable[1]],
            layers=layer_names(sources[name][0]),
            dimension=sources[name][0].dimension,
            num_bootstrap=config.num_bootstrap,
            seed=config.seed,
        )
    return Finished(
        outcomes=outcomes,
        metric="ABX error" + (f" across {config.across}" if config.across else ""),
        better="lower",
        chance=0.5,
        sizes=(int(usable[0].sum()), int(usable[1].sum())),
        unit="triples",
        num_classes=len(np.unique(items[1].kinds)),
        interval_over="third recordings",
    )
