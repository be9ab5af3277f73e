"""`speechssl manifest validate`."""

import json
from dataclasses import dataclass
from pathlib import Path

from speechssl.cli.manifests.registry import parse
from speechssl.cli.output import progress_bar, say
from speechssl.errors import ConfigError
from speechssl.manifest import validate_manifest


@dataclass(frozen=True, kw_only=True)
class ValidateOptions:
    """Options of `speechssl manifest validate`.

    Attributes:
        manifest: the manifest to check.
        audio: decode every recording too, not only its header.
        quarantine: write the rows that have problems here, each with its reasons.
        output: write the rows that have none here.
        json: print the result as JSON.
        limit: problems to print; the quarantine and JSON hold all of them.
    """

    manifest: Path
    audio: bool = False
    quarantine: Path | None = None
    output: Path | None = None
    json: bool = False
    limit: int = 50

    def __post_init__(self) -> None:
        if (self.quarantine is None) != (self.output is None):
            raise ConfigError("--quarantine and --output go together: the bad rows and the clean ones")


def run(words: list[str]) -> int:
    """Parse, call, print."""
    options: ValidateOptions | None = parse("validate", ValidateOptions, words, ("manifest",))
    if options is None:
        return 0
    with progress_bar("checking") as progress:
        report = validate_manifest(options.manifest, audio=options.audio, progress=progress)
    if options.quarantine is not None and options.output is not None:
        report.write_quarantine(options.output, options.quarantine)
    if options.json:
        say(json.dumps(report.to_dict(), indent=2, ensure_ascii=False))
        return 1 if report.problems else 0
    for problem in report.problems[: options.limit]:
        where = f"{options.manifest}:{problem.line}: " if problem.line else f"{options.manifest}: "
        say(f"{where}{problem.id + ': ' if problem.id else ''}{problem.message} [{problem.kind}]")
    if len(report.problems) > options.limit:
        say(f"... and {len(report.problems) - options.limit} more; --json or --quarantine give all of them")
    say(f"{report.num_rows} rows, {report.num_bad} with problems, {len(report.problems)} problems")
    if options.quarantine is not None:
        say(f"clean rows: {options.output}, the others with their reasons: {options.quarantine}")
    return 1 if report.problems else 0
