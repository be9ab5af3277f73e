"""Miniatures of public corpora: folders, names, tables and containers are the real ones, the sounds are noise.

Each holds at least two good utterances, and where the corpus has them a text without a recording, a recording without a
text and a recording that cannot be read.
"""

import gzip
import json
import zlib
from pathlib import Path

import numpy as np
import soundfile

BROKEN = b"this was a recording before the disk failed\n"


def write_audio(path: Path, *, seconds: float = 0.3, sample_rate: int = 16000) -> Path:
    """Noise in the container that the name tells; `.sph` and `.WAV` are NIST SPHERE as on LDC's discs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(zlib.crc32(path.name.encode()))
    samples = (0.1 * generator.standard_normal(int(seconds * sample_rate))).astype(np.float32)
    if path.suffix == ".m4a":
        _write_aac(path, samples, sample_rate)
    elif path.suffix in (".sph", ".WAV"):
        soundfile.write(path, samples, sample_rate, format="NIST", subtype="PCM_16", endian="LITTLE")
    elif path.suffix == ".opus":
        soundfile.write(path, samples, sample_rate, format="OGG", subtype="OPUS")
    else:
        soundfile.write(path, samples, sample_rate)
    return path


def _write_aac(path: Path, samples: np.ndarray, sample_rate: int) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=sample_rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = sample_rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


def write_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def write_broken(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(BROKEN)
    return path


def librispeech(root: Path, *, whole: bool = False) -> Path:
    """`whole` leaves out what is amiss, for peers that stop at it; so in all of these."""
    top = root / "LibriSpeech"
    write_text(top / "SPEAKERS.TXT", ";ID  |SEX| SUBSET\n84   | F | dev-clean | 8.02 | Christie Nowak\n")
    for split, chapter in (("dev-clean", "84/121123"), ("test-other", "1688/142285")):
        name = chapter.replace("/", "-")
        lines = f"{name}-0000 GO DO YOU HEAR\n{name}-0001 BUT IN LESS THAN FIVE MINUTES\n"
        write_text(top / split / chapter / f"{name}.trans.txt", lines + ("" if whole else f"{name}-0002 GONE\n"))
        for number in (0, 1):
            write_audio(top / split / chapter / f"{name}-000{number}.flac")
    if not whole:
        write_audio(top / "dev-clean/84/121123/84-121123-0003.flac")
        write_broken(top / "dev-clean/84/121123/84-121123-0004.flac")
        write_audio(top / "dev-clean/84/121123/stray.flac")
    return root


def libri_light_books(root: Path, *, whole: bool = False) -> Path:
    book = "small/100/sea_fairies_0812_librivox_64kb_mp3"
    voice = {
        "01_baum_sea_fairies_64kb": [[0.1, 0.4], [0.5, 0.9], [1.2, 1.9]],
        "02_baum_sea_fairies_64kb": [[0.2, 1.8]],
    }
    for name, spans in voice.items():
        write_audio(root / book / f"{name}.flac", seconds=2.0)
        facts = {
            "speaker": "100",
            "book_meta": {"id": "2720", "title": "Sea Fairies", "meta_genre": "Literature", "genre": ["Fantasy"]},
            "snr": 9.88,
            "voice_activity": spans,
        }
        write_text(root / book / f"{name}.json", json.dumps(facts))
    other = "medium/960/history_of_holland_0910_librivox_64kb_mp3"
    write_audio(root / other / "holland_01_edmundson_64kb.flac", seconds=1.0)
    facts = {"speaker": "960", "book_meta": {}, "snr": 5.391, "voice_activity": [[0.0, 0.5]]}
    write_text(root / other / "holland_01_edmundson_64kb.json", json.dumps(facts))
    (root / "large").mkdir(exist_ok=True)
    if not whole:
        write_text(root / book / "03_baum_sea_fairies_64kb.json", json.dumps({"voice_activity": []}))
        write_audio(root / other / "holland_02_edmundson_64kb.flac", seconds=1.0)
        write_broken(root / other / "holland_03_edmundson_64kb.flac")
    return root


def libri_light_labelled(root: Path, *, whole: bool = False) -> Path:
    top = root / "librispeech_finetuning"
    parts = [(f"1h/{fold}", 3526 + fold) for fold in range(6)] + [("9h", 4000)]
    for part, speaker in parts:
        for quality, chapter in (("clean", 175658), ("other", 175659)):
            name = f"{speaker}-{chapter}"
            folder = top / part / quality / str(speaker) / str(chapter)
            write_audio(folder / f"{name}-0000.flac")
            write_text(folder / f"{name}.trans.txt", f"{name}-0000 TEXT OF {part.upper()}\n")
    if not whole:
        folder = top / "1h/0/clean/3526/175658"
        write_text(folder / "3526-175658.trans.txt", "3526-175658-0000 TEXT OF 1H/0\n3526-175658-0001 GONE\n")
        write_audio(top / "9h/other/4000/175659/4000-175659-0001.flac")
        write_broken(top / "9h/other/4000/175659/4000-175659-0002.flac")
    return root


def ljspeech(root: Path, *, whole: bool = False) -> Path:
    top = root / "LJSpeech-1.1"
    lines = ['LJ001-0001|in 1455, "so"|in fourteen fifty-five, "so"', "LJ002-0003|a word|a word"]
    for name in ("LJ001-0001", "LJ002-0003"):
        write_audio(top / f"wavs/{name}.wav", sample_rate=22050)
    if not whole:
        lines += ["LJ001-0002|gone|gone", "LJ001-0008|broken|broken"]
        write_audio(top / "wavs/LJ001-0009.wav", sample_rate=22050)
        write_broken(top / "wavs/LJ001-0008.wav")
    write_text(top / "metadata.csv", "\n".join(lines) + "\n")
    return root


def vctk(root: Path, *, whole: bool = False) -> Path:
    top = root / "VCTK-Corpus-0.92"
    header = "ID  AGE  GENDER  ACCENTS  REGION COMMENTS\n"
    write_text(
        top / "speaker-info.txt",
        header + "p225  23  F    English    Southern  England\n"
        "p280  25  F    Unknown    France (mic2 files unavailable)\n"
        "p315  18  M    American    New  England (p315 text was lost)\n"
        "s5  27  M    British    Unknown\n",
    )
    audio = top / "wav48_silence_trimmed"
    for speaker, microphones in (("p225", "12"), ("p280", "1"), ("s5", "12")):
        for number in ("001", "002"):
            write_text(top / f"txt/{speaker}/{speaker}_{number}.txt", f"Please call Stella, {number}.\n")
            for microphone in microphones:
                write_audio(audio / speaker / f"{speaker}_{number}_mic{microphone}.flac", sample_rate=48000)
    if not whole:
        write_audio(audio / "p315/p315_001_mic1.flac", sample_rate=48000)
        write_text(top / "txt/p225/p225_003.txt", "Six spoons of fresh snow peas.\n")
        write_text(top / "txt/p225/p225_004.txt", "Broken.\n")
        write_broken(audio / "p225/p225_004_mic2.flac")
    return root


def vctk_old(root: Path) -> Path:
    top = root / "VCTK-Corpus"
    write_text(
        top / "speaker-info.txt", "ID  AGE  GENDER  ACCENTS  REGION\n225  23  F    English    Southern  England\n"
    )
    for number in ("001", "002"):
        write_text(top / f"txt/p225/p225_{number}.txt", f"Please call Stella, {number}.\n")
        write_audio(top / f"wav48/p225/p225_{number}.wav", sample_rate=48000)
    return root


def common_voice(root: Path, *, whole: bool = False) -> Path:
    top = root / "eo"
    header = "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccent\tlocale\tsegment\n"

    def line(client: str, name: str, sentence: str) -> str:
        return f"{client}\tcommon_voice_eo_{name}.mp3\t{sentence}\t2\t0\tthirties\tmale\t\teo\t\n"

    for name in ("101", "102", "103", "104", "105"):
        write_audio(top / f"clips/common_voice_eo_{name}.mp3", sample_rate=48000)
    write_text(top / "train.tsv", header + line("s1", "101", 'Li diris "ne.'))
    write_text(top / "test.tsv", header + line("s2", "102", "Jes.") + ("" if whole else line("s2", "gone", "X")))
    validated = line("s1", "101", 'Li diris "ne.') + line("s3", "103", "Bone.")
    write_text(top / "validated.tsv", header + validated + ("" if whole else line("s3", "106", "Rompita.")))
    write_text(top / "invalidated.tsv", header + line("s4", "104", "Fi."))
    if not whole:
        write_broken(top / "clips/common_voice_eo_106.mp3")
    return root


def voxpopuli(root: Path, *, whole: bool = False) -> Path:
    """Cut by the publisher's scripts."""
    folder = root / "transcribed_data/hr"
    header = "id\traw_text\tnormalized_text\tspeaker_id\tsplit\tgender\n"
    first = "20180206-0900-PLENARY-15-hr_20180206-16:10:06_5"
    second = "20190115-0900-PLENARY-3-hr_20190115-09:12:44_0"
    third = "20190115-0900-PLENARY-3-hr_20190115-09:12:44_1"
    lines = {
        "train": [f"{first}\tPoštovani, 2 stvari.\tpoštovani dvije stvari\t116663\ttrain\tmale"],
        "dev": [f"{second}\tHvala lijepa.\thvala lijepa\tNone\tdev\tfemale"],
        "test": [f"{third}\tŽelim reći.\tželim reći\t124\ttest\tfemale"],
    }
    for name in (first, second, third):
        write_audio(folder / name[:4] / f"{name}.ogg")
    if not whole:
        broken = "20190115-0900-PLENARY-3-hr_20190115-09:12:44_2"
        gone = "20190115-0900-PLENARY-3-hr_20190115-09:12:44_3"
        lines["test"] += [f"{broken}\tX\tx\t1\ttest\tmale", f"{gone}\tX\tx\t1\ttest\tmale"]
        write_broken(folder / f"2019/{broken}.ogg")
        write_audio(folder / "2019/20190115-0900-PLENARY-3-hr_20190115-09:12:44_9.ogg")
    for split, rows in lines.items():
        write_text(folder / f"asr_{split}.tsv", header + "\n".join(rows) + "\n")
    for name in ("20090112-0900-PLENARY-3_hr_0", "20190115-0900-PLENARY-3_hr_0", "20190115-0900-DROI-1_hr_0"):
        write_audio(root / f"unlabelled_data/hr/{name[:4]}/{name}.ogg")
    return root


