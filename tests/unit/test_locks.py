"""Files that belong to one process at a time."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from speechssl.errors import ConfigError
from speechssl.locks import locked

HOLDER = """
import multiprocessing, os, sys, time
from pathlib import Path
from speechssl.locks import locked
def work():
    print(os.getpid(), flush=True)
    time.sleep(100)
with locked(Path(sys.argv[1]), "busy"):
    multiprocessing.get_context("fork").Process(target=work).start()
    time.sleep(100)
"""


def test_it_is_one_holders_and_gone_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "new" / ".lock"
    with locked(path, "busy"):
        with pytest.raises(ConfigError, match="^busy$"), locked(path, "busy"):
            pass
        assert path.exists()
    assert not path.exists()
    with pytest.raises(KeyError), locked(path, "busy"):
        raise KeyError
    assert not path.exists()


def test_workers_of_a_killed_process_do_not_keep_it(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    worker = int(holder.stdout.readline())
    try:
        with pytest.raises(ConfigError, match="^busy$"), locked(path, "busy"):
            pass
        holder.kill()
        holder.wait()
        os.kill(worker, 0)  # it lives
        with locked(path, "busy"):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)
        holder.stdout.close()
