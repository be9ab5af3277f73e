"""Promises of lhotse's manifests: what cannot be a row is named with its line, what is not carried is counted.

That lhotse reads what is written, and the other way round, is in tests/parity/test_format_readers.py.
"""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from speechssl.errors import ManifestError
from speechssl.manifest import build_manifest
from speechssl.manifest.formats import read_format, rows, write_format

WriteTone = Callable[..., Path]
Row = dict[str, Any]


def recording(id: str = "r", **fields: Any) -> Row:
    source = {"type": "file", "channels": [0], "source": f"/audio/{id}.wav"}
    known = {"id": id, "sources": [source], "sampling_rate": 16000, "num_samples": 32000, "duration": 2.0}
    return known | fields


def supervision(id: str = "s", **fields: Any) -> Row:
    return {"id": id, "recording_id": "r", "start": 0.5, "duration": 1.0, "channel": 0, "text": f"text {id}"} | fields


def cut(id: str = "c", **fields: Any) -> Row:
    known = {"id": id, "start": 0.25, "duration": 1.5, "channel": 0, "supervisions": [], "recording": recording()}
    return known | {"type": "MonoCut"} | fields


def write(path: Path, *objects: Row | str) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in objects]
    content = ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def test_a_cut_with_one_supervision_or_none_is_a_row(tmp_path: Path) -> None:
    path = write(
        tmp_path / "cuts.jsonl.gz",
        cut("plain", custom={"snr": 3}),
        cut("said", supervisions=[supervision(start=0.1, duration=1.0, speaker="x", language="de", gender="f")]),
    )
    plain, said = read_format(path).manifest
    assert (plain.id, plain.offset, plain.duration, plain.num_samples, plain.text) == ("plain", 0.25, 1.5, 24000, None)
    assert (said.text, said.speaker, said.language, said.extra) == ("text s", "x", "de", {"gender": "f"})
    assert said.offset == 0.25 and plain.extra == {"snr": 3}


def test_of_a_cut_with_several_supervisions_each_is_a_row(tmp_path: Path) -> None:
    several = [supervision("a", start=0.5, duration=0.5), supervision("b", start=1.25, duration=9.0)]
    result = read_format(write(tmp_path / "cuts.jsonl", cut(supervisions=several)))
    assert [(u.id, u.offset, u.duration) for u in result.manifest] == [("a", 0.75, 0.5), ("b", 1.5, 0.25)]
    assert result.notes == ("1 cuts have several supervisions, each of which is a row",)


def test_what_a_manifest_has_no_place_for_is_counted(tmp_path: Path) -> None:
    said = supervision(alignment={"word": []}, custom={"id": "theirs", "duration": 3})
    result = read_format(write(tmp_path / "cuts.jsonl", cut(features={}, supervisions=[said]), cut("d", features={})))
    assert result.left_out == {"features of a cut": 2, "alignment of a supervision": 1}
    assert result.manifest[0].extra == {"custom_id": "theirs", "custom_duration": 3}


def test_a_free_field_may_be_called_anything(tmp_path: Path) -> None:
    said = supervision(custom={"_key": 1, "_recording": 2, "_line": 3})
    for path, row in ((tmp_path / "cuts.jsonl", cut(supervisions=[said])), (tmp_path / "supervisions.jsonl", said)):
        write(tmp_path / "recordings.jsonl", recording())
        assert read_format(write(path, row)).manifest[0].extra == {"_key": 1, "_recording": 2, "_line": 3}


def test_free_fields_of_several_kinds_become_text(tmp_path: Path) -> None:
    cuts = [cut("a", custom={"x": 1}), cut("b", custom={"x": "one"}), cut("c", custom={"x": [1]})]
    manifest = read_format(write(tmp_path / "cuts.jsonl", *cuts)).manifest
    assert manifest.column("x").to_pylist() == ["1", "one", "[1]"]


def test_free_fields_may_be_of_one_kind_at_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "_ROWS_PER_PIECE", 2)
    cuts = [cut(str(n), custom={"x": value}) for n, value in enumerate([1, 2, 3, 4, "one", None])]
    manifest = read_format(write(tmp_path / "cuts.jsonl", *cuts)).manifest
    assert manifest.column("x").to_pylist() == ["1", "2", "3", "4", "one", None]


def test_recordings_and_supervisions_find_each_other_by_name(tmp_path: Path) -> None:
    write(tmp_path / "x_recordings_dev.jsonl.gz", recording(), recording("q"))
    write(tmp_path / "x_supervisions_dev.jsonl.gz", supervision())
    by_supervisions = read_format(tmp_path / "x_supervisions_dev.jsonl.gz")
    assert by_supervisions.left_out == {"file of a recording without a supervision": 1}
    for path in (tmp_path, tmp_path / "x_recordings_dev.jsonl.gz"):
        assert [u.id for u in read_format(path).manifest] == ["s"]
    (tmp_path / "x_supervisions_dev.jsonl.gz").unlink()
    assert [(u.id, u.duration) for u in read_format(tmp_path).manifest] == [("r", 2.0), ("q", 2.0)]
    write(tmp_path / "y_recordings.jsonl", recording())
    with pytest.raises(ManifestError, match="holds several recordings .*; name one of the files"):
        read_format(tmp_path)
    write(tmp_path / "z_supervisions.jsonl", supervision())
    with pytest.raises(ManifestError, match="supervisions need their recordings beside them, as z_recordings.jsonl"):
        read_format(tmp_path / "z_supervisions.jsonl")


