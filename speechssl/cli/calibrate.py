"""`speechssl calibrate`: confidences of words that mean what they say."""

from speechssl.cli.options import stage_config
from speechssl.cli.output import log_to_stderr, percent, progress_bar, say, table


def calibrate_command(words: list[str]) -> int:
    """Fit and store the map from raw scores to confidences."""
    from speechssl.calibrate import CalibrateConfig, run

    log_to_stderr()
    config = stage_config(
        "calibrate",
        CalibrateConfig,
        words,
        example="speechssl calibrate runs/asr dev.jsonl\n"
        "speechssl calibrate runs/asr dev.jsonl --test_manifest test.jsonl --method isotonic",
        summary="Fit confidences of words on a development manifest and store them beside the model; transcribe"
        " then writes them.",
        positionals=("checkpoint", "manifest"),
    )
    if config is None:
        return 0
    with progress_bar("recognising") as progress:
        result = run(config, progress=progress)
    rows = []
    for name, found in (("before", result.before), ("after", result.after)):
        for entry in found.bins:
            span = f"{entry.low:.1f} to {entry.high:.1f}"
            rows.append((name, span, entry.num_words, percent(entry.mean_confidence), percent(entry.accuracy)))
            name = ""
    on = config.test_manifest or f"{config.manifest}, in parts"
    table(
        f"{result.num_words} words, {result.num_correct} right ({on})",
        ("", "confidence", "words", "mean confidence", "right"),
        rows,
    )
    say(f"expected calibration error: {percent(result.before.ece, 2)} before, {percent(result.after.ece, 2)} after")
    if result.failed:
        say(f"{len(result.failed)} recordings could not be used; the first is")
        say(f"  {next(iter(result.failed.values()))}")
    say(f"written: {result.path}")
    return 1 if result.failed else 0