def voxpopuli_sessions(root: Path, *, whole: bool = False, folder: str = "original") -> Path:
    """As downloaded, without cuts."""
    sessions = ("20180206-0900-PLENARY-15", "20190115-0900-PLENARY-3")
    for session in sessions:
        write_audio(root / f"raw_audios/{folder}/{session[:4]}/{session}_{folder}.ogg", seconds=3.0)
    header = "session_id|id_|original_text|normed_text|speaker_id|split|gender|start_time|end_time|vad\n"
    rows = [
        f"{sessions[0]}|hr_20180206-16:10:06_5|Poštovani, 2.|poštovani dva|116663|train|male|0.5|1.5|[(0.5, 1.5)]",
        f"{sessions[0]}|hr_20180206-16:10:06_6|Hvala.|hvala|116663|dev|male|1.5|2.75|[(1.5, 2.75)]",
        f"{sessions[1]}|hr_20190115-09:12:44_0|Želim.|želim|124|test|female|0.0|0.8|[(0.0, 0.8)]",
    ]
    if not whole:
        rows.append(f"{sessions[1]}|hr_20190115-09:12:44_1|Dalje.|dalje|124|test|female|2.5|9.0|[(2.5, 9.0)]")
        rows.append("20200101-0900-PLENARY-1|hr_1|X|x|1|test|female|0.0|1.0|[(0.0, 1.0)]")
        rows.append(f"{sessions[1]}|hr_2|X|x|1|invalid|female|0.0|1.0|[(0.0, 1.0)]")
    table = root / "transcribed_data/hr/asr_hr.tsv.gz"
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_bytes(gzip.compress((header + "\n".join(rows) + "\n").encode()))
    return root


