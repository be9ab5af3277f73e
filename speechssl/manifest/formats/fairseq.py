"""fairseq's lists for wav2vec 2.0, which fairseq2's recipes read too.

`SPLIT.tsv` holds the root folder in its first line and `path<TAB>num_samples` in the others. Line n of `SPLIT.wrd` is
the text of recording n, line n of `SPLIT.ltr` its letters with spaces between them and `|` after every word, and
`dict.ltr.txt` lists `symbol count`, most frequent first: its order is that of a model's outputs.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from speechssl.errors import ManifestError
from speechssl.manifest import paths
from speechssl.manifest.formats import pieces
from speechssl.manifest.formats.base import (
    ExportResult,
    ImportResult,
    ReadOptions,
    WriteOptions,
    combined,
    count_uncarried,
    extra_names,
    optional,
    shown,
)
from speechssl.manifest.formats.headers import repeated
from speechssl.manifest.formats.lines import (
    Staged,
    check_same_length,
    count_lines,
    joined,
    parse_numbers,
    read_lines,
    scan_lines,
    single_spaced,
    split_fields,
    staged,
    text_bytes,
    write_lines,
)
from speechssl.manifest.formats.pieces import Piece, import_pieces, join_parts
from speechssl.manifest.hashing import hash_values, repeated_rows
from speechssl.manifest.jsonl import STRING
from speechssl.manifest.table import Manifest

DICTIONARY = "dict.ltr.txt"
_ROWS_PER_PIECE = 1 << 18
_TEXT_FILES = (".tsv", ".wrd", ".ltr")


def is_list(path: Path) -> bool:
    """Whether a `.tsv` file begins as fairseq's do: one field, then lines of a path and a number."""
    with open(path, "rb") as file:
        first, second = file.readline(1 << 16), file.readline(1 << 16)
    fields = second.rstrip(b"\r\n").split(b"\t")
    return b"\t" not in first and bool(first.strip()) and (not second or (len(fields) == 2 and fields[1].isdigit()))


def read(path: Path, options: ReadOptions) -> ImportResult:
    """Import a `.tsv`, or all lists of a folder with the column `split` saying which a row is from.

    Raises:
        ManifestError: not such a list, or labels that do not go with it; names file and line.
    """
    if not path.is_dir():
        manifest = _read_split(path, options)
        return _imported(manifest, _other_labels(path))
    lists = sorted(name for name in path.glob("*.tsv") if is_list(name))
    if not lists:
        raise ManifestError(f"{path}: holds no .tsv whose first line is a root folder; name the list itself")
    parts = [_read_split(name, options, split=name.stem) for name in lists]
    if len(repeated_rows([hash_values(batch.column(0)) for part in parts for batch in part.batches(["id"])])):
        parts = [_read_split(name, options, split=name.stem, in_ids=True) for name in lists]
    folder = _common_root([part.folder for part in parts if part.folder is not None])
    manifest = join_parts(parts, folder, path)
    return _imported(manifest, [label for name in lists for label in _other_labels(name)])


def write(manifest: Manifest, path: Path, options: WriteOptions) -> ExportResult:
    """Export as `path` and, where there are texts, `.wrd`, `.ltr` and the dictionary beside it."""
    return _write(manifest, path, "fairseq", letters=True)


def write_fairseq2(manifest: Manifest, path: Path, options: WriteOptions) -> ExportResult:
    """Export as `path` and, where there are texts, `.wrd` beside it, all that fairseq2's recipes read."""
    return _write(manifest, path, "fairseq2", letters=False)


def _read_split(path: Path, options: ReadOptions, *, split: str | None = None, in_ids: bool = False) -> Manifest:
    """One list; `split` becomes a column, and with `in_ids` the beginning of every id."""
    num_rows = count_lines(path) - 1
    root = next(scan_lines(path, 1))[0].as_py().strip()
    if "\t" in root or "\0" in root or not root:
        raise ManifestError(
            f"{path}:1: must be the root folder of the paths below, is {root[:80]!r}; it is no such list"
        )
    if num_rows == 0:
        raise ManifestError(f"{path}: names no recording; write it again")
    labels = [name for name in (path.with_suffix(".ltr"), path.with_suffix(".wrd")) if name.is_file()]
    for name in labels:
        check_same_length(name, count_lines(name), path, num_rows)
    folder = options.audio_root or _find_root(root, path)

    def finished(table: pa.Table) -> pa.Table:
        if split is not None:
            table = table.append_column("split", repeated(split, len(table)))
        if in_ids:
            ids = joined(combined(table["split"]), combined(table["id"]), separator="/")
            table = table.set_column(table.column_names.index("id"), "id", ids)
        return table

    return import_pieces(lambda: _pieces(path, labels[-1:]), folder, path, options, finished=finished)


