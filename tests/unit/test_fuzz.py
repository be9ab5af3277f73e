"""Whatever bytes a file holds, reading gives samples or an error that names it: no crash, hang or flood of memory."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st


def load_fuzzing() -> ModuleType:
    """The module beside this file; a worker process runs it as a script."""
    path = Path(__file__).with_name("fuzzing.py")
    spec = importlib.util.spec_from_file_location("fuzzing", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzzing"] = module
    spec.loader.exec_module(module)
    return module


fuzzing = load_fuzzing()
FORMATS = ("flac", "wav", "wav-float", "wav-ulaw", "aiff", "au", "ogg", "opus", "opus-sealed", "mp3")
MANIFESTS = ("manifest-jsonl", "manifest-parquet")
MOST_MEGABYTES = 900.0  # of which torch, numpy and pyarrow are about 600 once a manifest was read

# Half of the places lie where headers are.
places = st.one_of(st.floats(0, 0.05), st.floats(0, 1, exclude_max=True))
mutations = st.lists(
    st.tuples(st.sampled_from(fuzzing.KINDS), places, st.integers(0, (1 << 16) - 1)), min_size=1, max_size=5
)


class Reading:
    """A worker and the files to mutate; a short name in a failure's message."""

    def __init__(self, corpora: Path, folder: Path) -> None:
        self._folder = folder
        self._samples = fuzzing.samples_of(corpora, folder / "samples")
        self.worker = fuzzing.Worker(limit_seconds=120)

    def read(self, name: str, changes: list[object]) -> "fuzzing.Answer":
        like = self._samples[name]
        content = fuzzing.mutate(like.read_bytes(), changes)
        return self.worker.ask(fuzzing.request_for(name, content, like, self._folder / "samples"))


@pytest.fixture(scope="module")
def reading(corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reading]:
    found = Reading(corpora, tmp_path_factory.mktemp("fuzz"))
    yield found
    found.worker.close()


@pytest.mark.corpora
@pytest.mark.parametrize("name", [*FORMATS, *MANIFESTS, *fuzzing.IMPORTS])
def test_an_unchanged_file_is_read(name: str, reading: Reading) -> None:
    answer = reading.read(name, [])
    assert answer.outcome == "read", answer


@pytest.mark.corpora
@pytest.mark.parametrize("name", [*FORMATS, *MANIFESTS])
@settings(max_examples=25, deadline=None)
@given(changes=mutations)
def test_a_mutated_file_is_read_or_refused(name: str, reading: Reading, changes: list[object]) -> None:
    answer = reading.read(name, changes)
    assert answer.outcome in ("read", "refused"), answer
    assert answer.megabytes < MOST_MEGABYTES, answer


@pytest.mark.corpora
@pytest.mark.parametrize("name", fuzzing.IMPORTS)
@settings(max_examples=8, deadline=None)
@given(changes=mutations)
def test_a_mutated_manifest_of_another_tool_is_imported_or_refused(
    name: str, reading: Reading, changes: list[object]
) -> None:
    answer = reading.read(name, changes)
    assert answer.outcome in ("read", "refused"), answer
    assert answer.megabytes < MOST_MEGABYTES, answer


def test_a_worker_tells_of_a_crash_and_goes_on(tmp_path: Path) -> None:
    """The test above can fail: a process that is gone is an answer, and so is an error that is not ours."""
    process = fuzzing.Worker(limit_seconds=60)
    assert process.ask({"kind": "no such reader", "path": "x"}).outcome == "unforeseen error"
    process._started().kill()
    assert process.ask({"kind": "audio", "path": str(tmp_path / "none.wav")}).outcome == "crash (-9)"
    assert process.ask({"kind": "audio", "path": str(tmp_path / "none.wav")}).outcome == "refused"
    process.close()
