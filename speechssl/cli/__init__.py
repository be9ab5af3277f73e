"""The `speechssl` command: choose, parse, call, print, exit code.

Exit codes: 0 done, 1 the data or the run failed, 2 the input is wrong; 130 and 143 after Ctrl-C and SIGTERM. Each
command's module is imported only when that command is called, so that `speechssl --help` is quick; and not for its
`--help` either, which is stored (`speechssl.cli.help`).
"""

import difflib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

from speechssl import __version__
from speechssl.cli.help import stored_help
from speechssl.errors import ConfigError, SpeechSSLError

__all__ = ["main"]


@dataclass(frozen=True)
class Command:
    """`home` is `module:function`; the function takes the remaining words and returns the exit code."""

    home: str
    summary: str


COMMANDS = {
    "quickstart": Command("speechssl.cli.stages:quickstart", "the whole pipeline on real speech, ends with a report"),
    "manifest": Command("speechssl.cli.manifests:manifest", "build, check, describe, split and convert lists of audio"),
    "pretrain": Command("speechssl.cli.stages:pretrain", "train an encoder on unlabelled audio"),
    "plan": Command("speechssl.cli.plan:plan", "parameters, memory, largest batch and hours of a training to come"),
    "finetune": Command("speechssl.cli.stages:finetune", "train a speech recogniser on transcribed audio"),
    "evaluate": Command("speechssl.cli.stages:evaluate", "word and character error rates of a recogniser"),
    "compare": Command("speechssl.cli.compare:compare", "evaluations of one test set, with tests of significance"),
    "transcribe": Command("speechssl.cli.transcribe:transcribe_command", "write down what is said in recordings"),
    "align": Command("speechssl.cli.align:align_command", "when every word of a known text was said"),
    "calibrate": Command("speechssl.cli.calibrate:calibrate_command", "confidences of words that mean what they say"),
    "lm": Command("speechssl.cli.lm:lm", "n-gram language models from texts, for the beam search"),
    "embed": Command("speechssl.cli.embed:embed", "embeddings of a manifest as a table that grows with it"),
    "probe": Command("speechssl.cli.probe:probe", "what a frozen encoder knows, layer by layer, beside baselines"),
    "search": Command("speechssl.cli.search:search", "find by example: where something is said, what is alike"),
    "units": Command("speechssl.cli.units:units", "discrete units by k-means, and recordings as text of units"),
    "map": Command("speechssl.cli.map:embedding_map", "a picture of embeddings to point at and listen to"),
    "label-efficiency": Command(
        "speechssl.cli.label_efficiency:label_efficiency", "error rate against hours of labels, scratch and pre-trained"
    ),
    "report": Command("speechssl.cli.stages:report", "one HTML page about a run"),
    "export": Command("speechssl.cli.interop:export_command", "write a model for another tool, checked there first"),
    "import": Command("speechssl.cli.interop:import_command", "make a model directory of another tool's model"),
    "info": Command("speechssl.cli.info:info", "versions and hardware, or what a model or manifest is"),
}

USAGE = """usage: speechssl COMMAND [...]    speechssl COMMAND --help

Self-supervised speech encoders: from a folder of recordings to word error rates and embeddings.

{commands}

options:
  -h, --help     this text; after a command, that command's
  --version      the version
  --debug        anywhere: show where in the program an error came from

example:
  speechssl manifest build recordings/ --output recordings.jsonl
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; the console script's entry point."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        code = _run(words)
        sys.stdout.flush()
        return code
    except SpeechSSLError as error:
        if debug:
            raise
        _complain(str(error))
        return error.exit_code
    except BrokenPipeError:
        # The reader (`| head`) has seen enough. Python flushes standard output once more at exit: let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        if debug:
            raise
        _complain("stopped by Ctrl-C; the same command goes on from the last checkpoint")
        return 130
    except OSError as error:
        if debug or error.strerror is None:
            raise
        where = f"{error.filename}: " if error.filename is not None else ""
        _complain(f"{where}{error.strerror}")
        return 2


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        width = max(len(name) for name in COMMANDS)  # `map` is a module of this package once it was called
        lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
        print(USAGE.format(commands="commands:\n" + "\n".join(lines)), end="")
        return 0
    if words[0] in ("--version", "-V"):
        print(f"speechssl {__version__}")
        return 0
    if words[0] not in COMMANDS:
        near = difflib.get_close_matches(words[0], COMMANDS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"the commands are {', '.join(COMMANDS)}"
        raise ConfigError(f"there is no command '{words[0]}'; {hint}")
    help_text = stored_help(words)
    if help_text is not None:
        print(help_text, end="")
        return 0
    module, function = COMMANDS[words[0]].home.split(":")
    code: int = getattr(import_module(module), function)(words[1:])
    return code


def _complain(message: str) -> None:
    """One line on standard error; a progress display may have left the cursor in the middle of a line."""
    sys.stdout.flush()
    print(f"speechssl: {message}", file=sys.stderr)
