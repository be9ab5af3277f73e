"""The quickstart corpus: voice prompts of the Asterisk telephone exchange in five languages.

After `fetch` a folder holds, per language, `audio/**.g722` (16 kHz), `texts.txt` as published, `copyright` and
`source.json` (where it came from, what was counted). A clip's name is the prompt's: `en/audio/digits/1.g722`.
"""

import fnmatch
import gzip
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from speechssl.errors import ManifestError
from speechssl.manifest.build import Recording
from speechssl.manifest.corpora import download
from speechssl.manifest.corpora.card import CorpusCard, load_card
from speechssl.manifest.corpora.found import Found, find_files
from speechssl.manifest.transcripts import decode_lines, read_lines
from speechssl.progress import Progress

log = logging.getLogger(__name__)

Source = Literal["auto", "debian", "upstream"]

_SECONDS_PER_BYTE = 2 / 16000  # G.722 at 64 kbit/s: two samples a byte
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_MAX_CHARACTERS_PER_SECOND = 35  # faster than anyone speaks: the published text is not this clip's
_NEXT_PROMPT = re.compile(r"\s+(?=[a-z]+(?:-[a-z0-9]+)+: )")  # two prompts in one line
_ASIDE = re.compile(r"\[[^\]]*\]|\([^)]*\)|<[^>]*>")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a language's folder holds; `tree_sha256` hashes the sorted hashes of the files, one a line."""

    files: int
    seconds: float
    tree_sha256: str


def fetch(
    cache_dir: str | os.PathLike[str] | None = None,
    *,
    card: CorpusCard | None = None,
    source: Source = "auto",
    progress: Progress | None = None,
) -> Path:
    """Bring the corpus into the cache and verify it against its card; what is there and whole is kept.

    Comes from Debian's packages where `apt-get` is at hand (no root needed), else from the upstream project's
    archives. Prints nothing; `card.licence_notice()` is for whoever prints.

    Args:
        cache_dir: Where to keep it; the user's cache folder when None.
        card: The card; `voice-prompts` when None.
        source: Where to take it from; "auto" tries Debian first.
        progress: Called with (languages done, languages altogether).

    Returns:
        The corpus folder, to hand to `prepare_corpus`.

    Raises:
        ManifestError: it cannot be had from either source, or what came is damaged.
    """
    card = card or load_card("voice-prompts")
    root = (Path(cache_dir) if cache_dir is not None else download.default_cache()) / card.name
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ManifestError(f"{root}: cannot be made ({error.strerror}); name another cache folder") from None
    for done, language in enumerate(card.languages):
        if progress is not None:
            progress(done, len(card.languages))
        if not _is_complete(card, language, root / language):
            _fetch_language(card, language, root, source)
    shutil.rmtree(root / "downloads", ignore_errors=True)
    if progress is not None:
        progress(len(card.languages), len(card.languages))
    return root


def find(card: CorpusCard, root: Path, splits: Sequence[str]) -> Found:
    """The clips of a fetched corpus.

    Tones, silences and other clips without speech are left out. `text` is what is spoken, in the publisher's words
    without asides in brackets, English digits spelled; where that is not certain (an aside within the sentence,
    numbers) it is null. `published_text` is the line as published.
    """
    found = Found(root=root)
    for language in card.languages:
        folder = root / language
        if not folder.is_dir():
            found.note(f"the language {language} is not there")
            continue
        for warning in _read_source(folder).get("warnings", []):
            found.note(warning)
        counts = _add_clips(found, card, language)
        if counts:
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
            found.note(f"{language}: {sum(counts.values())} clips have no text: {reasons}")
    if not found.recordings:
        raise ManifestError(
            f"{root}: holds no voice prompts (looked for the folders {', '.join(card.languages)}); leave --root away to"
            " fetch them"
        )
    return found


def spoken_text(published: str, language: str) -> tuple[str | None, str | None]:
    """What is spoken in a prompt, or None and why it is not known."""
    text = published.strip()
    while True:  # asides before and after the words are notes to the reader
        shorter = re.sub(rf"\s*(?:{_ASIDE.pattern})\s*$", "", text)
        shorter = re.sub(r"^(?:\[[^\w\]]*\])\s*", "", shorter)
        if shorter == text:
            break
        text = shorter
    if not text:
        return None, "not speech"
    if re.search(r"[\[\]()<>]", text):
        return None, "with an aside in the text"
    if language == "en":
        text = re.sub(r"(?<![\w.])(\d)(?![\w]|\.\d)", lambda match: _DIGITS[int(match[1])], text)
    if re.search(r"\d", text):
        return None, "with numbers in figures"
    return " ".join(text.split()), None


