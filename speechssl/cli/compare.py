"""`speechssl compare`: evaluations of one test set, side by side."""

from speechssl.cli.options import stage_config
from speechssl.cli.output import Cell, log_to_stderr, percent, percent_interval, say, table

EXAMPLE = (
    "speechssl compare runs/scratch/test runs/pretrained/test --output runs/compared\n"
    "speechssl compare greedy/ beam/ other_tool/ --names greedy beam other --breakdown speaker num_words"
)
PAGE = "comparison.html"


def compare(words: list[str]) -> int:
    """Who is better, by how much, and is that more than chance?"""
    from speechssl.compare import CompareConfig, run

    log_to_stderr()
    config = stage_config(
        "compare",
        CompareConfig,
        words,
        example=EXAMPLE,
        summary="Compare evaluations of the same utterances by paired bootstrap and the matched-pairs test. Writes"
        f" tables and {PAGE} with --output.",
        positionals=("evaluations",),
    )
    if config is None:
        return 0
    result = run(config)
    first = next(iter(result.reports.values()))
    rows: list[tuple[Cell, ...]] = [
        (name, percent(one.wer, 2), percent_interval(one.wer_interval), percent(one.cer, 2),
         percent_interval(one.cer_interval), one.substitutions, one.deletions, one.insertions)
        for name, one in result.reports.items()
    ]  # fmt: skip
    title = f"{len(first.utterances)} utterances, normaliser {first.normalizer} ({first.normalizer_version})"
    table(title, ("system", "WER", "", "CER", "", "sub", "del", "ins"), rows)
    pairs: list[tuple[Cell, ...]] = [
        (f"{pair.b} - {pair.a}", f"{100 * pair.difference.wer_difference:+.2f}",
         percent_interval(pair.difference.wer_interval), percent(pair.difference.probability_of_improvement),
         pair.test.num_segments, f"{pair.p_adjusted:.2g}", pair.reading)
        for pair in result.pairs
    ]  # fmt: skip
    headers = ("pair", "points", f"{100 * config.confidence:g} % interval", "better by chance of", "segments", "p", "")
    table(f"differences, bootstrap over {first.interval_over}; p of matched pairs after Holm", headers, pairs)
    if config.output is not None:
        from speechssl.report.comparison import write_comparison_page

        page = write_comparison_page(
            config.output / PAGE, result.reports, result.pairs, breakdowns=result.breakdowns
        )  # fmt: skip
        say(f"written: {page}, comparison.json, pairs.csv, utterances.csv")
    return 0
