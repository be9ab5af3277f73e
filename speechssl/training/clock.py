"""Training time and throughput."""

import time

from speechssl.training.state import TrainingState


class Clock:
    """Times the updates, waiting for data included, validating and saving not; estimates the time left."""

    def __init__(self) -> None:
        self.start(step=0)

    def start(self, *, step: int) -> None:
        """Begin, `step` updates being done already."""
        self._started = self._since = time.perf_counter()
        self._first_step = step
        self._clear()

    def _clear(self) -> None:
        self._elapsed = self._waited = self._audio_seconds = 0.0

    def waited(self, seconds: float) -> None:
        """Time was spent waiting for a batch."""
        self._waited += seconds

    def heard(self, audio_seconds: float) -> None:
        """Audio went into an update."""
        self._audio_seconds += audio_seconds

    def read(self, state: TrainingState) -> None:
        """Add the time since the last reading to the run's training time."""
        now = time.perf_counter()
        state.seconds += now - self._since
        self._elapsed += now - self._since
        self._since = now

    def skip(self) -> None:
        """Do not count the time since the last reading."""
        self._since = time.perf_counter()

    def rates(self, step: int, max_steps: int) -> dict[str, float]:
        """Throughput and share of waiting since the last call; seconds left at this process's pace, all included."""
        elapsed = max(self._elapsed, 1e-9)
        pace = (time.perf_counter() - self._started) / max(step - self._first_step, 1)
        rates = {
            "audio_seconds_per_second": self._audio_seconds / elapsed,
            "data_wait": self._waited / elapsed,
            "seconds_left": pace * (max_steps - step),
        }
        self._clear()
        return rates