def read_texts(path: Path) -> dict[str, str]:
    """Published texts by prompt name: lines `name: text`, comments start with `;`. The first of two lines counts."""
    texts: dict[str, str] = {}
    for line in read_lines(path):
        if line.lstrip().startswith(";"):
            continue
        for entry in _NEXT_PROMPT.split(line):
            name, colon, text = entry.partition(":")
            if colon and text.strip():
                texts.setdefault(name.strip(), text.strip())
    return texts


def measure(folder: Path) -> Measured:
    """Count and hash the recordings below a folder."""
    hashes = []
    num_bytes = 0
    for name in find_files(folder):
        content = (folder / name).read_bytes()
        num_bytes += len(content)
        hashes.append(hashlib.sha256(content).hexdigest())
    return Measured(
        files=len(hashes),
        seconds=num_bytes * _SECONDS_PER_BYTE,
        tree_sha256=hashlib.sha256("\n".join(sorted(hashes)).encode()).hexdigest(),
    )


def verify(card: CorpusCard, language: str, folder: Path, *, version: str, origin: str) -> list[str]:
    """Compare a language's recordings with the card.

    Returns:
        Warnings: another version than the card's, or upstream's archive where the card was made from the packages.

    Raises:
        ManifestError: the card's own version, but other contents: damaged.
    """
    expected = card.details["parts"][language]
    found = measure(folder / "audio")
    differences = []
    if found.files != expected["files"]:
        differences.append(f"{found.files} files instead of {expected['files']}")
    if abs(found.seconds - expected["seconds"]) > 0.01:
        differences.append(f"{found.seconds:.1f} s of audio instead of {expected['seconds']:.1f} s")
    if found.tree_sha256 != expected["tree_sha256"]:
        differences.append(f"hash {found.tree_sha256[:12]} instead of {expected['tree_sha256'][:12]}")
    if not differences:
        return []
    what = f"{language} {version} from {origin}: {', '.join(differences)}"
    card_version = str(card.details["version"])
    same_version = version == card_version or version.startswith(card_version + "-")
    few = found.files < 0.9 * expected["files"] or found.seconds < 0.9 * expected["seconds"]
    if few or (same_version and (origin == "debian" or found.files != expected["files"])):
        raise ManifestError(
            f"{what}; the download is damaged or incomplete and was not kept, run the command again (the card is"
            f" {card.source})"
        )
    return [f"{what}; the card was made from Debian's {card_version}, so figures may differ a little"]


def _add_clips(found: Found, card: CorpusCard, language: str) -> Counter[str]:
    """Add a language's clips, leave out those without speech, and count why some have no text."""
    folder = found.root / language
    texts_path = folder / "texts.txt"
    texts = read_texts(texts_path) if texts_path.is_file() else {}
    folded = {name.casefold(): name for name in texts}
    told = set()
    counts: Counter[str] = Counter()
    for path in find_files(folder / "audio"):
        name = os.path.splitext(path)[0]
        listed = name if name in texts else folded.get(name.casefold(), "")  # some names differ in case alone
        told.add(listed)
        published = texts.get(listed)
        text, reason = spoken_text(published, language) if published else (None, "not in the published list")
        full_path = f"{language}/audio/{path}"
        if reason == "not speech" or any(fnmatch.fnmatch(name, form) for form in card.details["not_speech"]):
            found.leave_out(full_path, f"not speech (a tone, a silence or a noise): {published or name}")
            continue
        seconds = (folder / "audio" / path).stat().st_size * _SECONDS_PER_BYTE
        if text is not None and len(text) > 40 and len(text) > _MAX_CHARACTERS_PER_SECOND * seconds:
            text, reason = None, "longer than the clip can hold"
        if reason is not None:
            counts[reason] += 1
        found.recordings.append(
            Recording(
                path=full_path,
                id=f"{language}/{name}",
                text=text,
                speaker=card.details["parts"][language]["speaker"],
                language=language,
                extra={"prompt": name, "published_text": published},
            )
        )
    unspoken = [f"{language}/{name}" for name in texts.keys() - told if spoken_text(texts[name], language)[0]]
    found.leave_out_texts(language, unspoken)
    return counts


def _is_complete(card: CorpusCard, language: str, folder: Path) -> bool:
    """Whether a language is in the cache and still what was verified; a damaged one is removed."""
    source = _read_source(folder)
    if source:
        if measure(folder / "audio").tree_sha256 == source.get("tree_sha256"):
            return True
        log.warning("%s: changed since it was fetched; fetching it again", folder)
    shutil.rmtree(folder, ignore_errors=True)
    return False


