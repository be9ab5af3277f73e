"""Work on many recordings at once, in threads: decoding happens outside of Python's lock."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from speechssl import audio
from speechssl.errors import AudioError
from speechssl.jobs import num_cores
from speechssl.progress import Progress

Item = TypeVar("Item")
Result = TypeVar("Result")

_WINDOW = 4096


def map_in_threads(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    num_items: int,
    num_workers: int | None = None,
    progress: Progress | None = None,
) -> Iterator[Result]:
    """Results of `function` in the order of `items`, a bounded number of them in flight."""
    remaining = iter(items)
    done = 0
    with ThreadPoolExecutor(num_workers or default_num_workers()) as pool:
        while window := list(islice(remaining, _WINDOW)):
            for result in pool.map(function, window):
                done += 1
                if progress is not None and (done % 64 == 0 or done == num_items):
                    progress(done, num_items)
                yield result


def map_ahead(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Results of `function` in the order of `items`, worked out in threads a few items ahead of who takes them.

    For Arrow and NumPy, which work outside of Python's lock, on batches that are too large to hold many of.
    """
    num_workers = default_num_workers()
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(num_workers) as pool:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > num_workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def default_num_workers() -> int:
    """As many as this process may use."""
    return num_cores()


def try_probe(path: str) -> audio.AudioInfo | AudioError:
    """A recording's header, or why it cannot be had; never raises for a bad recording."""
    try:
        return audio.probe(path)
    except AudioError as error:
        return error
