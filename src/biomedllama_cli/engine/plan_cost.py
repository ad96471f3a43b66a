"""Steps, time and bytes on disk of a run that has not begun: pure functions."""

from __future__ import annotations

from dataclasses import dataclass

from biomedllama_cli.engine.traffic import LinkBytes
from biomedllama_cli.settings.plan import DeviceName

GIB = 2**30

_STATE_BYTES = 12
"""Of one parameter in a checkpoint: the fp32 weight and two fp32 moments."""


@dataclass(frozen=True)
class DeviceFacts:
    """What a plan knows of a device.

    Attributes:
        memory: as PyTorch reports it (in bytes), a little less than its name says.
        inside_bandwidth: NVLink, one way (in bytes per second).
    """

    memory: float
    inside_bandwidth: float


# Memory as `torch.cuda.get_device_properties` shows it; NVLink 3 and 4 move 600 and 900 GB/s both ways together
# (NVIDIA's data sheets). Peaks are in models/flops.py.
DEVICES: dict[DeviceName, DeviceFacts] = {
    "A100-40GB": DeviceFacts(39.4 * GIB, 300e9),
    "A100-80GB": DeviceFacts(79.2 * GIB, 300e9),
    "H100-80GB": DeviceFacts(79.1 * GIB, 450e9),
    "H200-141GB": DeviceFacts(139.8 * GIB, 450e9),
}


def estimate_steps(rows: float, global_batch_size: int, max_steps: int | None = None) -> int:
    """Return the steps of a run whose number of rows is an estimate, so that parts of a step mean nothing.

    The published run: 63e9 tokens in rows of 2048, and 35 million documents with a row each.

    >>> estimate_steps(63e9 / 2048, 2048), estimate_steps(35e6, 2048)
    (15020, 17090)
    """
    steps = max(1, round(rows / global_batch_size))
    return steps if max_steps is None else min(steps, max_steps)


@dataclass(frozen=True)
class StepTime:
    """How long one step takes at least.

    Attributes:
        compute: at the assumed share of the peak (in seconds), None where the peak is not known.
        inside: to send what stays in a node (in seconds), None where a bandwidth is not known.
        across: to send what leaves a node (in seconds), likewise.
    """

    compute: float | None
    inside: float | None
    across: float | None

    @property
    def total(self) -> float | None:
        """Return the longest of them, as if all else were hidden behind it (in seconds)."""
        if self.compute is None:
            return None
        return max(self.compute, self.inside or 0.0, self.across or 0.0)

    @property
    def bound(self) -> str:
        """Return what the step waits for.

        >>> StepTime(40.0, 3.0, 257.0).bound, StepTime(40.0, 3.0, None).bound
        ('the network across nodes', 'computing')
        """
        slowest = max(self.compute or 0.0, self.inside or 0.0, self.across or 0.0)
        if slowest == (self.compute or 0.0):
            return "computing"
        return "the network across nodes" if slowest == self.across else "the links inside a node"


def time_step(
    tokens: int,
    flops_per_token: float,
    *,
    devices: int,
    peak_flops: float | None,
    mfu: float,
    links: LinkBytes,
    inside_bandwidth: float | None,
    across_bandwidth: float | None,
) -> StepTime:
    """Return how long one step takes at least.

    Args:
        tokens: of a step.
        flops_per_token: forward and backward.
        devices: that share the work.
        peak_flops: FLOP/s of one device.
        mfu: share of the peak that is assumed to be used.
        links: bytes of a step over the links of a node.
        inside_bandwidth: of one device (in bytes per second, one way).
        across_bandwidth: of one node (in bytes per second, one way).

    The published run, gradients summed over 8 nodes once a step:

    >>> found = time_step(2048 * 2048, 6 * 6.74e9, devices=32, peak_flops=312e12, mfu=0.42,
    ...                   links=LinkBytes(0, 47_180_000_000), inside_bandwidth=None, across_bandwidth=13e9)
    >>> round(found.compute, 1), round(found.across, 1)
    (40.4, 3.6)
    """

    def seconds(sent: int, bandwidth: float | None) -> float | None:
        if sent == 0:
            return 0.0
        return None if bandwidth is None else sent / bandwidth

    compute = None if peak_flops is None else tokens * flops_per_token / (devices * peak_flops * mfu)
    return StepTime(compute, seconds(links.inside, inside_bandwidth), seconds(links.across, across_bandwidth))


def count_checkpoints(steps: int, save_every: int, keep: int, keep_every: int | None) -> int:
    """Return the most checkpoints that a run has on disk at once, one being written included.

    >>> count_checkpoints(15_020, save_every=3_000, keep=3, keep_every=None)
    4
    >>> count_checkpoints(15_020, save_every=1_000, keep=3, keep_every=5_000)  # 5,000 and 10,000 stay as well
    6
    >>> count_checkpoints(100, save_every=1_000, keep=3, keep_every=None)
    1
    """
    written = steps // save_every + (1 if steps % save_every else 0)
    kept = 0
    if keep_every is not None:
        newest = max(0, steps - keep * save_every)  # multiples among the newest are not there twice
        kept = newest // keep_every
    return min(written, keep + 1 + kept)


def checkpoint_bytes(parameters: int) -> int:
    """Return the size of one checkpoint; tokenizer, random states and progress are small beside it.

    >>> round(checkpoint_bytes(6_738_415_616) / 2**30, 1)
    75.3
    """
    return _STATE_BYTES * parameters