def mls(root: Path, *, whole: bool = False, extension: str = "flac") -> Path:
    top = root / ("mls_polish_opus" if extension == "opus" else "mls_polish")
    write_text(
        top / "metainfo.txt",
        "SPEAKER  |GENDER  |PARTITION  |MINUTES  |BOOK ID  |TITLE  |CHAPTER\n"
        "6892     |   M    |   train   |  23.4   |  10049  |Lalka  |Rozdzial 1\n"
        "8758     |   F    |   dev     |  12.0   |  8338   |Faraon |Rozdzial 2\n"
        "5809     |   M    |   test    |  12.0   |  6120   |Potop  |Rozdzial 3\n",
    )
    names = {
        "train": [f"6892_10049_{number:06d}" for number in range(4)],
        "dev": ["8758_8338_000000"],
        "test": ["5809_6120_000000"],
    }
    for split, ids in names.items():
        lines = [f"{name}\tzdanie {name[-1]}" for name in ids]
        for name in ids:
            speaker, book, _ = name.split("_")
            write_audio(top / split / "audio" / speaker / book / f"{name}.{extension}")
        if not whole and split == "train":
            lines += ["6892_10049_000008\tnie ma", "6892_10049_000009\tzepsute"]
            write_broken(top / f"train/audio/6892/10049/6892_10049_000009.{extension}")
            write_audio(top / f"train/audio/6892/10049/6892_10049_000007.{extension}")
        write_text(top / split / "transcripts.txt", "\n".join(lines) + "\n")
        segments = [f"{name}\thttp://www.archive.org/download/x/y_64kb.mp3\t0.0\t0.3" for name in ids]
        write_text(top / split / "segments.txt", "\n".join(segments) + "\n")
    limited = top / "train/limited_supervision"
    write_text(limited / "1hr/0/handles.txt", "6892_10049_000000\n")
    write_text(limited / "1hr/5/handles.txt", "6892_10049_000001\n")
    write_text(limited / "9hr/handles.txt", "6892_10049_000002\n" + ("" if whole else "6892_10049_000099\n"))
    return root


