"""The stage for every task but classification: the same representations, parts and seeds, another question."""

from collections.abc import Callable, Mapping, Sequence

from speechssl.encoder import SpeechEncoder
from speechssl.manifest import Manifest
from speechssl.probe.classify import differences
from speechssl.probe.features import BASELINES
from speechssl.probe.parts import check_parts, labelled_part, load_parts
from speechssl.probe.results import TaskResult, score_of, write_result
from speechssl.probe.settings import ProbeConfig
from speechssl.probe.sources import check_names, frame_sources, open_representations
from speechssl.probe.tasks.abx import discriminate
from speechssl.probe.tasks.ctc import recognise_texts
from speechssl.probe.tasks.frames import classify_frames
from speechssl.probe.tasks.job import Finished, Job, Sources
from speechssl.probe.tasks.verify import verify_speakers
from speechssl.progress import Tell

TASKS: dict[str, Callable[[Job, Sources, Tell], Finished]] = {
    "verify": verify_speakers,
    "frames": classify_frames,
    "ctc": recognise_texts,
    "abx": discriminate,
}


def run_task(config: ProbeConfig, *, progress: Tell | None = None) -> TaskResult:
    """Probe as configured, for `verify`, `frames`, `ctc` or `abx`; writes `output/probe.json` where one is named.

    Raises:
        ConfigError: a setting, or a column that it names, does not fit the manifest.
        ManifestError, CheckpointError: an input cannot be read.
        AudioError: too few recordings can be used.
    """
    parts = load_parts(config)
    baselines, encoders = open_representations(config)
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
    progress: Tell | None = None,
) -> TaskResult:
    """Probe baselines and encoders on a training and a test part; arguments and errors as `probe.probe`."""
    tell = progress or (lambda line: None)
    check_names(baselines, encoders)
    both = (labelled_part(train, config), labelled_part(test, config))
    check_parts(*both, config)
    job = Job(config=config, manifests=(train, test), parts=both)
    sources = {name: list(frame_sources(name, encoders, config)) for name in [*baselines, *encoders]}
    done = TASKS[config.task](job, sources, tell)
    values = {name: float(outcome.seed_values.mean()) for name, outcome in done.outcomes.items()}
    replicates = {name: outcome.chosen_replicates for name, outcome in done.outcomes.items()}
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
        differences=tuple(differences(values, replicates, baselines, config.confidence)),
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
