"""Start several Python processes that form one gloo job on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from node_commands import find_ports

from biomedllama_cli.corpus.manifest import (
    ByteCounts,
    CorpusManifest,
    DocumentCounts,
    ShardEntry,
    TokenCounts,
    TokenizerIdentity,
)
from biomedllama_cli.corpus.shards import ShardWriter

collect_ignore = [
    "adapter_worker.py",
    "checkpoint_worker.py",
    "context_worker.py",
    "forked_job.py",
    "collective_log.py",
    "held_command.py",
    "hybrid_reference.py",
    "hybrid_worker.py",
    "launch_stub.py",
    "packing_worker.py",
    "speed_worker.py",
    "slurm_commands.py",
    "straggler_worker.py",
]  # programs that tests start, not modules to look for doctests in

EOS, VOCABULARY = 2, 64
HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent.parent / "src"
# What a job around the tests may have set must not reach the jobs that the tests start.
_JOB_PREFIXES = ("SLURM_", "ACCELERATE_", "FSDP_", "PARALLELISM_CONFIG_", "_BIOMEDLLAMA_", "TORCHELASTIC_")
_JOB_NAMES = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts processes, so that `-m "not distributed"` leaves it out."""
    for item in items:
        if HERE in item.path.parents and "job_environment" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.distributed)


@pytest.fixture(scope="session")
def job_environment() -> dict[str, str]:
    """Return an environment for child processes: this package, one thread, no job around them."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in _JOB_NAMES and not name.startswith(_JOB_PREFIXES)
    }
    environment["PYTHONPATH"] = os.pathsep.join([str(SOURCE), environment.get("PYTHONPATH", "")])
    return {**environment, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="session")
def run_ranks(job_environment: dict[str, str]) -> Callable[..., None]:
    """Return a function that runs a script of this folder in `world_size` processes and fails with their output."""

    def run(script: str, *arguments: str, world_size: int) -> None:
        port = str(find_ports())
        ranks = [
            subprocess.Popen(
                [sys.executable, str(HERE / script), *arguments],
                env={
                    **job_environment,
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "WORLD_SIZE": str(world_size),
                    "LOCAL_WORLD_SIZE": str(world_size),
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": port,
                },
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in range(world_size)
        ]
        try:
            end = time.monotonic() + 300
            while any(rank.poll() is None for rank in ranks) and time.monotonic() < end:
                if any(rank.poll() for rank in ranks):
                    time.sleep(1)  # the others may have the cause; longer, they would wait in vain
                    break
                time.sleep(0.1)
            failed = [number for number, rank in enumerate(ranks) if rank.poll() != 0]
        finally:
            for rank in ranks:
                rank.kill()
        outputs = [rank.communicate()[0] for rank in ranks]
        assert not failed, "\n".join(f"rank {number}:\n{outputs[number]}" for number in failed)

    return run


@pytest.fixture(scope="session")
def corpus_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small corpus of random documents, as `prepare` lays one out."""
    folder = tmp_path_factory.mktemp("workspace") / "corpora" / "random"
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "tokenizer" / "tokenizer_config.json").write_text("{}")
    generator = np.random.default_rng(0)
    shards, tokens, documents = [], {}, {}
    for split, count in (("train", 400), ("validation", 30)):
        writer = ShardWriter(folder / f"{split}-00000", np.uint16)
        sizes = generator.integers(5, 60, count)
        for size in sizes:
            writer.append(np.append(3 + generator.integers(0, 7, size) ** 2, EOS))
        digest = writer.close()
        tokens[split], documents[split] = int(sizes.sum()) + count, count
        shards.append(
            ShardEntry(
                split=split,
                source="pile",
                file=f"{split}-00000",
                tokens=tokens[split],
                documents=count,
                sha256=digest,
            )
        )
    kept = sum(documents.values())
    manifest = CorpusManifest(
        name="random",
        job="0" * 64,
        documents=DocumentCounts(read=kept, kept=kept, **documents, dropped={}),
        tokens=TokenCounts(**tokens, dropped={}),
        bytes=ByteCounts(**{split: 3 * count for split, count in tokens.items()}),
        adds_bos=False,
        bos_id=None,
        eos_id=EOS,
        vocabulary_size=VOCABULARY,
        tokenizer=TokenizerIdentity(
            source="random", kind="huggingface", fingerprint="0" * 64, digest="0" * 64, adds_bos=False
        ),
        shards=tuple(shards),
        inputs=(),
        settings={},
        versions={},
        created="2026-01-01T00:00:00+00:00",
        command="none",
    )
    np.save(folder / "token_counts.npy", np.full(VOCABULARY, tokens["train"] // VOCABULARY, dtype=np.int64))
    (folder / "manifest.json").write_text(manifest.model_dump_json())
    return folder