def test_rates_that_lhotse_changes_are_read_from_the_recording(tmp_path: Path, write_tone: WriteTone) -> None:
    tone = str(write_tone("a.wav", seconds=1.0, sample_rate=8000))
    command = {"type": "command", "channels": [0], "source": f"ffmpeg -i {tone} -ar 16000 -f wav -"}
    plain = {"type": "file", "channels": [0], "source": tone}
    resampled = {"name": "Resample", "kwargs": {"source_sampling_rate": 8000, "target_sampling_rate": 16000}}
    path = write(
        tmp_path / "cuts.jsonl",
        cut("a", start=0.0, duration=1.0, recording=recording(sources=[command])),
        cut("b", start=0.0, duration=1.0, recording=recording(sources=[plain], transforms=[resampled])),
    )
    for utterance in read_format(path).manifest:
        assert (utterance.sample_rate, utterance.num_samples, utterance.audio_filepath) == (8000, 8000, tone)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{oops", r"cuts.jsonl:2: not JSON \(Expecting property name"),
        ("[]", r"cuts.jsonl:2: must be a JSON object"),
        ('{"x": ' + "[" * 9999 + "]" * 9999 + "}", r"cuts.jsonl:2: lists or objects lie more than 50 deep"),
        (cut("\ud800"), r"cuts.jsonl:2: holds one of .*ud800 .* outside of a pair"),
        (cut("b", start=None), r"cuts.jsonl:2: holds something else than is wanted .*write it again with lhotse"),
        ({"id": "b", "recording": {}}, r"cuts.jsonl:2: lacks 'sources'; write it again with lhotse"),
        (cut("b", recording=recording(sampling_rate=10**30)), r"cuts.jsonl:2: the sampling rate of 'r' is 10{30}"),
        (cut("b", type="MixedCut", tracks=[]), r"cuts.jsonl:2: a MixedCut mixes or pads; .*save_audios"),
        (cut("b", recording=None), r"cuts.jsonl:2: the cut 'b' has no recording"),
        (cut("b", channel=1), r"cuts.jsonl:2: takes channel 1 of 'r', which is not all that one of its files holds"),
        (cut("b", duration=0.0), r"cuts.jsonl:2: 1 rows have an impossible span"),
        (cut("c"), r"cuts.jsonl:2: ids must be unique, but 'c' is that of line 1 too"),
        (
            cut("b", recording=recording(transforms=[{"name": "Speed", "kwargs": {"factor": 0.9}}])),
            r"cuts.jsonl:2: the recording 'r' is changed by Speed",
        ),
        (
            cut("b", recording=recording(sources=[{"type": "memory", "channels": [0], "source": ""}])),
            r"cuts.jsonl:2: the recording 'r' lies in 'memory'",
        ),
        (
            cut("b", recording=recording(sources=[{"type": "command", "channels": [0], "source": "rm -rf x"}])),
            r"cuts.jsonl:2: the command of 'r' calls 'rm'.*commands are never run here",
        ),
    ],
)
def test_what_is_wrong_with_a_cut_is_named_with_its_line(tmp_path: Path, row: Row | str, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        read_format(write(tmp_path / "cuts.jsonl", cut(), row))


def test_what_is_wrong_with_a_pair_is_named_with_its_line(tmp_path: Path) -> None:
    write(tmp_path / "recordings.jsonl", recording())
    write(
        tmp_path / "supervisions.jsonl", supervision(), supervision("t", recording_id="q"), supervision("u", channel=1)
    )
    with pytest.raises(ManifestError) as caught:
        read_format(tmp_path / "supervisions.jsonl")
    assert "supervisions.jsonl: 2 lines cannot be read" in str(caught.value)
    assert f"supervisions.jsonl:2: there is no recording 'q' in {tmp_path}/recordings.jsonl" in str(caught.value)
    assert "supervisions.jsonl:3: takes channel 1 of 'r'" in str(caught.value)


def test_a_damaged_file_is_said_to_be_damaged(tmp_path: Path) -> None:
    whole = gzip.compress((json.dumps(cut()) + "\n").encode() * 3000)
    (tmp_path / "cuts.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ManifestError, match=r"cuts.jsonl.gz: damaged after line \d+ .*copy it again"):
        read_format(tmp_path / "cuts.jsonl.gz")
    (tmp_path / "cuts.jsonl.gz").write_bytes(b"no gzip at all")
    with pytest.raises(ManifestError, match=r"cuts.jsonl.gz: damaged after line 0"):
        read_format(tmp_path / "cuts.jsonl.gz")


def test_without_headers_recordings_are_as_long_as_their_rows(tmp_path: Path, write_tone: WriteTone) -> None:
    write_tone("audio/a.wav", seconds=1.0)
    manifest = build_manifest(tmp_path / "audio").manifest.take([0, 0]).with_column("id", ["x", "y"])
    manifest = manifest.with_column("offset", [0.0, 0.25]).with_column("duration", [0.25, 0.5])
    spans = manifest.with_column("num_samples", np.array([4000, 8000]))
    exported = write_format(spans, tmp_path / "cuts.jsonl", "lhotse", open_recordings=False)
    assert exported.notes == ("recordings count as mono, and as long as their last utterance's end",)
    written = [json.loads(line) for line in (tmp_path / "cuts.jsonl").read_text().splitlines()]
    assert [row["recording"]["num_samples"] for row in written] == [12000, 12000]
    write_format(spans, tmp_path / "cuts.jsonl", "lhotse")
    assert json.loads((tmp_path / "cuts.jsonl").read_text().splitlines()[0])["recording"]["num_samples"] == 16000
