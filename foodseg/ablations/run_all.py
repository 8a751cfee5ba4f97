"""All runs as separate processes, as many at once as there are cores; a table after each seed.

What is finished and current is left alone, what was killed goes on, and what fails is written down
and stops nothing else. A run's process ends with this one, however this one ends.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from foodseg.ablations.execute import write_failure
from foodseg.ablations.frame import ended_runs
from foodseg.ablations.outputs import write_results
from foodseg.ablations.rows import Row
from foodseg.ablations.runs import Run, Runs, runs_of
from foodseg.common.errors import DataError
from foodseg.common.files import writing
from foodseg.common.machine_memory import physical_bytes
from foodseg.common.progress import tqdm
from foodseg.presets import Preset

SECONDS_BETWEEN_LOOKS = 0.2
SECONDS_BETWEEN_ESTIMATES = 2
SECONDS_TO_END = 10
BYTES_OF_A_RUN = 2 * 10**9  # on a CPU; the kitchen's peak
Command = Callable[[Runs, Run], list[str]]
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"


def child_command(runs: Runs, run: Run) -> list[str]:
    """What executes one run and ends with the process that started it."""
    arguments = [*run.arguments(runs.preset), "--until-stdin-closes"]
    return [sys.executable, "-m", "foodseg.ablations", *arguments]


def run_table(
    runs: Runs,
    rows: Sequence[Row],
    seeds: Sequence[int],
    *,
    split: str = "test",
    jobs: int | None = None,
    command: Command = child_command,
) -> int:
    """Run what is not finished, seed by seed; returns 1 if a run is to be tried again.

    The table is written whenever all rows of a seed have ended, and at the end, also where an
    interrupt or a time limit (SIGTERM) is the end and a run has ended before it. Raises DataError
    where `split` has none of the rows: the bound has no run on validation plates.
    """
    wanted = runs_of(rows, seeds, split)
    if not wanted:
        raise DataError(f"rows: none of these is asked on the {split} plates; choose others.")

    def write(ended: Sequence[int]) -> None:
        tqdm.write(write_results(runs, rows, ended, split))

    try:
        failed = run_all(runs, wanted, jobs, command, after_seed=write)
    except (KeyboardInterrupt, SystemExit):
        if ended_runs(runs, wanted):
            write(seeds)
        raise
    write(seeds)
    return int(any(runs.outcome(run).get("again") for run in failed))


def runs_at_once(preset: Preset) -> int:
    """One for each core that this process may use and that has memory for one; on a GPU one."""
    if preset.device != "cpu":
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = physical_bytes()
    weights = sum(path.stat().st_size for path in Path(preset.mllm).glob("*.safetensors"))
    return max(1, min(cores or 1, memory // (BYTES_OF_A_RUN + 2 * weights)))


def run_all(
    runs: Runs,
    wanted: Sequence[Run],
    jobs: int | None = None,
    command: Command = child_command,
    after_seed: Callable[[list[int]], None] = lambda ended: None,
) -> list[Run]:
    """Execute what is not finished, at most `jobs` runs at once; returns those that failed.

    jobs: None for one on each core. after_seed: called with the seeds of which no run is left,
    whenever there is one more and other seeds go on. Interrupted, it ends its processes; started
    again, it goes on from checkpoints. Raises DataError for less than one run at once.
    """
    jobs = runs_at_once(runs.preset) if jobs is None else jobs
    if jobs < 1:
        raise DataError(f"--jobs {jobs}: nothing would ever start; give 1 or more.")
    waiting = [run for run in wanted if not runs.finished(run)]
    ended = [run for run in wanted if run not in waiting]
    measured = [seconds_of(runs.outcome(run)) for run in ended if run.row.trained]
    children: list[_Child] = []
    failed: list[Run] = []
    estimated, open_seeds = 0.0, {run.seed for run in waiting}
    bar = tqdm(total=len(wanted), initial=len(ended), desc="runs", bar_format=_BAR)
    try:
        while waiting or children:
            while len(children) < jobs and (run := _next(waiting, children)):
                waiting.remove(run)
                children.append(_Child.start(runs, run, command))
            for child in [child for child in children if child.process.poll() is not None]:
                children.remove(child)
                if not _report(runs, child):
                    failed.append(child.run)
                elif child.run.row.trained:
                    measured.append(seconds_of(runs.outcome(child.run)))
                bar.update()
            left = {run.seed for run in [*waiting, *(child.run for child in children)]}
            if left and left != open_seeds:
                after_seed(sorted({run.seed for run in wanted} - left))
            open_seeds = left
            if time.monotonic() - estimated > SECONDS_BETWEEN_ESTIMATES:
                estimated = time.monotonic()
                bar.set_postfix_str(_what_is_left(measured, len(waiting), children, jobs))
            time.sleep(SECONDS_BETWEEN_LOOKS if children else 0)
        bar.set_postfix_str("all ended")
    finally:
        _stop(children)
        bar.close()
    return failed


def _next(waiting: Sequence[Run], children: Sequence[_Child]) -> Run | None:
    """The first that waits for no other: two processes can't train one first stage."""
    training = [run for child in children for run in (child.run, child.run.first) if run]
    free = (run for run in waiting if run not in training and run.first not in training)
    return next(free, None)