def fleurs(root: Path, *, whole: bool = False) -> Path:
    top = root / "data/en_us"
    rows = {
        "train": [("903", "10004088536354799741", "A tornado, he said.", "a tornado he said", "FEMALE")],
        "dev": [("1549", "11011118384555219573", "Two people.", "two people", "MALE")],
        "test": [("1904", "10030759185046592331", "Not so.", "not so", "MALE")],
    }
    rows["train"].append(("903", "10008018061131222424", "A tornado, he said.", "a tornado he said", "MALE"))
    for split, lines in rows.items():
        if not whole and split == "train":
            lines = [*lines, ("1", "gone", "Gone.", "gone", "MALE"), ("2", "broken", "B.", "b", "MALE")]
            write_broken(top / "audio/train/broken.wav")
            write_audio(top / "audio/train/unnamed.wav")
        for _, name, *_ in lines[:2]:
            write_audio(top / f"audio/{split}/{name}.wav")
        table = [
            "\t".join((prompt, f"{name}.wav", raw, text, " ".join(text.replace(" ", "|")) + " |", "4800", gender))
            for prompt, name, raw, text, gender in lines
        ]
        write_text(top / f"{split}.tsv", "\n".join(table) + "\n")
    return root


def tedlium3(root: Path, *, whole: bool = False) -> Path:
    top = root / "TEDLIUM_release-3"
    talks = {
        "legacy/train": ("AlGore_2006", "AlGore", "<o,f0,male>"),
        "legacy/dev": ("AimeeMullins_2009P", "AimeeMullins", "<o,f0,female>"),
        "legacy/test": ("BillGates_2010", "BillGates", "<o,f0,male>"),
    }
    texts = ["thank you so much <unk> and it 's truly a great honor", "{NOISE} we can 't"]
    for folder, (talk, speaker, label) in talks.items():
        write_audio(top / folder / f"sph/{talk}.sph", seconds=4.0)
        lines = [f"{talk} 1 {speaker} 0.5 1.75 {label} {texts[0]}", f"{talk} 1 {speaker} 2 3.25 {label} {texts[1]}"]
        if folder != "legacy/train":
            lines.insert(0, f"{talk} 1 inter_segment_gap 0 0.5 <o,,unknown> ignore_time_segment_in_scoring")
        if not whole and folder == "legacy/test":
            lines.append(f"{talk} 1 {speaker} 3.25 9.5 {label} this lies beyond the end")
        write_text(top / folder / f"stm/{talk}.stm", "\n".join(lines) + "\n")
    if not whole:
        write_text(top / "legacy/train/stm/Gone_2001.stm", "Gone_2001 1 Gone 0 1 <o,f0,male> gone\n")
        write_audio(top / "legacy/train/sph/Untold_2002.sph")
        write_text(top / "legacy/dev/stm/Broken_2003.stm", "Broken_2003 1 Broken 0 1 <o,f0,male> broken\n")
        write_broken(top / "legacy/dev/sph/Broken_2003.sph")
        write_text(top / "legacy/dev/stm/Packed_2004.stm", "Packed_2004 1 Packed 0 1 <o,f0,male> packed\n")
        write_shorten(top / "legacy/dev/sph/Packed_2004.sph")
    return root


