"""The architecture holds: who may import whom, and what `import speechssl` costs."""

import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "speechssl"

# A module imports only from lower floors, and from its own package.
FLOORS = {
    "errors": 0, "types": 0, "lengths": 0, "resources": 0, "files": 0.5, "locks": 0.5, "progress": 0, "quiet": 0,
    "audio": 1, "text": 1, "config": 1, "nn": 1, "model_directory": 1, "timing": 1, "jobs": 1,
    "extraction": 1.5,  # what is taken of an encoder, which uses it in turn
    "manifest": 2, "encoder": 2, "ctc": 2, "scoring": 2,
    "alignments": 2,
    "data": 3, "objectives": 3, "training": 3, "asr": 3, "evaluation": 3,
    "interop": 3.5, "tuning": 3.5, "frames": 3.5,  # between the models and the stages that load them
    "streaming": 3.5, "seams": 3.5, "language_model": 4,
    "finetune": 4, "evaluate": 4, "transcribe": 4, "embed": 4, "sklearn": 4, "probe": 4, "report": 4,
    "units": 4,
    "pretrain": 4.2,  # takes units as targets
    "search": 5, "embedding_map": 5,  # the last two read what embed wrote
    "align": 4, "calibrate": 4, "compare": 4, "plan": 4.5,  # plan builds what the stages would train
    "run_report": 5,  # runs stages for its page
    "label_efficiency": 5,  # fine-tunes and evaluates many times
    "quickstart": 6,  # the one stage that calls the other stages
    "cli": 7,
}  # fmt: skip
FACADES = {"__init__", "__main__"}  # name the public things; imported by nobody inside

# Stricter than the floors: these never meet.
STRANGERS = [
    ("data", {"encoder", "objectives"}),
    ("training", {"audio", "manifest", "encoder", "ctc", "text"}),
    ("report", {"encoder", "asr"}),
]


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def imported_modules(path: Path, *, at_import: bool = False) -> set[str]:
    """Modules of speechssl that a file imports, without the leading name; also inside functions unless `at_import`."""
    found = set()
    tree = ast.parse(path.read_text())
    for node in tree.body if at_import else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; write the full name"
            for alias in node.names:  # `from package import module` is an import of the module
                name = f"{node.module}.{alias.name}"
                is_module = (PACKAGE.parent / name.replace(".", "/")).with_suffix(".py").is_file()
                found.add(name if is_module or node.module == "speechssl" else str(node.module))
    return {name.removeprefix("speechssl.") for name in found if name.startswith("speechssl.")}


SOURCES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def top(name: str) -> str:
    return name.split(".")[0]


def test_every_module_has_a_floor() -> None:
    assert {top(name) for name in SOURCES} - FLOORS.keys() - FACADES == set()


def test_modules_import_only_lower_floors() -> None:
    wrong = [
        f"{name} (floor {FLOORS[top(name)]}) imports {other} (floor {FLOORS[top(other)]})"
        for name, path in SOURCES.items()
        if top(name) not in FACADES
        for other in sorted(imported_modules(path))
        if top(other) in FLOORS and top(other) != top(name) and FLOORS[top(other)] >= FLOORS[top(name)]
    ]
    assert wrong == []


def test_parts_that_must_not_know_each_other_do_not() -> None:
    wrong = [
        f"{name} imports {other}"
        for part, strangers in STRANGERS
        for name, path in SOURCES.items()
        if top(name) == part
        for other in sorted(imported_modules(path))
        if top(other) in strangers
    ]
    wrong += [
        f"{name} imports {other}"
        for name, path in SOURCES.items()
        if top(name) in {"encoder", "objectives"}
        for other in sorted(imported_modules(path))
        if top(other) == "data"
    ]
    assert wrong == []


def test_no_import_cycles() -> None:
    graph = {
        name: {other for other in imported_modules(path, at_import=True) if other in SOURCES and other != name}
        for name, path in SOURCES.items()
        if top(name) not in FACADES
    }
    # A package's __init__ that re-exports its modules is no cycle as long as they do not import the package itself.
    finished: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail, name])
        if name not in finished:
            for other in sorted(graph.get(name, ())):
                visit(other, (*trail, name))
            finished.add(name)

    for name in graph:
        visit(name, ())


def test_floors_are_checked_on_code_that_breaks_them(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text("def f():\n    from speechssl.encoder import x\n    import speechssl.data.batches\n")
    assert {top(name) for name in imported_modules(path)} == {"encoder", "data"}


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_speechssl_is_quick_and_pulls_in_no_heavy_package(
    record_property: Callable[[str, object], None],
) -> None:
    heavy = "fairseq2 transformers librosa matplotlib ray jsonargparse".split()
    seconds, pulled = run_python(
        "import time, sys, torch; start = time.perf_counter(); import speechssl; end = time.perf_counter();"
        f"print(end - start, [name for name in {heavy} if name in sys.modules], sep='\\n')"
    ).splitlines()
    record_property("seconds_beyond_torch", seconds)
    assert pulled == "[]"
    assert float(seconds) < 1.0


OPTIONAL = (
    "fairseq2 transformers librosa matplotlib ray jsonargparse rich soundfile soxr av jiwer pyarrow scipy sklearn "
    "sentencepiece whisper_normalizer fsspec pandas"
).split()


def test_manifests_audio_texts_and_reports_work_without_torch() -> None:
    """It takes half a gigabyte and 1.5 s, for what has no tensor in it."""
    light = {"manifest", "audio", "text", "scoring", "evaluation", "report", "compare"}
    modules = [name for name in SOURCES if top(name) in light]
    assert {top(name) for name in modules} == light
    heavy = "torch torchaudio scipy sklearn librosa matplotlib"
    run_python(
        f"import sys\nfor name in {heavy.split()}:\n    sys.modules[name] = None\n"
        + "".join(f"import speechssl.{name}\n" for name in modules)
    )


def test_core_works_with_torch_numpy_safetensors_and_yaml_alone() -> None:
    core = {"nn", "encoder", "objectives", "training", "lengths", "types"}
    modules = [name for name in SOURCES if top(name) in core]
    assert {top(name) for name in modules} == core
    # A None entry makes `import name` raise ImportError. torch itself tries some of these, and copes without.
    run_python(
        "import sys, torch\n"
        f"for name in {OPTIONAL}:\n    sys.modules.setdefault(name, None)\n"
        + "".join(f"import speechssl.{name}\n" for name in modules)
    )
