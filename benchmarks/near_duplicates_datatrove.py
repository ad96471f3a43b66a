"""datatrove's side of `near_duplicates.py`: sign the texts of a JSON file, print the seconds, save the hashes.

Runs in an environment of its own, without this project's package.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
from loguru import logger


def main(source: Path, target: Path) -> None:
    """Time the step from text to file, then the sketch alone; save the hashes as `target`.npy."""
    logger.remove()
    texts = json.loads(source.read_text())
    config = MinhashConfig()
    step = MinhashDedupSignature(str(target), config)
    documents = [Document(text=text, id=str(number)) for number, text in enumerate(texts)]
    step.get_shingles(texts[0])  # load the word tokenizer
    start = time.process_time()
    step.run(iter(documents))
    signing = time.process_time() - start
    shutil.rmtree(target)
    shingles = [step.get_shingles(text) for text in texts]
    start = time.process_time()
    rows = [step.get_signature(hashes) for hashes in shingles]
    sketch = time.process_time() - start
    np.save(target.with_suffix(".npy"), np.array(rows, np.uint64).reshape(len(rows), -1))
    facts = {
        "version": version("datatrove"),
        "signing_seconds": signing,
        "sketch_seconds": sketch,
        "shingles": sum(map(len, shingles)),
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
