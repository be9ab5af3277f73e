"""VoxPopuli, as the publisher's scripts lay it out.

Transcribed: `transcribed_data/{lang}/asr_{split}.tsv` and `transcribed_data/{lang}/{year}/{id}.ogg`; where these cuts
were not made, the sessions in `raw_audios/original/{year}/{session}_original.ogg` with `asr_{lang}.tsv[.gz]`.
Unlabelled: `unlabelled_data/{lang}/{year}/*.ogg`; where these cuts were not made, the sessions in
`raw_audios/{lang}/{year}/{session}_{lang}.ogg` with `unlabelled_data/unlabelled_v2.tsv[.gz]`.
"""

import csv
import gzip
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from speechssl.errors import ManifestError
from speechssl.manifest.build import Recording
from speechssl.manifest.corpora.card import CorpusCard
from speechssl.manifest.corpora.found import Found, find_files, read_fields, some, stem
from speechssl.manifest.transcripts import decode_lines

_SPLITS = ("train", "dev", "test")
_UNLABELLED = "unlabelled"
_GENDERS = {"male": "M", "female": "F"}


def find(card: CorpusCard, root: Path, splits: Sequence[str]) -> Found:
    """What is there of the transcribed and of the unlabelled languages.

    Columns: split, subset, session, gender, raw_text. Stretches of sessions become spans of their files, nothing is
    cut or copied. `text` is the normalized one, `raw_text` the published. `subset` of unlabelled rows is the smallest
    of 10k, 100k and 400k that holds them: plenary sessions of 2019 and until July 2020, all plenary ones, everything.
    """
    found = Found(root=root)
    transcribed = sorted(path.name for path in (root / "transcribed_data").glob("*") if path.is_dir())
    transcribed += [lang for lang in card.languages if lang not in transcribed and _table(root, lang) is not None]
    for lang in transcribed if set(splits) & set(_SPLITS) else []:
        _add_transcribed(found, lang)
    raw = {path.name for path in (root / "raw_audios").glob("*") if path.is_dir()} - {"original"}
    cut = {path.name for path in (root / "unlabelled_data").glob("*") if path.is_dir()}
    for lang in sorted(raw | cut) if _UNLABELLED in splits else []:
        _add_unlabelled(found, lang)
    if not transcribed and not raw and not cut:
        raise ManifestError(
            f"{root}: holds none of transcribed_data, unlabelled_data and raw_audios with recordings; --root must be"
            " what the publisher's scripts were given as --root"
        )
    return found


def _table(root: Path, lang: str) -> Path | None:
    """The publisher's table of a language's transcribed stretches."""
    names = [f"asr_{lang}.tsv.gz", f"asr_{lang}.tsv"]
    folders = [root / "transcribed_data" / lang, root / "transcribed_data", root / "annotations" / "asr", root]
    return next((folder / name for folder in folders for name in names if (folder / name).is_file()), None)


def _add_transcribed(found: Found, lang: str) -> None:
    folder = found.root / "transcribed_data" / lang
    files = {stem(path): f"transcribed_data/{lang}/{path}" for path in find_files(folder)}
    table = _table(found.root, lang)
    if not files and table is not None:
        _add_stretches(found, lang, table)
        return
    for split in _SPLITS:
        path = folder / f"asr_{split}.tsv"
        if not path.is_file():
            found.note(f"transcribed_data/{lang}/asr_{split}.tsv is not there", split)
            continue
        missing = []
        for row in read_fields(path, needed=("id", "raw_text", "normalized_text", "speaker_id", "gender")):
            file = files.pop(row["id"], None)
            if file is None:
                missing.append(f"transcribed_data/{lang}/{row['id'][:4]}/{row['id']}.ogg")
                continue
            texts = (row["normalized_text"], row["raw_text"])
            found.recordings.append(
                _labelled(file, row["id"], lang, split, texts, row, row["id"].split(f"-{lang}_")[0])
            )
        found.leave_out_texts(f"{lang} {split}", missing, split)
    found.leave_out_all(lang, files.values(), "no asr_*.tsv names it")


