import importlib.util
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TOY = Path(__file__).with_name("toy.py")


@pytest.fixture(scope="session")
def toy() -> ModuleType:
    """The module toy.py, which is also a program."""
    spec = importlib.util.spec_from_file_location("toy", TOY)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["toy"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def in_child() -> Callable[..., int]:
    """Run a function in a process of its own; returns the exit code, negative for a signal."""

    def run(
        function: Callable[..., Any], *arguments: Any, kill_after_seconds: float | None = None, **named: Any
    ) -> int:
        child = multiprocessing.get_context("fork").Process(target=function, args=arguments, kwargs=named)
        child.start()
        if kill_after_seconds is not None:
            child.join(kill_after_seconds)
            if child.exitcode is None:
                assert child.pid is not None
                os.kill(child.pid, signal.SIGKILL)
        child.join(120)
        assert child.exitcode is not None, "the child hangs"
        return child.exitcode

    return run
