"""Time and peak memory of work on a device, by one function for CUDA and the CPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

import torch

GIGABYTE = 10**9


def mark(device: torch.device) -> torch.cuda.Event | float:
    """A point in time on the device's own line of work; recording it doesn't wait for that."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def seconds_between(start: torch.cuda.Event | float, end: torch.cuda.Event | float) -> float:
    """Seconds from one mark to a later one; waits until the device has come to it."""
    if isinstance(start, float):
        return end - start
    end.synchronize()
    return start.elapsed_time(end) / 1000


@dataclass
class Record:
    """What a phase took, run by run: seconds, and bytes at the peak (0: not noted)."""

    seconds: list[float] = field(default_factory=list)
    allocated: int = 0
    reserved: int = 0

    def add(self, seconds: float) -> None:
        self.seconds.append(seconds)

    def note_peak(self, allocated: int = 0) -> None:
        """Keep the device's peak since `start_afresh`, or `allocated` bytes if those are more."""
        self.allocated = max(self.allocated, allocated)
        if torch.cuda.is_available():
            self.allocated = max(self.allocated, torch.cuda.max_memory_allocated())
            self.reserved = max(self.reserved, torch.cuda.max_memory_reserved())

    def summary(self) -> dict:
        """Median, fastest and slowest run in seconds; peaks in GB (10^9 bytes)."""
        return {
            "seconds": round(median(self.seconds), 5),
            "fastest": round(min(self.seconds), 5),
            "slowest": round(max(self.seconds), 5),
            "allocated_gb": round(self.allocated / GIGABYTE, 3),
            "reserved_gb": round(self.reserved / GIGABYTE, 3),
        }


def measure(work: Callable[[], object], repeats: int, device: torch.device) -> dict:
    """Summary of `repeats` runs of `work` after one that warms up.

    Each run starts with nothing else under way on the device, and its peak counts what was
    allocated before it (the model, for one).
    """
    record = Record()
    for run in range(repeats + 1):
        start_afresh(device)
        start = mark(device)
        work()
        seconds = seconds_between(start, mark(device))
        if run:
            record.add(seconds)
            record.note_peak()
    return record.summary()


def start_afresh(device: torch.device) -> None:
    """Wait for the device and forget its peak memory so far."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
