"""`speechssl align`: when every word and character of a known text was said."""

from speechssl.cli.options import stage_config
from speechssl.cli.output import log_to_stderr, progress_bar, say

EXAMPLE = (
    "speechssl align runs/asr talk.flac talk.txt --format textgrid --output talk.TextGrid\n"
    'speechssl align runs/asr clip.wav "seven zero nine"\n'
    "speechssl align runs/asr recordings.jsonl --output aligned.jsonl"
)


def align_command(words: list[str]) -> int:
    """Forced alignment of a recording and its text, or of a manifest."""
    from speechssl.align import AlignConfig, render, run
    from speechssl.text import describe_characters

    log_to_stderr()
    config = stage_config(
        "align",
        AlignConfig,
        words,
        example=EXAMPLE,
        summary="Times and confidences of every word and character of a known text, in recordings of any length.",
        positionals=("checkpoint", "audio", "text"),
    )
    if config is None:
        return 0
    with progress_bar("aligning") as progress:
        result = run(config, progress=progress)
    if result.alignment is not None and config.output is None:
        print(render(result.alignment, format=config.format, name=config.audio.stem, path=str(config.audio)), end="")
    if result.written is not None:
        say(f"{result.num_aligned} aligned: {result.written}")
    if config.output is not None and result.unknown:
        say(f"left out, since the vocabulary lacks them: {describe_characters(result.unknown)}")
    if config.output is not None and result.num_unaligned:
        say(f"{result.num_unaligned} words have no labels; they stand between their neighbours, without a confidence")
    if result.failed:
        say(f"{len(result.failed)} could not be aligned; the first is")
        name, reason = next(iter(result.failed.items()))
        say(f"  {name}: {reason}")
        return 1 if result.num_aligned else 2
    return 0
