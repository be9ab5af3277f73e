"""`speechssl lm`: an n-gram language model from texts."""

from speechssl.cli.options import stage_config
from speechssl.cli.output import Cell, log_to_stderr, percent, progress_bar, say, table


def lm(words: list[str]) -> int:
    """An ARPA file, its perplexity and its unknown words."""
    from speechssl.language_model import LanguageModelConfig, report_path, run

    log_to_stderr()
    config = stage_config(
        "lm",
        LanguageModelConfig,
        words,
        example="speechssl lm books.txt train.jsonl --order 3 --output lm.arpa --heldout dev.jsonl"
        " --exclude dev.jsonl test.jsonl\n"
        "speechssl lm train.jsonl --order 6 --units characters --output characters.arpa",
        summary="Train an n-gram language model (modified Kneser-Ney, ARPA) for the beam search of evaluate and"
        " transcribe.",
        positionals=("text",),
    )
    if config is None:
        return 0
    with progress_bar("reading") as progress:
        result = run(config, progress=progress)
    rows: list[tuple[Cell, ...]] = [
        (f"{order}-grams", number, ", ".join(f"{value:.3g}" for value in discounts))
        for order, (number, discounts) in enumerate(zip(result.num_ngrams, result.discounts, strict=True), start=1)
    ]
    table(
        f"{result.output}: {result.num_words:,} {config.units}, learnt from {result.num_sentences:,} sentences of"
        f" {result.num_tokens:,} {config.units}",
        ("", "number", "discounts"),
        rows,
    )
    for reason, count in result.left_out.items():
        say(f"left out: {count} x {reason}")
    for name, score in (("training text", result.training), (str(config.heldout), result.heldout)):
        if score is not None:
            say(
                f"{name}: perplexity {score.perplexity:.2f} ({score.perplexity_known:.2f} without unknown"
                f" {config.units}), {score.num_unknown} of {score.num_words} {config.units} unknown"
                f" ({percent(score.unknown_rate, 2)})"
            )
    if result.overlap:
        say(f"{result.overlap} sentences of {config.heldout} are in the training text: its perplexity is too good")
    say(f"written: {result.output}, {report_path(result.output)}")
    return 0
