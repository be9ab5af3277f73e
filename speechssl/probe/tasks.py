"""The stage for every task but classification: the same representations, parts and seeds, another question."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from speechssl.alignments import read_ctm
from speechssl.encoder import SpeechEncoder
from speechssl.errors import AudioError, ConfigError
from speechssl.frames import CONTEXT, FrameSource, Layer, check_layer
from speechssl.manifest import Manifest
from speechssl.probe import abx, aligned, ctc_head
from speechssl.probe.classify import Labels, best_choice
from speechssl.probe.features import BASELINES, encoder_vectors, feature_vectors
from speechssl.probe.parts import Part, check_parts, draw_training, labelled_part, split, strings
from speechssl.probe.results import Outcome, TaskResult, differences, ratio_outcome, score_of
from speechssl.probe.settings import ProbeConfig
from speechssl.probe.stage import check_names, open_representations, write_result
from speechssl.probe.verify import draw_trials, verify
from speechssl.scoring import error_rates
from speechssl.text import Vocabulary, normalize
from speechssl.types import Utterance

Progress = Callable[[str], None]


@dataclass
class _Job:
    """What all tasks need: both parts with their manifests, and where failures and remarks go."""

    config: ProbeConfig
    manifests: tuple[Manifest, Manifest]
    parts: tuple[Part, Part]
    failures: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def failed(self, utterance: Utterance, error: AudioError) -> None:
        """Remember a recording that cannot be used."""
        self.failures.setdefault(utterance.id, str(error))

    def left(self, part: int) -> Part:
        """A part without what failed."""
        return self.parts[part].without(list(self.failures))

    def rows(self, part: int, ids: Sequence[str] | Labels | None = None) -> Manifest:
        """The recordings of a part, or some of them."""
        wanted = self.parts[part].ids if ids is None else np.asarray(ids)
        return self.manifests[part].filter(np.isin(strings(self.manifests[part], "id"), wanted))


@dataclass(frozen=True, kw_only=True)
class _Finished:
    """What a task adds to the outcomes."""

    outcomes: Mapping[str, Outcome]
    metric: str
    better: Literal["higher", "lower"]
    chance: float | None
    sizes: tuple[int, int]
    unit: str
    num_classes: int | None
    interval_over: str


def run_task(config: ProbeConfig, *, progress: Progress | None = None) -> TaskResult:
    """Probe as configured, for `verify`, `frames`, `ctc` or `abx`; writes `output/probe.json` where one is named.

    Raises:
        ConfigError: a setting, or a column that it names, does not fit the manifest.
        ManifestError, CheckpointError: an input cannot be read.
        AudioError: too few recordings can be used.
    """
    manifest = Manifest.load(config.manifest)
    baselines, encoders = open_representations(config)
    if config.test_manifest is not None:
        parts = (manifest, Manifest.load(config.test_manifest))
    else:
        parts = split(manifest, config)
    result = probe_task(*parts, encoders, config=config, baselines=baselines, progress=progress)
    if config.output is not None:
        write_result(config.output, result.to_dict())
    return result


def probe_task(
    train: Manifest,
    test: Manifest,
    encoders: Mapping[str, SpeechEncoder],
    *,
    config: ProbeConfig,
    baselines: Sequence[str] = BASELINES,
    progress: Progress | None = None,
) -> TaskResult:
    """Probe baselines and encoders on a training and a test part; arguments and errors as `probe.probe`."""
    tell = progress or (lambda line: None)
    check_names(baselines, encoders)
    both = (labelled_part(train, config), labelled_part(test, config))
    check_parts(*both, config)
    job = _Job(config=config, manifests=(train, test), parts=both)
    sources = {name: _sources(name, encoders, config) for name in [*baselines, *encoders]}
    task = {"verify": _verify, "frames": _frames, "ctc": _ctc, "abx": _abx}[config.task]
    done = task(job, sources, tell)
    return TaskResult(
        task=config.task,
        metric=done.metric,
        better=done.better,
        label=config.alignment.name if config.alignment is not None else config.label,
        chance=done.chance,
        scores=tuple(
            score_of(name, outcome, confidence=config.confidence, layerwise=config.layerwise)
            for name, outcome in done.outcomes.items()
        ),
        differences=tuple(differences(done.outcomes, baselines, config.confidence)),
        num_train=done.sizes[0],
        num_test=done.sizes[1],
        unit=done.unit,
        num_classes=done.num_classes,
        num_seeds=config.num_seeds,
        confidence=config.confidence,
        interval_over=done.interval_over,
        notes=tuple(job.notes),
        skipped=tuple(job.failures.items()),
        unlabelled=len(train) + len(test) - sum(len(part.ids) for part in both),
    )


def _sources(name: str, encoders: Mapping[str, SpeechEncoder], config: ProbeConfig) -> list[FrameSource]:
    """One source, or for the random encoder one for every seed."""
    if name in ("log_mel", "mfcc"):
        return [FrameSource(name=name, batch_seconds=config.batch_seconds)]
    found = [encoders[name]] if name in encoders else []
    if name == "random":
        like = next(iter(encoders.values()))
        seeds = [config.seed + number for number in range(config.num_seeds)]
        found = [SpeechEncoder(like.config, seed=seed).to(like.device).eval() for seed in seeds]
    layers: list[Layer] = [*range(found[0].config.num_layers + 1), CONTEXT]
    if config.layer is not None:
        layers = [check_layer(config.layer, found[0], name)]
    return [
        FrameSource(name=name, encoder=encoder, layers=tuple(layers), batch_seconds=config.batch_seconds)
        for encoder in found
    ]


def _names(source: FrameSource) -> tuple[str, ...]:
    return tuple(map(str, source.layers))


def _verify(job: _Job, sources: Mapping[str, Sequence[FrameSource]], tell: Progress) -> _Finished:
    config = job.config
    vectors: dict[str, list[Mapping[str, NDArray[np.float32]]]] = {}
    for name, every in sources.items():
        tell(f"{name}: vectors of {sum(len(part.ids) for part in job.parts)} utterances")
        vectors[name] = [_pooled(source, job) for source in every]
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
            layers=_names(sources[name][0]),
            num_seeds=config.num_seeds,
            num_pairs=config.num_pairs,
            num_bootstrap=config.num_bootstrap,
            seed=config.seed,
        )
    return _Finished(
        outcomes=outcomes,
        metric="equal error rate",
        better="lower",
        chance=0.5,
        sizes=(len(train.ids), len(test.ids)),
        unit="utterances",
        num_classes=len(set(test.labels)),
        interval_over=f"values of {config.label}",
    )


def _pooled(source: FrameSource, job: _Job) -> Mapping[str, NDArray[np.float32]]:
    """Utterance vectors `[L, D]` of both parts; those without go to the failures."""
    found: dict[str, NDArray[np.float32]] = {}
    for part in (0, 1):
        if source.encoder is None:
            name: Any = source.name
            found |= feature_vectors(job.rows(part), name, pool=job.config.pool, on_error=job.failed)
        else:
            found |= encoder_vectors(
                job.rows(part),
                source.encoder,
                layers=source.layers,
                pool=job.config.pool,
                on_error=job.failed,
                batch_seconds=job.config.batch_seconds,
            )
    for name, values in found.items():
        if not np.isfinite(values).all():
            job.failures.setdefault(name, f"{name}: its vectors are not finite; listen to the recording")
    return found


def _note_shared_recordings(job: _Job, test: Part) -> None:
    """Pairs cut from one recording share its room and microphone: say so."""
    files = dict(zip(strings(job.manifests[1], "id"), strings(job.manifests[1], "audio_filepath"), strict=True))
    trials = draw_trials(test.labels, num_pairs=job.config.num_pairs, seed=job.config.seed)
    path = np.array([files[name] for name in test.ids])
    shared = float((path[trials.first] == path[trials.second])[trials.same].mean())
    if shared > 0:
        job.notes.append(
            f"{100 * shared:.0f} % of the pairs of one speaker are cut from one recording, so room and microphone help"
        )


def _frames(job: _Job, sources: Mapping[str, Sequence[FrameSource]], tell: Progress) -> _Finished:
    config = job.config
    assert config.alignment is not None, "checked by the configuration"
    alignments = read_ctm(config.alignment)
    held = [sum(str(name) in alignments for name in part.ids) for part in job.parts]
    if not all(held):
        raise ConfigError(
            f"{config.alignment}: holds {held[0]} utterances of the training part and {held[1]} of the test part;"
            " both need some, under the manifest's ids"
        )
    job.notes.append(f"{sum(len(part.ids) for part in job.parts) - sum(held)} utterances are not in the alignment")
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
            layers=_names(sources[name][0]),
            dimension=sources[name][0].dimension,
            num_bootstrap=config.num_bootstrap,
            seed=config.seed,
            extra={"strengths": strengths},
        )
    names, counts = np.unique(first.labels, return_counts=True)
    return _Finished(
        outcomes=outcomes,
        metric="frame accuracy",
        better="higher",
        chance=float((last.labels == names[counts.argmax()]).mean()),
        sizes=(int(first.draws[0].sum()), len(last.labels)),
        unit="frames",
        num_classes=len(names),
        interval_over="test utterances",
    )


def _ctc(job: _Job, sources: Mapping[str, Sequence[FrameSource]], tell: Progress) -> _Finished:
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
        extras[name] = {**extra, "weighted_layers": list(_names(every[0]))}
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
    return _Finished(
        outcomes=outcomes,
        metric="character error rate",
        better="lower",
        chance=None,
        sizes=(len(draws[0].without(list(job.failures)).ids), len(test.ids)),
        unit="utterances",
        num_classes=len(vocabulary) - 1,
        interval_over="test utterances" if config.group is None else f"values of {config.group}",
    )


def _abx(job: _Job, sources: Mapping[str, Sequence[FrameSource]], tell: Progress) -> _Finished:
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
            layers=_names(sources[name][0]),
            dimension=sources[name][0].dimension,
            num_bootstrap=config.num_bootstrap,
            seed=config.seed,
        )
    return _Finished(
        outcomes=outcomes,
        metric="ABX error" + (f" across {config.across}" if config.across else ""),
        better="lower",
        chance=0.5,
        sizes=(int(usable[0].sum()), int(usable[1].sum())),
        unit="triples",
        num_classes=len(np.unique(items[1].kinds)),
        interval_over="third recordings",
    )
