"""Any folder of recordings: `build --root DIR` by this card is `build DIR`."""

from collections.abc import Sequence
from pathlib import Path

from speechssl.manifest.build import find_in_folder
from speechssl.manifest.corpora.card import CorpusCard
from speechssl.manifest.corpora.found import Found
from speechssl.manifest.recordings import Recordings


def find(card: CorpusCard, root: Path, splits: Sequence[str]) -> Found:
    """Every recording at any depth; texts from a `transcripts.tsv` or `.csv`, else from a `.txt` beside each."""
    recordings, skipped, notes = find_in_folder(root)
    found = Found(root=root, recordings=Recordings(recordings))
    for path, reason in skipped:
        found.leave_out(path, reason)
    for note in notes:
        found.note(note)
    return found
