"""One rank of the packing tests: `packing_worker.py OUTPUT_FOLDER` trains on examples and writes what it measured."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np

from biomedllama_cli.engine.accelerator import build_accelerator, prepare
from biomedllama_cli.engine.optimizer import build_optimizer, set_learning_rate
from biomedllama_cli.engine.step import StepFrame, train_step
from biomedllama_cli.engine.tuning_data import TuningData, order_examples
from biomedllama_cli.engine.tuning_rows import TuningRows
from biomedllama_cli.engine.tuning_validation import TuningValidator
from biomedllama_cli.instructions.encoding import EncodedSet
from biomedllama_cli.models.load import load_model
from biomedllama_cli.models.loss import enable_token_losses
from biomedllama_cli.settings.pretrain import NumericsSettings, OptimizerSettings, ParallelSettings
from biomedllama_cli.settings.tuning import TuningBatchSettings

EXAMPLES = 20


def build_rows() -> TuningRows:
    generator = np.random.default_rng(0)
    starts = np.cumsum([0, *generator.integers(3, 30, EXAMPLES)])
    token_ids = generator.integers(3, 60, starts[-1]).astype(np.uint32)
    trained = generator.random(starts[-1]) < 0.5
    names = [str(number) for number in range(EXAMPLES)]
    encoded = EncodedSet(token_ids, trained, starts, names, names, np.zeros(EXAMPLES, dtype=np.int64))
    return TuningRows(encoded, eos_id=2, sequence_length=32)


def main(output: Path) -> None:
    world_size, rank = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
    accelerator = build_accelerator(ParallelSettings(device="cpu"), NumericsSettings(precision="fp32"))
    model = load_model("scratch:tiny", attention="sdpa", vocabulary_size=64, eos_id=2, seed=0)
    optimizer = build_optimizer(enable_token_losses(model), OptimizerSettings())
    model, optimizer = prepare(accelerator, model, optimizer)
    rows = build_rows()
    order = order_examples(EXAMPLES, epochs=1.4, seed=0)  # three steps of 9 examples and one of 1
    sizes = TuningBatchSettings(global_batch_size=9, micro_batch_size=1)
    data = TuningData(rows, order, batch=sizes, world_size=world_size)
    empty, losses, norms = 0, [], []
    frame = StepFrame.plain(accelerator, 1.0, 1)
    for step in range(1, data.total_steps + 1):
        micro_batches = data.micro_batches(step, rank)
        empty += sum(
            packs == [[]] for other in range(world_size) for packs in data.micro_batches(step, other)
        )
        set_learning_rate(optimizer, 3e-3)
        batches = [rows.__getitems__(packs) for packs in micro_batches]
        measured = train_step(accelerator, model, optimizer, batches, frame)
        losses.append(measured.loss)
        norms.append(measured.grad_norm)
    validation = TuningValidator(rows, micro_batch_size=1, packing=True).run(accelerator, model)
    if rank == 0:
        facts = {"losses": losses, "norms": norms, "validation": validation.loss, "empty": empty}
        (output / f"{world_size}.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