def _what_is_left(
    measured: Sequence[float], waiting: int, children: Sequence[_Child], jobs: int
) -> str:
    left = seconds_left(measured, waiting, [child.seconds for child in children], jobs)
    now = ", ".join(child.run.name for child in children) or "nothing"
    return f"{'?' if left is None else tqdm.format_interval(left)} left; now {now}"


def seconds_of(outcome: dict) -> float:
    """What a run takes from nothing: a notebook may have trained it, and only answers were left."""
    return max(outcome["wall_seconds"], outcome.get("seconds") or 0.0)


def seconds_left(
    measured: Sequence[float], waiting: int, running: Sequence[float], jobs: int
) -> float | None:
    """Estimate from the seconds `measured`; None before the first. running: seconds so far."""
    if not measured:
        return None
    mean = fmean(measured)
    rest = [max(0.0, mean - so_far) for so_far in running]
    # Shared by all processes, but no run is quicker than itself.
    return max([(mean * waiting + sum(rest)) / jobs, *rest])


def _report(runs: Runs, child: _Child) -> bool:
    """Print a line on how a run ended; returns whether it has scores."""
    run, code = child.run, child.process.returncode
    if runs.outcome(run) is None:  # killed, so it could give no reason
        how = f"signal {-code}" if code < 0 else f"status {code}"
        write_failure(runs, run, f"its process ended with {how}; output.txt may say why")
    outcome = runs.outcome(run)
    if reason := outcome.get("failure"):
        where = f"runs/{runs.preset.name}/ablations/{run.name}/output.txt"
        tqdm.write(f"{run.title}: failed after {child.seconds:.0f} s: {reason} ({where})")
        return False
    scores = f"gIoU {outcome['giou']:.3f}, cIoU {outcome['ciou']:.3f}"
    tqdm.write(f"{run.title}: {scores}, {child.seconds:.0f} s")
    return True


def _stop(children: Sequence[_Child]) -> None:
    """Checkpoints are written whole or not at all, so a child may be ended at any time."""
    for child in children:
        child.process.terminate()
    for child in children:
        try:
            child.process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            child.process.kill()
            child.process.wait()


@dataclass(eq=False)
class _Child:
    """One run's process, whose output goes to output.txt."""

    run: Run
    process: subprocess.Popen
    started: float

    @classmethod
    def start(cls, runs: Runs, run: Run, command: Command) -> _Child:
        folder = runs.folder(run)
        with writing(folder / "output.txt"):
            folder.mkdir(parents=True, exist_ok=True)
            # A reason or a result of other settings must not pass for this run's.
            (folder / "outcome.json").unlink(missing_ok=True)
            output = (folder / "output.txt").open("ab")
        threads = {"OMP_NUM_THREADS": "1"} if runs.preset.device == "cpu" else {}
        with output:
            process = subprocess.Popen(
                command(runs, run),
                # Closed with this process, however it ends: the child's sign to end as well.
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | threads,
                # Ctrl-C in a terminal goes to this process alone, which ends its children.
                start_new_session=True,
            )
        return cls(run, process, time.monotonic())

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started