def write_shorten(path: Path) -> Path:
    """A SPHERE file whose header says that the samples are compressed with Shorten."""
    write_audio(path)
    content = path.read_bytes()
    old, new = b"sample_coding -s3 pcm", b"sample_coding -s26 pcm,embedded-shorten-v2.00"
    path.write_bytes(content[:1024].replace(old, new)[:1024] + b"ajkg\x02" + content[1024:])
    return path


def timit(root: Path, *, whole: bool = False, lower: bool = False, top: str = "data") -> Path:
    utterances = [
        ("TRAIN/DR1/FCJF0", "SA1", "She had your dark suit in greasy wash water all year."),
        ("TRAIN/DR1/FCJF0", "SX127", "The emperor had a mean temper."),
        ("TEST/DR1/FELC0", "SI756", "A big goat idly ambled through the farmyard."),
        ("TEST/DR1/FELC0", "SA1", "She had your dark suit in greasy wash water all year."),
        ("TEST/DR1/FAKS0", "SI943", "Production may fall far below expectations."),
        ("TEST/DR2/MRCZ0", "SX101", "The carpet cleaners shampooed our oriental rug."),
    ]

    def name(path: str) -> Path:
        return root / top / (path.lower() if lower else path)

    for folder, sentence, text in utterances:
        write_timit_audio(name(f"{folder}/{sentence}.WAV"))
        write_text(name(f"{folder}/{sentence}.TXT"), f"0 4800 {text} \n")
        write_text(name(f"{folder}/{sentence}.WRD"), "480 2400 she\n2400 4000 had\n")
        write_text(name(f"{folder}/{sentence}.PHN"), "0 480 h#\n480 2400 sh\n2400 4000 iy\n4000 4800 h#\n")
    if not whole:
        write_timit_audio(name("TRAIN/DR1/FCJF0/SX37.WAV"))
        write_text(name("TRAIN/DR1/FCJF0/SX217.TXT"), "0 4800 How good is your endurance?\n")
        write_broken(name("TEST/DR2/MRCZ0/SX11.WAV"))
        write_text(name("TEST/DR2/MRCZ0/SX11.TXT"), "0 4800 He will allow a rare lie.\n")
    return root


def write_timit_audio(path: Path) -> None:
    """NIST SPHERE whatever the case of the name."""
    written = write_audio(path.with_name(path.stem + ".sph"))
    written.rename(path)