def _read_source(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / "source.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _fetch_language(card: CorpusCard, language: str, root: Path, source: Source) -> None:
    """Fetch one language beside its place, verify it, and rename it into place."""
    downloads = root / "downloads"
    with tempfile.TemporaryDirectory(prefix=f".{language}-", dir=root) as temporary:
        staged = Path(temporary) / language
        use_debian = source == "debian" or (source == "auto" and download.has_apt())
        problem = None
        if use_debian:
            try:
                version = _stage_from_debian(card, language, downloads, staged)
                origin = "debian"
            except ManifestError as error:
                if source == "debian":
                    raise
                problem = error
                shutil.rmtree(staged, ignore_errors=True)
        if not use_debian or problem is not None:
            try:
                version = _stage_from_upstream(card, language, downloads, staged)
                origin = "upstream"
            except ManifestError as error:
                raise ManifestError(f"{problem}\n{error}" if problem else str(error)) from None
        try:
            warnings = verify(card, language, staged, version=version, origin=origin)
        except ManifestError:
            _remove_downloads(card, language, downloads)
            raise
        for warning in warnings:
            log.warning("%s: %s", card.name, warning)
        measured = measure(staged / "audio")
        facts = {"version": version, "origin": origin, "warnings": warnings, "tree_sha256": measured.tree_sha256}
        (staged / "source.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        os.replace(staged, root / language)
    _remove_downloads(card, language, downloads)


def _stage_from_debian(card: CorpusCard, language: str, downloads: Path, staged: Path) -> str:
    """Lay a language out from its two packages; returns the version."""
    audio_name = card.details["audio_package"].format(language=language)
    text_name = card.details["text_package"].format(language=language)
    packages = download.download_packages([audio_name, text_name], downloads)
    unpacked = staged.parent / "packages"
    for package in packages.values():
        download.unpack_package(package, unpacked)
    sounds = unpacked / "usr" / "share" / "asterisk" / "sounds"
    voices = [folder for folder in sorted(sounds.glob("*")) if folder.is_dir() and not folder.is_symlink()]
    if len(voices) != 1:
        raise ManifestError(f"{audio_name}: expected one folder of recordings, found {len(voices)}; use upstream's")
    staged.mkdir(parents=True)
    os.replace(voices[0], staged / "audio")
    documents = unpacked / "usr" / "share" / "doc"
    texts = documents / text_name / f"core-sounds-{language}.txt"
    _write_texts(texts, staged / "texts.txt")
    shutil.copyfile(documents / audio_name / "copyright", staged / "copyright")
    return download.package_version(packages[audio_name])


def _stage_from_upstream(card: CorpusCard, language: str, downloads: Path, staged: Path) -> str:
    """Lay a language out from the upstream project's archive; returns the version."""
    version = str(card.details["version"])
    url = card.details["archive"].format(language=language, version=version)
    archive = download.download_file(url, downloads / os.path.basename(url))
    texts_name = f"core-sounds-{language}.txt"
    papers = ("CREDITS", "LICENSE", "CHANGES")
    names = download.unpack_tar(
        archive,
        staged / "audio",
        wanted=lambda name: name.endswith((".g722", texts_name)) or os.path.basename(name).startswith(papers),
    )
    parts = []
    for name in names:
        path = staged / "audio" / name
        if name.endswith(texts_name):
            os.replace(path, staged / "texts.txt")
        elif not name.endswith(".g722"):
            parts.append(path.read_text(encoding="utf-8", errors="replace"))
            path.unlink()
    (staged / "copyright").write_text("\n".join(parts), encoding="utf-8")
    return version


def _write_texts(path: Path, target: Path) -> None:
    """Copy a list of texts, unpacked when it is a `.gz`, after checking that it is UTF-8."""
    compressed = path.with_name(path.name + ".gz")
    if compressed.is_file():
        content = gzip.decompress(compressed.read_bytes())
    elif path.is_file():
        content = path.read_bytes()
    else:
        raise ManifestError(f"{path.name}: the package holds no list of texts; use upstream's archive")
    decode_lines(content, path)
    target.write_bytes(content)


def _remove_downloads(card: CorpusCard, language: str, downloads: Path) -> None:
    """Drop a language's packages and archives: verified ones are laid out, damaged ones must be fetched anew."""
    names = [
        card.details["audio_package"].format(language=language) + "_*",
        card.details["text_package"].format(language=language) + "_*",
        os.path.basename(card.details["archive"].format(language=language, version=card.details["version"])) + "*",
    ]
    for form in names:
        for path in downloads.glob(form):
            path.unlink(missing_ok=True)
