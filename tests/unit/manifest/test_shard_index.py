"""Shards of other tools: indexed, streamed, damaged and hostile ones included."""

import io
import re
import subprocess
import tarfile
from pathlib import Path

import fsspec
import numpy as np
import pytest
import soundfile
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from speechssl import audio
from speechssl.errors import ManifestError
from speechssl.manifest.shards import build_from_shards, iterate_shard
from speechssl.manifest.shards.tar import scan

RATE = 16000


def flac(seed: int = 0, seconds: float = 0.2) -> bytes:
    buffer = io.BytesIO()
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, int(seconds * RATE))
    soundfile.write(buffer, samples, RATE, format="FLAC")
    return buffer.getvalue()


def pack_tar(path: Path, members: dict[str, bytes], *, format: int = tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_shards_of_webdatasets_writers_are_indexed(tmp_path: Path) -> None:
    with webdataset.ShardWriter(str(tmp_path / "wds-%06d.tar"), maxcount=4, verbose=False) as sink:
        for number in range(10):
            sink.write({
                "__key__": f"clips/{number:03d}", "flac": flac(number), "txt": f"text {number}",
                "json": {"speaker": number % 3, "snr": 1.5}, "cls": number,
            })  # fmt: skip
    result = build_from_shards(tmp_path, num_workers=2)
    assert result.skipped == ()
    assert [row.id for row in result.manifest] == [f"clips/{number:03d}" for number in range(10)]
    for number, row in enumerate(result.manifest):
        assert (row.text, row.speaker) == (f"text {number}", str(number % 3))
        assert row.extra == {"snr": 1.5, "label": number}
        expected = soundfile.read(io.BytesIO(flac(number)), dtype="float32")[0]
        np.testing.assert_array_equal(audio.read_utterance(row, RATE), expected)


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_all_kinds_of_tar_are_indexed(tmp_path: Path, format: int) -> None:
    name = "folder/" + "n" * 90 + ("é" if format != tarfile.USTAR_FORMAT else "") + "m" * 40 * (format != 0)
    pack_tar(tmp_path / "a.tar", {f"{name}.flac": flac(), "b.wav": b"?", "c.flac": flac(1)}, format=format)
    found = build_from_shards(tmp_path / "a.tar")
    assert [row.id for row in found.manifest] == [name, "c"]
    assert len(audio.read(found.manifest[1].audio_filepath)) == 3200
    assert [name for name, _ in found.skipped] == ["a.tar/b.wav"]


def test_gnu_tar_itself_is_indexed(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    for number in range(3):
        (tmp_path / "clips" / f"{number}.flac").write_bytes(flac(number))
        (tmp_path / "clips" / f"{number}.txt").write_text(f"text {number}")
    subprocess.run(["tar", "--sort=name", "-cf", tmp_path / "x.tar", "-C", tmp_path, "clips"], check=True)
    found = build_from_shards(tmp_path / "x.tar")
    assert [(row.id, row.text) for row in found.manifest] == [(f"clips/{n}", f"text {n}") for n in range(3)]


def test_sidecars_that_cannot_be_used_are_counted_and_their_recordings_kept(tmp_path: Path) -> None:
    members = {
        "a.flac": flac(), "a.json": b"{broken", "b.flac": flac(1), "b.txt": b"\xff\xfe", "c.flac": flac(2),
        "c.json": b"[1]", "d.json": b"{}", "e.npy": b"x", "README": b"hello", "f.left.flac": flac(3),
        "f.right.flac": flac(4), "g.flac": b"noise" * 99,
    }  # fmt: skip
    pack_tar(tmp_path / "a.tar", members)
    found = build_from_shards(tmp_path)
    assert [row.id for row in found.manifest] == ["a", "b", "c", "f.left", "f.right"]
    reasons = {name.removeprefix("a.tar/"): reason for name, reason in found.skipped}
    assert reasons["a.json"].endswith("its recording is kept without it")
    assert "b.txt" in reasons and "must be a JSON object" in reasons["c.json"]
    assert reasons["d"] == "holds no audio, only json"
    assert reasons["e"] == "holds no audio, only npy"
    assert reasons["README"] == "has no extension and belongs to no sample"
    assert "is text, not audio" in reasons["g.flac"]
    assert len(reasons) == len(found.skipped) == 7


def test_columns_of_several_kinds_become_text_and_equal_ids_are_told_apart(tmp_path: Path) -> None:
    pack_tar(tmp_path / "a.tar", {"x.flac": flac(), "x.json": b'{"n": 1, "m": 1}', "y.flac": flac()})
    pack_tar(tmp_path / "b.tar", {"x.flac": flac(), "x.json": b'{"n": "two", "m": 2.5}'})
    found = build_from_shards(tmp_path).manifest
    assert found.column("id").to_pylist() == ["a/x", "y", "b/x"]
    assert found.column("n").to_pylist() == ["1", None, "two"]
    assert found.column("m").to_pylist() == [1.0, None, 2.5]


def test_names_that_lead_out_links_and_devices_are_refused_and_counted(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        for name in ("../../up.flac", "/etc/passwd.flac", "a/../../b.flac", "C:\\x.flac", "good.flac"):
            info = tarfile.TarInfo(name)
            info.size = len(flac())
            tar.addfile(info, io.BytesIO(flac()))
        for name, kind, target in (
            ("link.flac", tarfile.SYMTYPE, "/etc/passwd"),
            ("hard.flac", tarfile.LNKTYPE, "good.flac"),
            ("dev.flac", tarfile.CHRTYPE, ""),
            ("pipe.flac", tarfile.FIFOTYPE, ""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            tar.addfile(info)
    found = build_from_shards(tmp_path / "evil.tar")
    assert [row.id for row in found.manifest] == ["good"]
    reasons = [reason for _, reason in found.skipped]
    assert sum("a path with `..`" in reason for reason in reasons) == 2
    assert sum("an absolute path" in reason for reason in reasons) == 2
    assert sum("a link" in reason for reason in reasons) == 2
    assert sum("a device" in reason for reason in reasons) == 2


def test_a_shard_that_was_cut_off_keeps_what_is_whole(tmp_path: Path) -> None:
    content = pack_tar(tmp_path / "a.tar", {f"{n}.flac": flac(n) for n in range(4)}).read_bytes()
    last = list(scan(io.BytesIO(content), len(content), "a"))[-1]
    for cut, kept, message in (
        (last.start + 100, 3, f"truncated: 100 of {last.num_bytes} bytes are there"),
        (last.start - 100, 3, "damaged|no end mark"),
        (last.start - 512, 3, "no end mark and may be cut off"),
    ):
        (tmp_path / "a.tar").write_bytes(content[:cut])
        found = build_from_shards(tmp_path)
        assert [row.id for row in found.manifest] == ["0", "1", "2"][:kept]
        assert len(found.skipped) == 1
        assert re.search(message, found.skipped[0][1])


@settings(max_examples=40, deadline=None)
@given(victim=st.integers(0, 5), noise=st.binary(min_size=512, max_size=512), pax=st.booleans())
def test_damage_costs_its_member_and_no_other(victim: int, noise: bytes, pax: bool) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for number in range(6):
            info = tarfile.TarInfo(f"{number}.bin" if not pax else f"é{number}.bin")
            info.size = 700
            tar.addfile(info, io.BytesIO(bytes([65 + number]) * 700))
    content = buffer.getvalue()
    members = list(scan(io.BytesIO(content), len(content), "a"))
    assert len(members) == 6 and not any(member.fault for member in members)
    header = members[victim].start - 512
    damaged = content[:header] + noise + content[header + 512 :]
    found = list(scan(io.BytesIO(damaged), len(damaged), "a"))
    whole = [member.name for member in found if member.fault is None]
    assert [name for name in whole if name in {m.name for m in members}] == [
        member.name for number, member in enumerate(members) if number != victim
    ]
    if any(noise):
        assert sum(member.fault is not None for member in found) == 1


@settings(max_examples=150, deadline=None)
@given(st.binary(min_size=1, max_size=3000))
def test_any_bytes_are_scanned_to_an_end(content: bytes) -> None:
    try:
        members = list(scan(io.BytesIO(content), len(content), "noise.tar"))
    except ManifestError as error:
        assert str(error).startswith("noise.tar: ")
    else:
        assert len(members) <= 10


def test_compressed_shards_and_other_files_are_refused_with_the_way_out(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("x.flac"))
    with pytest.raises(ManifestError, match=r"holds no tar shards; a\.tar\.gz is compressed: unpack it to \.tar"):
        build_from_shards(tmp_path)
    (tmp_path / "a.tar.gz").rename(tmp_path / "a.tar")
    with pytest.raises(ManifestError, match="is compressed with gzip.*`gunzip`"):
        build_from_shards(tmp_path)
    pack_tar(tmp_path / "b.tar", {"x.flac": flac()})
    (tmp_path / "c.tar").write_bytes(b"no tar " * 500)
    (tmp_path / "d.tar").write_bytes(b"")
    found = build_from_shards(tmp_path)
    assert len(found.manifest) == 1
    assert [name for name, _ in found.skipped] == ["a.tar", "c.tar", "d.tar"]
    with pytest.raises(ManifestError, match="no such file or folder"):
        build_from_shards(tmp_path / "none")


# --- streaming ---


@pytest.mark.parametrize("place", ["local", "memory"])
def test_streaming_gives_every_member_once_in_order(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("speechssl.manifest.shards.stream.PIECE_BYTES", 3000)
    members = {f"{n}.{e}": bytes([n]) * (500 * n + 7) for n in range(9) for e in ("flac", "json")}
    path = str(pack_tar(tmp_path / "a.tar", members))
    if place == "memory":
        fsspec.filesystem("memory").pipe("/stream/a.tar", Path(path).read_bytes())
        path = "memory://stream/a.tar"
    samples = list(iterate_shard(path))
    assert [sample.key for sample in samples] == [str(n) for n in range(9)]
    assert {f"{s.key}.{e}": content for s in samples for e, content in s.members.items()} == members
    assert list(iterate_shard(path)) == samples


def test_streaming_tells_what_it_leaves_out(tmp_path: Path) -> None:
    content = pack_tar(tmp_path / "a.tar", {"a.txt": b"x", "../b.txt": b"y", "c.txt": b"z" * 600}).read_bytes()
    (tmp_path / "a.tar").write_bytes(content[: 5 * 512 + 100])
    samples = list(iterate_shard(str(tmp_path / "a.tar")))
    assert [sample.key for sample in samples] == ["a"]
    assert [name for name, _ in samples[0].faults] == ["../b.txt", "c.txt"]
    with pytest.raises(ManifestError, match="no such file or folder"):
        list(iterate_shard(str(tmp_path / "missing.tar")))
