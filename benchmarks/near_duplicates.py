"""How fast and how well are near-duplicates found, against datatrove's MinHash and between sketches?

Three questions, on one core: MB/s of text into signatures (ours against datatrove's MinhashDedupSignature, from text
to file); seconds of the sketch alone over the same hashed shingles (rensa's R-MinHash and C-MinHash, datatrove's);
and the share of planted pairs flagged, by their exact Jaccard similarity of word 5-grams.

    python benchmarks/near_duplicates.py --data ../shared/data --folder /tmp/near-duplicates

datatrove's signatures need spaCy and an xxhash below 4, so that it gets a virtual environment of its own in the
folder (`--peer-python` names another one). Two cores, some five minutes.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rensa

from biomedllama_cli.corpus.minhash import PERMUTATIONS, SIGNATURE, Signer
from biomedllama_cli.corpus.near_duplicates import THRESHOLD, mark_near_duplicates
from report import write_result

PEER = Path(__file__).with_name("near_duplicates_datatrove.py")
PLANTED = Path(__file__).resolve().parents[1] / "tests" / "corpus" / "planted.py"
PEER_PACKAGES = (f"datatrove=={version('datatrove')}", "spacy", "xxhash<4", "tokenizers", "orjson", "regex")
BANDS = ((0.0, 0.6), (0.6, 0.7), (0.7, 0.8), (0.8, 0.85), (0.85, 1.0))
REPEATS = 5


def load_planted() -> Any:
    """Return the module that plants pairs, shared with the tests."""
    spec = importlib.util.spec_from_file_location("planted", PLANTED)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build_peer(folder: Path) -> str:
    """Return the Python of datatrove's own environment, made when it is not there."""
    python = folder / "peer" / "bin" / "python"
    if not python.exists():
        venv.create(folder / "peer", with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *PEER_PACKAGES], check=True)
    return str(python)


