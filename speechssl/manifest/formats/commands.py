"""Shell commands that stand for a recording in Kaldi's `wav.scp` and in lhotse: which file do they decode?

Nothing is run. A command is understood when it hands on one file's samples as they are, whatever container, encoding
or sample rate comes out; anything that changes what is heard is refused.
"""

import shlex
from collections.abc import Mapping, Sequence

_PUNCTUATION = "|&;<>()"


class CommandError(Exception):
    """Why a command does not stand for a file."""


def file_of_command(command: str) -> str:
    """The file that a command decodes; `command` is without the final `|`.

    Raises:
        CommandError: the command is not understood, or does more than to decode.
    """
    try:
        lexer = shlex.shlex(command, posix=True, punctuation_chars=_PUNCTUATION)
        lexer.whitespace_split = True
        lexer.commenters = ""
        words = list(lexer)
    except ValueError as error:
        raise CommandError(f"cannot be taken apart ({error})") from None
    if not words:
        raise CommandError("is empty")
    if any(set(word) <= set(_PUNCTUATION) or set(word) & set("$`") for word in words):  # unquoted marks are own words
        raise CommandError("joins several commands or uses the shell")
    program = words[0].rsplit("/", 1)[-1]
    if program not in _PROGRAMS:
        raise CommandError(f"calls {program!r}; known are {', '.join(_PROGRAMS)}")
    return _PROGRAMS[program](words[1:])


def _cat(words: Sequence[str]) -> str:
    return _only_file(words, words)


def _flac(words: Sequence[str]) -> str:
    options = [word for word in words if word.startswith("-") and word != "-"]
    for option in options:
        known = option in ("--decode", "--stdout", "--silent", "--totally-silent")
        if not known and (option.startswith("--") or set(option[1:]) - set("cdsf")):
            raise CommandError(f"gives flac the option {option}")
    return _only_file([word for word in words if word not in options], words)


def _sph2pipe(words: Sequence[str]) -> str:
    formats: set[str] | None = {"wav", "rif", "riff", "au", "sph"}
    return _only_file(_without_options(words, takes_value={"-f": formats}, alone={"-p"}, name="sph2pipe"), words)


def _sox(words: Sequence[str]) -> str:
    """`sox [OPTIONS] FILE [OPTIONS] - [rate N]`."""
    formats: dict[str, set[str] | None] = {"-t": None, "-r": None, "-b": None, "-e": None, "-c": {"1"}}
    effects: list[str] = []
    rest = list(words)
    if "-" in rest:
        place = rest.index("-")
        rest, effects = rest[:place], rest[place + 1 :]
    if effects[:1] in (["rate"], ["-r"]):
        effects = [word for word in effects[1:] if word not in ("-q", "-l", "-m", "-h", "-v")][1:]
    if effects:
        raise CommandError(f"has sox change the sound: {' '.join(effects)}")
    alone = {"-q", "-G", "-D", "-R", "-V0", "-V1", "-V2", "-V3", "--no-dither"}
    return _only_file(_without_options(rest, takes_value=formats, alone=alone, name="sox"), words)


def _ffmpeg(words: Sequence[str]) -> str:
    values: dict[str, set[str] | None] = {
        "-i": None, "-f": {"wav", "WAV"}, "-ar": None, "-ac": {"1"}, "-acodec": None, "-c:a": None, "-codec:a": None,
        "-v": None, "-loglevel": None, "-threads": None, "-map_channel": {"0.0.0"}, "-sample_fmt": None,
    }  # fmt: skip
    alone = {"-nostdin", "-hide_banner", "-vn", "-y"}
    inputs = [words[place + 1] for place, word in enumerate(words[:-1]) if word == "-i"]
    outputs = _without_options(words, takes_value=values, alone=alone, name="ffmpeg")
    if [word for word in outputs if word not in ("-", "pipe:1", "pipe:")]:
        raise CommandError(f"has ffmpeg write {outputs[0]}")
    return _only_file(inputs, words)


def _without_options(
    words: Sequence[str], *, takes_value: Mapping[str, set[str] | None], alone: set[str], name: str
) -> list[str]:
    """The words that are no options nor their values; options outside of the given ones are refused."""
    rest = list(words)
    found = []
    while rest:
        word = rest.pop(0)
        if word in alone:
            continue
        if word in takes_value:
            value = rest.pop(0) if rest else ""
            allowed = takes_value[word]
            if allowed is not None and value not in allowed:
                raise CommandError(f"gives {name} the option {word} {value}")
            continue
        if word.startswith("-") and word != "-":
            raise CommandError(f"gives {name} the option {word}")
        found.append(word)
    return found


def _only_file(files: Sequence[str], words: Sequence[str]) -> str:
    if len(files) != 1 or files[0] in ("-", ""):
        raise CommandError(f"names {len(files) if '-' not in files else 'no'} files: {' '.join(words)}")
    return files[0]


_PROGRAMS = {"cat": _cat, "flac": _flac, "sph2pipe": _sph2pipe, "sox": _sox, "ffmpeg": _ffmpeg}


def decoding_command(path: str, *, sample_rate: int, mono: bool = False) -> str:
    """A command that writes a recording of any kind to its standard output as wav, as Kaldi wants it.

    The rate is given, since FFmpeg decodes Opus at 48 kHz whatever was recorded.
    """
    channels = " -ac 1" if mono else ""
    return f"ffmpeg -nostdin -v error -i {shlex.quote(path)}{channels} -ar {sample_rate} -f wav -"