def an4(root: Path, *, whole: bool = False, extension: str = "sph") -> Path:
    top = root / "an4"
    train = {"an4_clstk/fash/an251-fash-b": "YES", "an4_clstk/mgah/cen2-mgah-b": "G E O R G E"}
    test = {
        "an4test_clstk/fcaw/an406-fcaw-b": "RUBOUT G M E F THREE NINE",
        "an4test_clstk/marh/cen1-marh-b": "H O U S E R",
    }
    for key in (*train, *test):
        write_audio(top / f"wav/{key}.{extension}")
    if not whole:
        train["an4_clstk/fash/an252-fash-b"] = "GONE"
        test["an4test_clstk/marh/cen2-marh-b"] = "A L A N"
        write_broken(top / f"wav/an4test_clstk/marh/cen2-marh-b.{extension}")
        write_audio(top / f"wav/an4_clstk/fash/an999-fash-b.{extension}")
    lines = {
        "train": [f"<s> {text} </s> ({Path(key).name})" for key, text in train.items()],
        "test": [f"{text} ({Path(key).name})" for key, text in test.items()],
    }
    for split, keys in (("train", train), ("test", test)):
        write_text(top / f"etc/an4_{split}.fileids", "\n" + "\n".join(keys) + "\n")
        write_text(top / f"etc/an4_{split}.transcription", "\n" + "\n".join(lines[split]) + "\n")
    return root


def speech_commands(root: Path, *, whole: bool = False, top: str = "SpeechCommands/speech_commands_v0.02") -> Path:
    base = root / top
    names = ["right/94de6a6a_nohash_4.wav", "right/c518d1b1_nohash_0.wav", "zero/8a28231e_nohash_3.wav"]
    names += ["backward/0165e0e8_nohash_0.wav", "backward/0165e0e8_nohash_1.wav"]
    for name in names:
        write_audio(base / name)
    write_audio(base / "_background_noise_/running_tap.wav", seconds=1.0)
    write_text(base / "_background_noise_/README.md", "noise\n")
    write_text(base / "validation_list.txt", "right/c518d1b1_nohash_0.wav\n")
    gone = "" if whole else "zero/00000000_nohash_0.wav\n"
    write_text(base / "testing_list.txt", "zero/8a28231e_nohash_3.wav\nbackward/0165e0e8_nohash_1.wav\n" + gone)
    if not whole:
        write_broken(base / "right/11111111_nohash_0.wav")
        write_audio(base / "right/unnamed.wav")
    return root


def voxceleb1(root: Path, *, whole: bool = False) -> Path:
    keys = ["id10001/1zcIwhmdeo4/00001", "id10006/nLEBBc9oIFs/00003", "id10270/x6uYqmx31kE/00001"]
    keys += ["id10270/8jEAjG6SegY/00008", "id10309/0b1inHMAr6o/00001"]
    for key in keys:
        write_audio(root / f"wav/{key}.wav")
    write_text(
        root / "vox1_meta.csv",
        "VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\n"
        "id10001\tA.J._Buckley\tm\tIreland\tdev\nid10006\tAaron_Yoo\tm\tUSA\tdev\n"
        "id10270\tEartha_Kitt\tf\tUSA\ttest\nid10309\tEzra_Miller\tm\tUSA\ttest\n",
    )
    write_text(root / "iden_split.txt", "".join(f"{1 + n % 3} {key}.wav\n" for n, key in enumerate(keys)))
    pairs = f"1 {keys[2]}.wav {keys[3]}.wav\n0 {keys[2]}.wav {keys[4]}.wav\n"
    write_text(root / "veri_test.txt", pairs + ("" if whole else f"1 {keys[2]}.wav id10270/GONE0000000/00001.wav\n"))
    if not whole:
        write_broken(root / "wav/id10309/0b1inHMAr6o/00002.wav")
        write_audio(root / "wav/stray.wav")
    return root


def voxceleb2(root: Path, *, whole: bool = False) -> Path:
    for key in ("dev/aac/id00012/21Uxsk56VDQ/00001", "test/aac/id00017/01dfn2spqyE/00001"):
        write_audio(root / f"{key}.m4a")
    write_text(
        root / "vox2_meta.csv",
        "VoxCeleb2 ID ,VGGFace2 ID ,Gender ,Set \nid00012 ,n000012 ,m ,dev \nid00017 ,n000017 ,m ,test \n",
    )
    if not whole:
        write_broken(root / "dev/aac/id00012/21Uxsk56VDQ/00002.m4a")
    return root