def run_peer(python: str, folder: Path, name: str, texts: list[str]) -> dict[str, Any]:
    """Let datatrove sign texts; return its seconds, and the signatures under `minima`."""
    source = folder / f"{name}.json"
    source.write_text(json.dumps(texts))
    command = [python, str(PEER), str(source), str(folder / name)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    facts: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    facts["minima"] = np.load(folder / f"{name}.npy")
    return facts


def time_best(action: Callable[[], Any]) -> float:
    """Return the least processor time of some runs (in seconds)."""
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        action()
        times.append(time.process_time() - start)
    return min(times)


def measure_signing(texts: list[str], folder: Path, peer: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """Compare text to signatures on disk."""
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    file = folder / "signatures.bin"
    warm = Signer()
    ours = megabytes / time_best(lambda: file.write_bytes(Signer().sign(texts).tobytes()))
    remembered = megabytes / time_best(lambda: file.write_bytes(warm.sign(texts).tobytes()))
    theirs = megabytes / peer["signing_seconds"]
    lines = [
        f"Text to signatures on disk, {megabytes:.1f} MB, one core:",
        "",
        "| | MB/s | ratio |",
        "|---|---|---|",
        f"| datatrove {peer['version']}, MinhashDedupSignature (112 hashes) | {theirs:.2f} | 1 |",
        f"| ours, no words remembered ({PERMUTATIONS} minima) | {ours:.1f} | {ours / theirs:.0f} |",
        f"| ours, words remembered | {remembered:.1f} | {remembered / theirs:.0f} |",
        "",
    ]
    return lines, {"megabytes": megabytes, "datatrove": theirs, "cold": ours, "warm": remembered}


def measure_sketches(texts: list[str], peer: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """Compare the sketches alone, over shingles that are hashed already."""
    signer = Signer()
    sets = [hashes for text in texts if len(hashes := signer._hash_shingles(text))]
    shingles = sum(map(len, sets))
    batches = [sets[start : start + 64] for start in range(0, len(sets), 64)]
    sketches: dict[str, Callable[[Any], Any]] = {
        "rensa R-MinHash": lambda batch: rensa.RMinHash.digest_matrix_from_token_hash_sets(
            batch, PERMUTATIONS, 1
        ).to_rows(),
        "rensa C-MinHash": lambda batch: rensa.CMinHash.digests64_from_token_hash_sets(
            batch, PERMUTATIONS, 1
        ),
    }
    nanoseconds = {
        name: time_best(lambda sketch=sketch: [sketch(batch) for batch in batches]) / shingles * 1e9
        for name, sketch in sketches.items()
    }
    nanoseconds["datatrove's"] = peer["sketch_seconds"] / peer["shingles"] * 1e9
    lines = ["The sketch alone:", "", "| sketch | ns per shingle |", "|---|---|"]
    lines += [f"| {name} | {value:.1f} |" for name, value in nanoseconds.items()]
    return [*lines, ""], nanoseconds


def flag_by_ours(originals: list[str], copies: list[str], folder: Path) -> npt.NDArray[np.bool_]:
    """Return which copies go, each pair in a corpus of its own (one file would compare copies of one original)."""
    signer = Signer()
    one, other = signer.sign(originals), signer.sign(copies)
    flagged = np.zeros(len(originals), np.bool_)
    for index in range(len(originals)):
        (folder / "pair.bin").write_bytes(one[index].tobytes() + other[index].tobytes())
        flags = np.zeros(2, np.uint8)
        mark_near_duplicates([folder / "pair.bin"], flags, folder / "scratch")
        flagged[index] = flags[1] != 0
    return flagged


def measure_quality(
    name: str, pairs: list[tuple[float, str, str]], folder: Path, python: str
) -> tuple[list[str], dict[str, Any]]:
    """Compare the shares of planted pairs that are flagged."""
    jaccard = np.array([pair[0] for pair in pairs])
    originals, copies = [pair[1] for pair in pairs], [pair[2] for pair in pairs]
    ours = flag_by_ours(originals, copies, folder)
    theirs = run_peer(python, folder, f"pairs-{name}", originals + copies)["minima"]
    # datatrove flags what shares one of its 14 buckets of 8 hashes, and checks no further.
    same = (theirs[: len(pairs)] == theirs[len(pairs) :]).reshape(len(pairs), 14, 8).all(-1).any(-1)
    lines, facts = [], {}
    for low, high in BANDS:
        inside = (jaccard >= low) & ((jaccard < high) if high < 1 else True)
        if inside.any():
            shares = {"pairs": int(inside.sum()), "ours": float(ours[inside].mean())}
            shares["datatrove"] = float(same[inside].mean())
            facts[f"{low}-{high}"] = shares
            lines.append(
                f"| {name} | {low}-{high} | {shares['pairs']} | {shares['ours']:.3f} | {shares['datatrove']:.3f} |"
            )
    return lines, facts


def measure_marking(documents: int, folder: Path) -> tuple[list[str], dict[str, Any]]:
    """Time the global stage on random signatures, of which 3 % are copies."""
    rng = np.random.default_rng(0)
    with (folder / "many.bin").open("wb") as file:
        for _ in range(0, documents, 10_000):
            rows = np.zeros(10_000, SIGNATURE)
            rows["shingles"] = 1
            rows["minima"] = rng.integers(0, 2**16, rows["minima"].shape)
            rows["minima"][9_700:] = rows["minima"][:300]
            file.write(rows.tobytes())
    flags = np.zeros(documents, np.uint8)
    start = time.perf_counter()
    mark_near_duplicates([folder / "many.bin"], flags, folder / "scratch")
    rate = documents / (time.perf_counter() - start)
    assert np.count_nonzero(flags) == documents * 3 // 100
    text = f"Marking near-duplicates among {documents:,} signatures: {rate:,.0f} documents/s."
    return [text, ""], {"documents": documents, "documents_per_second": rate}


def main() -> None:
    """Run all comparisons and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with pile/ and jats/")
    parser.add_argument("--folder", type=Path, required=True, help="folder for intermediate files")
    parser.add_argument("--peer-python", help="Python that has datatrove, spaCy and an xxhash below 4")
    parser.add_argument("--abstracts", type=int, default=200)
    parser.add_argument("--articles", type=int, default=24)
    parser.add_argument("--documents", type=int, default=1_000_000, help="signatures of the global stage")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    python = options.peer_python or build_peer(options.folder)
    planted = load_planted()
    abstracts = planted.read_abstracts(options.data, options.abstracts)
    articles = planted.read_articles(options.data, options.articles)
    texts = abstracts + articles
    peer = run_peer(python, options.folder, "texts", texts)
    lines, facts = measure_signing(texts, options.folder, peer)
    more, facts["nanoseconds_per_shingle"] = measure_sketches(texts, peer)
    lines += more
    lines += [f"Planted pairs flagged (ours from an estimate of {THRESHOLD}):", ""]
    lines += ["| length | Jaccard | pairs | ours | datatrove |", "|---|---|---|---|---|"]
    for name, originals, copies in (("abstracts", abstracts, 4), ("articles", articles, 8)):
        pairs = list(planted.plant_pairs(originals, copies, seed=len(name)))
        more, facts[name] = measure_quality(name, pairs, options.folder, python)
        lines += more
    more, facts["marking"] = measure_marking(options.documents, options.folder)
    write_result("near_duplicates", [*lines, "", *more], {"rensa": version("rensa"), **facts})
    if facts["warm"] < facts["datatrove"]:
        sys.exit("slower than datatrove")


if __name__ == "__main__":
    main()