def _pieces(path: Path, labels: Sequence[Path]) -> Iterator[Piece]:
    """The recordings, and the text of each where `labels` has a file of words, or of letters, with as many lines."""
    first = 2
    texts = [scan_lines(name, pieces.PIECE_ROWS) for name in labels]
    for lines, *label in zip(scan_lines(path, pieces.PIECE_ROWS, skip=1), *texts, strict=True):
        files, sizes = split_fields(lines, 2, path, first_line=first, what="path<TAB>num_samples")
        num_samples = parse_numbers(sizes, path, first_line=first, what="the number of samples", whole=True)
        columns = {"audio_filepath": pc.replace_substring_regex(files, r"\A(\./+)+", ""), "num_samples": num_samples}
        for name, text in zip(labels, label, strict=True):
            columns["text"] = _as_text(text, is_letters=name.suffix == ".ltr")
        yield Piece(table=pa.table(columns), lines=np.arange(first, first + len(lines)))
        first += len(lines)


def _find_root(root: str, path: Path) -> Path:
    """A root that is not absolute is relative to the working folder, as for fairseq, or else to the list's."""
    folder = Path(root)
    if folder.is_absolute() or folder.is_dir() or not (path.parent / folder).is_dir():
        return folder
    return path.parent / folder


def _as_text(text: pa.Array, *, is_letters: bool) -> pa.Array:
    """Words as they are, letters put together to words."""
    if is_letters:
        text = pc.replace_substring(pc.replace_substring(text, " ", ""), "|", " ")
    return pc.utf8_trim_whitespace(text)


def _other_labels(path: Path) -> list[str]:
    others = sorted(other.name for other in path.parent.glob(f"{path.stem}.*") if other.suffix not in _TEXT_FILES)
    return [name for name in others if not name.endswith((".tmp", ".tar"))]


def _imported(manifest: Manifest, others: list[str]) -> ImportResult:
    notes = ["ids are made of the paths; speakers and languages are not in this format"]
    if others:
        notes.append(f"not read: {shown(others)}")
    return ImportResult(manifest=manifest, format="fairseq", notes=tuple(notes))


def _write(manifest: Manifest, path: Path, format: str, *, letters: bool) -> ExportResult:
    splits = _splits(manifest, path)
    left_out: dict[str, int] = {}
    texts = []
    with staged() as files:
        for name, part in splits.items():
            text = _write_split(part, name, files, left_out, letters=letters)
            texts += [] if text is None else [text]
        if letters and texts:
            _write_dictionary(next(iter(splits)).parent / DICTIONARY, texts, files)
    carried = ["audio_filepath", "num_samples", *(["text"] if texts else []), *(["split"] if path.is_dir() else [])]
    left_out |= count_uncarried(manifest, ["id", "speaker", "language", *extra_names(manifest, besides=tuple(carried))])
    rates = pc.unique(manifest.column("sample_rate")).to_pylist()
    notes = [f"all recordings are at {rates[0]} Hz: set the peer's sample rate to it"]
    if len(rates) > 1:
        notes = [f"recordings are at {len(rates)} rates ({shown([str(rate) for rate in rates])} Hz); fairseq wants one"]
    return ExportResult(
        format=format,
        files=files.files,
        num_utterances=len(manifest),
        seconds=manifest.total_seconds,
        carried=tuple(carried),
        left_out=left_out,
        notes=tuple(notes),
    )


def _splits(manifest: Manifest, path: Path) -> dict[Path, Manifest]:
    """The lists to write: one, or one in a folder for every value of the column `split`."""
    if path.suffix == ".tsv":
        return {path: manifest}
    if "split" not in manifest.column_names:
        raise ManifestError(
            f"{path}: a folder gets one list for each value of the column split, which the manifest does not have; name"
            f" a file, such as {path / 'train.tsv'}"
        )
    column = manifest.column("split").cast(STRING)
    names = pc.unique(column)
    bad = [name for name in names.to_pylist() if not name or "/" in name or name.startswith(".")]
    if bad:
        raise ManifestError(f"{path}: the column split holds {bad[0]!r}, which cannot be the name of a list; change it")
    path.mkdir(parents=True, exist_ok=True)
    return {path / f"{name}.tsv": manifest.filter(pc.equal(column, name)) for name in names.to_pylist()}


