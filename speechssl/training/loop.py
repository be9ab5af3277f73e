"""The training loop: updates, validation, checkpoints, exact resume. It knows no audio; see `Task`.

A run is a function of its configuration, data and number of updates: all randomness derives from seed and step, the
batch stream starts at any number, and a checkpoint holds what is left (weights, optimizer, counters). So a run that
is killed and started again ends with the same bits, on the CPU, as one that never stopped.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from speechssl.errors import ConfigError, TrainingError
from speechssl.training.allocator import keep_freed_memory
from speechssl.training.checkpoint import CheckpointStore
from speechssl.training.clock import Clock
from speechssl.training.monitor import Diagnosis, Monitor
from speechssl.training.optim import build_optimizer, learning_rate, load_optimizer_tensors, optimizer_tensors
from speechssl.training.profiling import Profiler
from speechssl.training.progress import make_progress
from speechssl.training.randomness import seeded
from speechssl.training.records import MetricsLog, NoLog
from speechssl.training.run_directory import prepared_run
from speechssl.training.signals import StopSignals
from speechssl.training.state import PendingMetrics, TrainingState
from speechssl.training.task import Task, TrainingConfig, TrainingResult
from speechssl.training.tensors import load_module, without_aliases
from speechssl.training.update import Updater

logger = logging.getLogger(__name__)

StopReason = Literal["max_steps", "early_stopping", "signal"]


def train(
    task: Task,
    *,
    config: TrainingConfig,
    run_directory: Path,
    resolved_config: Mapping[str, Any],
    fingerprint: str,
    description: str,
    diagnoses: Sequence[Diagnosis] = (),
    resume: bool = True,
    profiler: Profiler | None = None,
) -> TrainingResult:
    """Train `task` up to `config.max_steps` updates, on the device where its modules are.

    Args:
        task: model, objective and data.
        config: how to train.
        run_directory: made if missing; holds config.yaml, metrics.jsonl, tensorboard/, checkpoints/, environment.json.
        resolved_config: the whole stage's configuration as plain values; written to config.yaml, and compared with it
            when a run is resumed.
        fingerprint: of the data; a run is resumed only on the data it began with.
        description: a few words for the progress display.
        diagnoses: what is wrong before the first update, with the data for instance; reported as the monitor's own.
        resume: continue a run found in `run_directory`; False refuses to touch one.
        profiler: told of every update, to show where some of them go.

    Raises:
        ConfigError: the directory holds a run with another configuration or other data.
        CheckpointError: the run has checkpoints but all are damaged.
        TrainingError: the monitor stopped the run (a checkpoint was saved first).
    """
    store = CheckpointStore(Path(run_directory) / "checkpoints")
    previous_threads = torch.get_num_threads()
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    try:
        with prepared_run(
            Path(run_directory), store, resolved_config=resolved_config, fingerprint=fingerprint,
            description=description, resume=resume,
        ) as found:  # fmt: skip
            run = _Run(task, config, store, fingerprint=fingerprint, diagnoses=diagnoses, profiler=profiler)
            if found is not None:
                run.restore(*found)
            run.together.share_weights(task.modules)
            with seeded(run.device, config.seed):  # what is drawn outside a step leaves the caller's generators alone
                return run.train(Path(run_directory), description)
    finally:
        torch.set_num_threads(previous_threads)


class _Run:
    """One call of `train`."""

    def __init__(
        self,
        task: Task,
        config: TrainingConfig,
        store: CheckpointStore,
        *,
        fingerprint: str,
        diagnoses: Sequence[Diagnosis],
        profiler: Profiler | None = None,
    ) -> None:
        self.task = task
        self.known = diagnoses
        self.config = config
        self.store = store
        self.fingerprint = fingerprint
        self.device = _device(task.modules)
        self.optimizer = build_optimizer(task.parameter_groups(), config.optim)
        self.state = TrainingState()
        self.monitor = Monitor(config.monitor)
        self.pending = PendingMetrics()
        self.clock = Clock()
        self.profiler = profiler
        self.updater = Updater(
            task, config, self.optimizer, device=self.device, clock=self.clock, profiler=profiler
        )  # fmt: skip
        self.together = self.updater.together
        self.saved_step: int | None = None
        self.stopped_by_signal: int | None = None

    def restore(self, step: int, values: Mapping[str, Any]) -> None:
        """Take up a checkpoint."""
        folder = self.store.path(step)
        for name, module in self.task.modules.items():
            load_module(module, self.store.read_tensors(step, name), source=folder / f"{name}.safetensors")
        load_optimizer_tensors(self.optimizer, self.task.modules, self.store.read_tensors(step, "optimizer"))
        self.state = TrainingState.from_dict(values, source=str(folder / "state.json"))
        self.monitor.load_state(self.state.monitor)
        self.saved_step = step
        if self.together.rank == 0:
            self._prune()  # the process may have ended between writing a checkpoint and this

    def train(self, run_directory: Path, description: str) -> TrainingResult:
        """Everything from the first (or next) update to the result."""
        config, state = self.config, self.state
        if (reason := self._finished()) is not None and self.saved_step == state.step:
            return self._result(reason, None)
        self._raise_if_stopped()
        if self.device.type == "cpu":
            keep_freed_memory()
        prepare(self.task, config)
        if state.step and self.together.rank == 0:
            logger.info("%s: resuming after step %d of %d", description, state.step, config.max_steps)
        is_first = self.together.rank == 0
        self.log = MetricsLog(run_directory, step=state.step, tensorboard=config.tensorboard) if is_first else NoLog()
        self.progress = make_progress(description, step=state.step, max_steps=config.max_steps, is_shown=is_first)
        if self.profiler is not None:
            self.profiler.start(self.task.modules, run_directory, self.device)
        self.updater.start(state.step)
        self.clock.start(step=state.step)
        try:
            self._report_known()
            with StopSignals() as signals:
                reason = self._steps(signals)
            return self._result(reason, self.stopped_by_signal)
        finally:
            if self.profiler is not None:
                self.profiler.close()
            self.progress.close()
            self.log.close()
            self.updater.close()

    def _steps(self, signals: StopSignals) -> StopReason:
        while (reason := self._finished()) is None:
            batches = self._fetch(signals)
            told = self.together.tell({"signal": signals.received, "seconds": sum(seconds for _, seconds in batches)})
            self.stopped_by_signal = next((one["signal"] for one in told if one["signal"] is not None), None)
            if self.stopped_by_signal is not None:
                break  # all of them before the same update
            values = self.updater.update(self.state.step, [batch for batch, _ in batches])
            seconds = sum(one["seconds"] for one in told)
            self.clock.heard(seconds)
            self.state.audio_seconds += seconds
            self.state.step += 1
            if self.profiler is not None:
                self.profiler.step()
            self.pending.append(self.state.step, values)
            self.progress.advance(self.state.step)
            self._after_update()
        if self.saved_step != self.state.step:
            self._read_metrics()
            self._save()
        if reason is None and self.together.rank == 0:
            logger.warning("stopped by a signal after step %d; the same command goes on from there", self.state.step)
        return reason or "signal"

    def _fetch(self, signals: StopSignals) -> list[tuple[Any, float]]:
        """The next micro-batches; none after a signal."""
        if signals.received is not None:
            return []
        try:
            return self.updater.fetch()
        except Exception:
            # A signal to the whole process group ends loader workers before us.
            if signals.received is None:
                raise
            return []

    def _finished(self) -> StopReason | None:
        patience = self.config.early_stopping_patience
        if self.state.step >= self.config.max_steps:
            return "max_steps"
        if patience is not None and self.state.validations_since_best >= patience:
            return "early_stopping"
        return None

    def _after_update(self) -> None:
        """Log, validate and save where it is due."""
        config, step = self.config, self.state.step
        last = step >= config.max_steps
        log_due = step % config.log_interval == 0 or last
        validate_due = config.validate_interval is not None and (step % config.validate_interval == 0 or last)
        save_due = step % config.checkpoint_interval == 0
        fatal = self._read_metrics() if log_due or validate_due or save_due else None
        if log_due:
            self._log()
        if validate_due and fatal is None:
            save_due = self._validate() or save_due
        if fatal is not None:
            self.state.stopped_by = asdict(fatal)
            self._save()
            raise TrainingError(f"training stopped after step {step}: {fatal.message}")
        if save_due:
            self._save()

    def _read_metrics(self) -> Diagnosis | None:
        """Move pending metrics into averages and monitor; returns the first diagnosis that must end the run."""
        fatal = None
        for step, values in self.pending.drain():
            self.state.skipped_updates += int(values.pop("skipped"))
            self.state.add(values)
            for diagnosis in self.monitor.observe(step, values):
                self._report(diagnosis)
                if fatal is None and self.monitor.must_stop(diagnosis):
                    fatal = diagnosis
        return fatal

    def _report_known(self) -> None:
        """What was wrong before the first update; a run that goes on has said so already."""
        if self.state.step:
            return
        for diagnosis in self.known:
            if diagnosis.kind not in self.config.monitor.ignore:
                self._report(diagnosis)
        ignored = self.config.monitor.ignore
        fatal = [one for one in self.known if one.kind not in ignored and self.monitor.must_stop(one)]
        if fatal:
            raise TrainingError(f"training stopped before the first step: {fatal[0].message}")

    def _report(self, diagnosis: Diagnosis) -> None:
        if self.together.rank == 0:
            logger.warning("step %d, %s: %s", diagnosis.step, diagnosis.kind.replace("_", " "), diagnosis.message)
        self.log.event(self.state.step, "diagnosis", **asdict(diagnosis) | {"step": self.state.step})
        self.state.diagnoses.append(asdict(diagnosis))

    def _raise_if_stopped(self) -> None:
        """A run that the monitor ended stays ended until the configuration lets it go on."""
        if self.state.stopped_by is None:
            return
        diagnosis = Diagnosis(**self.state.stopped_by)
        if self.monitor.must_stop(diagnosis):
            raise TrainingError(
                f"the monitor stopped this run after step {diagnosis.step}: {diagnosis.message} To begin anew, use"
                " another run directory; to go on all the same, set monitor.action=warn"
            )
        self.state.stopped_by = None

    def _log(self) -> None:
        config, state = self.config, self.state
        self.clock.read(state)
        averages = state.take_averages()
        averages["learning_rate"] = learning_rate(config.optim, state.step - 1, config.max_steps)
        averages["skipped_updates"] = float(state.skipped_updates)
        averages["audio_hours"] = state.audio_seconds / 3600
        averages.update(self.clock.rates(state.step, config.max_steps))
        state.metrics.update(averages)
        self.log.scalars(state.step, averages)
        self.progress.metrics(state.step, averages)

    def _validate(self) -> bool:
        """Validate; True when this is among the best checkpoints to keep."""
        config, state = self.config, self.state
        metrics: dict[str, float] = {}
        if self.together.rank == 0:
            with torch.no_grad(), seeded(self.device, config.seed, "validate"), self.updater.autocast():
                metrics = {name: float(value) for name, value in self.task.validate(state.step).items()}
        metrics = self.together.first_tells(metrics)
        self.clock.skip()
        if not metrics and config.early_stopping_patience is None:
            return False  # the task has nothing to validate on
        state.metrics.update(metrics)
        self.log.scalars(state.step, metrics)
        self.progress.metrics(state.step, metrics)
        for diagnosis in self.monitor.observe_validation(state.step, metrics, best_metric=config.best_metric):
            self._report(diagnosis)
        if config.best_metric not in metrics:
            known = ", ".join(sorted(metrics)) or "none"
            raise ConfigError(f"best_metric is '{config.best_metric}', but validation gives {known}; choose one")
        value = metrics[config.best_metric]
        state.record_validation(value, mode=config.best_mode)
        return state.rank_checkpoint(value, state.step, mode=config.best_mode, keep=config.keep_best)

    def _save(self) -> None:
        state = self.state
        if self.together.rank > 0:
            self.saved_step = state.step
            return
        self.clock.read(state)
        state.monitor = self.monitor.state()
        tensors = {
            name: without_aliases(module.state_dict()) for name, module in self.task.modules.items() if name != "model"
        }
        tensors["optimizer"] = optimizer_tensors(self.optimizer, self.task.modules)
        self.log.flush()
        self.store.write(
            state.step,
            save_model=self.task.save_model,
            tensors=tensors,
            state={**state.to_dict(), "fingerprint": self.fingerprint},
        )
        self.saved_step = state.step
        self._prune()
        self.clock.skip()

    def _prune(self) -> None:
        best = [step for _, step in self.state.best_checkpoints]
        self.store.prune(step=self.state.step, best=best, keep_newest=self.config.keep_checkpoints)

    def _result(self, reason: StopReason, signal_number: int | None) -> TrainingResult:
        state = self.state
        best = self.store.path(state.best_checkpoints[0][1]) if state.best_checkpoints else None
        return TrainingResult(
            steps=state.step,
            metrics=dict(state.metrics),
            best_metric=state.best_metric,
            best_checkpoint=best,
            last_checkpoint=self.store.path(state.step),
            stopped_because=reason,
            seconds=state.seconds,
            audio_seconds=state.audio_seconds,
            diagnoses=tuple(Diagnosis(**values) for values in state.diagnoses),
            signal_number=signal_number if reason == "signal" else None,
        )


def _device(modules: Mapping[str, nn.Module]) -> torch.device:
    for module in modules.values():
        for parameter in module.parameters():
            return parameter.device
    raise ValueError("the task's modules have no parameters")


def prepare(task: Task, config: TrainingConfig) -> None:
    """Compile the task, and have it keep fewer activations, as configured."""
    for name, wanted in (("compile", config.compile), ("checkpoint_activations", config.checkpoint_activations)):
        if not wanted:
            continue
        method = getattr(task, name, None)
        if method is None:
            logger.warning("%s is set, but this task has no way to do so; training goes on without it", name)
        else:
            method()
