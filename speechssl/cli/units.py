"""`speechssl units`: discrete units of speech."""

from speechssl.cli.options import stage_config
from speechssl.cli.output import log_to_stderr, percent, progress_bar, say, table
from speechssl.units import ApplyConfig, UnitsConfig, UnitsResult, apply, run


def units(words: list[str]) -> int:
    """Make units, or with `apply` as the first word give units to other recordings."""
    log_to_stderr()
    return _apply(words[1:]) if words[:1] == ["apply"] else _make(words)


def _make(words: list[str]) -> int:
    config = stage_config(
        "units",
        UnitsConfig,
        words,
        example="speechssl units speechssl-tiny recordings.jsonl --output units/ --num_units 100 --layer 3\n"
        "speechssl units mfcc recordings.jsonl --output units-mfcc/ --num_seeds 3 --alignment phones.ctm\n"
        "speechssl units apply units/ others.jsonl --output others-units/",
        summary="Discrete units by k-means over frames, in bounded memory; goes on where it was stopped. `speechssl"
        " units apply UNITS MANIFEST --output DIR` writes other recordings in them.",
        positionals=("checkpoint", "manifest"),
    )
    if config is None:
        return 0
    with progress_bar("units") as bar:
        result = run(config, progress=lambda what, done, total: bar(done, total))
    return _show(result)


def _apply(words: list[str]) -> int:
    config = stage_config(
        "units apply",
        ApplyConfig,
        words,
        example="speechssl units apply units/ others.jsonl --output others-units/",
        summary="Write recordings in units that `speechssl units` made before.",
        positionals=("units", "manifest"),
    )
    if config is None:
        return 0
    with progress_bar("units") as bar:
        result = apply(config, progress=lambda what, done, total: bar(done, total))
    return _show(result)


def _show(result: UnitsResult) -> int:
    say(
        f"{result.num_utterances} utterances, {result.num_frames} frames: {result.used} of {result.num_units} units"
        f" used, perplexity {result.perplexity:.1f}, {result.runs_per_second:.1f} a second with repeats merged"
    )
    if result.scores is not None:
        names = {"purity": "purity", "cluster_purity": "cluster purity", "pnmi": "information / labels", "nmi": "NMI"}
        rows = [(words, percent(result.scores[name])) for name, words in names.items()]
        rows.append(("purity of one unit", percent(result.scores["chance_purity"])))
        title = f"against {result.scores['num_labels']:.0f} labels on {result.scores['num_frames']:,.0f} frames"
        table(title, ("measure", f"mean of {len(result.seed_scores)} seeds"), rows)
        if result.num_unlabelled_frames:
            say(f"{result.num_unlabelled_frames} frames have no label and are not scored")
    if result.stability is not None:
        say(
            f"between seeds: NMI {result.stability['nmi']:.3f}, {percent(result.stability['matched'])} of frames agree"
            " under the best renaming"
        )
    if result.skipped:
        say(f"{len(result.skipped)} recordings could not be used; the first is")
        say(f"  {result.skipped[0][0]}: {result.skipped[0][1]}")
    say(f"written: {result.directory}")
    return 1 if result.skipped else 0