def _add_stretches(found: Found, lang: str, table: Path) -> None:
    """Rows of a language whose sessions were not cut: spans of the original recordings."""
    sessions: dict[str, str] = {}
    for folder in ("original", lang):
        for path in find_files(found.root / "raw_audios" / folder):
            name = stem(path).removesuffix("_original").removesuffix(f"_{lang}")
            sessions.setdefault(name, f"raw_audios/{folder}/{path}")
    missing: dict[str, list[str]] = {split: [] for split in _SPLITS}
    for number, row in _rows(table, "|"):
        split = row.get("split", "")
        if split not in _SPLITS:
            found.leave_out(f"{table.name}:{number}", f"belongs to no split, says {table.name}")
            continue
        try:
            session, start, end = row["session_id"], float(row["start_time"]), float(row["end_time"])
            texts = (row["normed_text"], row["original_text"])
        except (KeyError, ValueError, TypeError) as error:
            raise ManifestError(f"{table}:{number}: is no line of VoxPopuli's table: {error}") from None
        file = sessions.get(session)
        if file is None:
            missing[split].append(f"{session}-{row['id_']}")
            continue
        recording = _labelled(file, f"{session}-{row['id_']}", lang, split, texts, row, session, start, end)
        found.recordings.append(recording)
    for split, names in missing.items():
        found.leave_out_texts(f"{lang} {split}", names, split)


def _labelled(
    file: str,
    id: str,
    lang: str,
    split: str,
    texts: tuple[str, str],
    row: dict[str, str],
    session: str,
    start: float = 0.0,
    end: float | None = None,
) -> Recording:
    speaker = row.get("speaker_id")
    return Recording(
        path=file,
        id=id,
        text=texts[0].strip() or None,
        speaker=None if speaker in ("", "None", None) else speaker,
        language=lang,
        offset=start,
        duration=None if end is None else end - start,
        extra={
            "split": split,
            "session": session,
            "gender": _GENDERS.get((row.get("gender") or "").lower()),
            "raw_text": texts[1].strip() or None,
        },
    )


def _add_unlabelled(found: Found, lang: str) -> None:
    cuts = find_files(found.root / "unlabelled_data" / lang)
    sessions = {} if cuts else {stem(path): path for path in find_files(found.root / "raw_audios" / lang)}
    for path in cuts:
        session = stem(path).rsplit("_", 1)[0]
        found.recordings.append(_unlabelled(f"unlabelled_data/{lang}/{path}", stem(path), lang, session))
    if not sessions:
        return
    names = ("unlabelled_v2.tsv.gz", "unlabelled_v2.tsv")
    table = next(
        (found.root / "unlabelled_data" / name for name in names if (found.root / "unlabelled_data" / name).is_file()),
        None,
    )
    if table is None:
        found.note(
            f"raw_audios/{lang}: whole sessions, of up to hours, for want of unlabelled_data/{names[0]}, which tells"
            " where speech is",
            _UNLABELLED,
        )
        for session, path in sessions.items():
            found.recordings.append(_unlabelled(f"raw_audios/{lang}/{path}", session, lang, session))
        return
    used = set()
    missing = set()
    for number, row in _rows(table, "\t"):
        try:
            session, start, end = row["event_id"], float(row["start"]), float(row["end"])
        except (KeyError, ValueError, TypeError) as error:
            raise ManifestError(f"{table}:{number}: is no line of VoxPopuli's table: {error}") from None
        if not session.endswith(f"_{lang}"):
            continue
        if session not in sessions:
            missing.add(session)
            continue
        used.add(session)
        file, id = f"raw_audios/{lang}/{sessions[session]}", f"{session}_{row['segment_no']}"
        found.recordings.append(_unlabelled(file, id, lang, session, start, end))
    if missing:
        found.note(
            f"raw_audios/{lang}: {len(missing)} sessions of {table.name} are not there: {some(missing)}", _UNLABELLED
        )
    unnamed = [f"raw_audios/{lang}/{sessions[session]}" for session in sessions.keys() - used]
    found.leave_out_all(lang, unnamed, f"{table.name} does not name it", _UNLABELLED)


def _unlabelled(file: str, id: str, lang: str, session: str, start: float = 0.0, end: float | None = None) -> Recording:
    plenary = "PLENARY" in session
    recent = session[:8].isdigit() and 20190101 <= int(session[:8]) < 20200801
    subset = "10k" if plenary and recent else "100k" if plenary else "400k"
    return Recording(
        path=file,
        id=id,
        language=lang,
        offset=start,
        duration=None if end is None else end - start,
        extra={"split": _UNLABELLED, "subset": subset, "session": session},
    )


def _rows(path: Path, delimiter: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Lines of one of the publisher's tables, packed or not, with their numbers."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise ManifestError(f"{path}: cannot be unpacked ({error}); fetch it again") from None
    reader = csv.DictReader(io.StringIO("\n".join(decode_lines(content, path))), delimiter=delimiter)
    for row in reader:
        yield reader.line_num, row