def _write_split(
    manifest: Manifest, path: Path, files: Staged, left_out: dict[str, int], *, letters: bool
) -> pa.Array | None:
    """Write one list; returns its texts."""
    root = _root(manifest)
    names = combined(manifest.rebased(root).column("audio_filepath"))
    bad = pc.indices_nonzero(pc.match_substring_regex(names, r"[\t\r\n]"))
    if len(bad):
        raise ManifestError(
            f"{names[bad[0].as_py()].as_py()!r}: a path in a .tsv holds no tab or line break; rename it"
        )
    names = pc.replace_substring_regex(names, r"\A(\s)", r"./\1")  # readers strip the lines
    lines = joined(names, combined(manifest.column("num_samples")), separator="\t")
    write_lines(files(path), lines, header=str(root))
    for ending in (".wrd", ".ltr"):
        files.drop(path.with_suffix(ending))
    text = optional(manifest, "text")
    if text is None:
        return None
    missing = int(text.null_count)
    words, changed = single_spaced(pc.fill_null(combined(text), ""))
    for reason, count in (("no text: written as an empty one", missing), ("white space in the text made one", changed)):
        if count:
            left_out[reason] = left_out.get(reason, 0) + count
    write_lines(files(path.with_suffix(".wrd")), words)
    if letters:
        _check_bars(words, path.with_suffix(".ltr"))
        write_lines(files(path.with_suffix(".ltr")), words, change=_letters)
    return words


def _root(manifest: Manifest) -> Path:
    """An absolute folder that all recordings lie in: the manifest's own where it can be."""
    found: set[str] = set()

    def note(directory: str) -> str:
        found.add(os.path.abspath(paths.resolve(directory or ".", manifest.folder)))
        return directory

    paths.map_directories(manifest.column("audio_filepath"), note)
    return _common_root([Path(folder) for folder in found], Path(os.path.abspath(manifest.folder or ".")))


def _common_root(folders: list[Path], wanted: Path | None = None) -> Path:
    common = Path(os.path.commonpath([os.path.abspath(folder) for folder in folders]))
    while str(common) != str(common).strip():  # readers strip the line that names it
        common = common.parent
    fits = wanted is not None and common.is_relative_to(wanted) and str(wanted) == str(wanted).strip()
    return wanted if wanted is not None and fits else common


def _check_bars(words: pa.Array, path: Path) -> None:
    bars = pc.indices_nonzero(pc.match_substring(words, "|"))
    if len(bars):
        row = bars[0].as_py()
        raise ManifestError(
            f"{path}:{row + 1}: {len(bars)} texts hold a '|', which stands between words there; the first is"
            f" {words[row].as_py()[:60]!r}: replace it in the texts"
        )


def _letters(words: pa.Array) -> pa.Array:
    """Every character with a space behind it, `|` for every space, and a last `|`."""
    offsets, content = text_bytes(words)
    begins = (content & 0xC0) != 0x80  # the first byte of a character in UTF-8
    num_before = np.concatenate([[0], np.cumsum(begins)])
    spaced = np.full(len(content) + num_before[-1], ord(" "), dtype=np.uint8)
    spaced[np.arange(len(content)) + num_before[1:] - 1] = np.where(content == ord(" "), ord("|"), content)
    moved = pa.py_buffer((offsets + num_before[offsets]).astype(np.int64))
    return joined(pa.LargeStringArray.from_buffers(len(words), moved, pa.py_buffer(spaced)), "|")


def _write_dictionary(path: Path, texts: list[pa.Array], files: Staged) -> None:
    """Write the symbols of all texts. One that is there already is kept, since it numbers the outputs of a model.

    Raises:
        ManifestError: the one that is there lacks a symbol.
    """
    counts = _count_letters(texts)
    if not path.is_file():
        symbols = sorted(counts, key=lambda symbol: (-counts[symbol], symbol))
        write_lines(files(path), pa.array([f"{symbol} {counts[symbol]}" for symbol in symbols], STRING))
        return
    known = {line.rsplit(" ", 1)[0] for line in read_lines(path).to_pylist()}
    missing = sorted(counts.keys() - known)
    if missing:
        raise ManifestError(
            f"{path}: lacks {len(missing)} symbols of the texts: {' '.join(missing[:20])}; remove it to have a new one"
            " written, or keep a model's dictionary and change the texts"
        )


def _count_letters(texts: Iterable[pa.Array]) -> dict[str, int]:
    counts = np.zeros(0x110000, dtype=np.int64)
    for column in texts:
        for start in range(0, len(column), _ROWS_PER_PIECE):
            text = text_bytes(column.slice(start, _ROWS_PER_PIECE))[1].tobytes().decode()
            codes = np.bincount(np.frombuffer(text.encode("utf-32-le"), dtype="<u4"))
            counts[: len(codes)] += codes
        counts[ord("|")] += len(column)  # after the last word
    counts[ord("|")] += counts[ord(" ")]
    counts[ord(" ")] = 0
    return {chr(code): int(counts[code]) for code in np.flatnonzero(counts).tolist()}
