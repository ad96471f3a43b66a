"""Near-duplicates go, what is merely related stays, and neither depends on how the input is cut."""

from __future__ import annotations

import importlib.util
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biomedllama_cli.corpus import minhash, near_duplicates
from biomedllama_cli.corpus.minhash import PERMUTATIONS, SIGNATURE, Signer, estimate_jaccard, split_words
from biomedllama_cli.corpus.near_duplicates import iter_bands, mark_near_duplicates
from biomedllama_cli.corpus.reasons import EXACT_DUPLICATE, NEAR_DUPLICATE

PINNED_MINIMA = [53159, 34487, 53368, 51324, 43331, 15496]
PINNED_BANDS = [17844852752701008195, 14672658749105737743]
PINNED_LONG = [1460, 13940, 3101, 54460, 49916, 50714]


@pytest.fixture(scope="module")
def planted() -> ModuleType:
    spec = importlib.util.spec_from_file_location("planted", Path(__file__).with_name("planted.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def find_flagged(folder: Path, signatures: npt.NDArray[Any], files: int = 1) -> npt.NDArray[np.bool_]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, part in enumerate(np.array_split(signatures, files)):
        paths.append(folder / f"signatures-{number}")
        paths[-1].write_bytes(part.tobytes())
    flags = np.zeros(len(signatures), np.uint8)
    mark_near_duplicates(paths, flags, folder / "scratch")
    assert not (folder / "scratch").exists()
    assert set(flags.tolist()) <= {0, NEAR_DUPLICATE}
    return flags == NEAR_DUPLICATE


def check_planted_pairs(folder: Path, pairs: Sequence[tuple[float, str, str]], copies_each: int) -> None:
    """Make corpora of all originals and one copy of each, and look which copies go."""
    signer = Signer()
    flagged = []
    originals, copies = (signer.sign([pair[place] for pair in pairs]) for place in (1, 2))
    for start in range(copies_each):
        here = slice(start, None, copies_each)
        corpus = np.concatenate((originals[here], copies[here]))
        found = find_flagged(folder / str(start), corpus)
        half = len(corpus) // 2
        assert not found[:half].any(), "an original was flagged"
        flagged.append(np.stack([[pair[0] for pair in pairs[here]], found[half:]]))
    jaccard, gone = np.concatenate(flagged, axis=1)
    alike, unlike = jaccard >= 0.85, jaccard <= 0.6
    assert min(alike.sum(), unlike.sum()) >= 30, "too few pairs to speak of shares"
    assert gone[alike].mean() >= 0.95
    assert gone[unlike].mean() <= 0.05


@pytest.mark.parametrize(("words", "texts"), [(60, 80), (200, 80), (5000, 24)])
def test_planted_pairs_of_made_up_text(tmp_path: Path, planted: ModuleType, words: int, texts: int) -> None:
    originals = planted.make_texts(texts, words, seed=words)
    check_planted_pairs(tmp_path, list(planted.plant_pairs(originals, 8, seed=words)), 8)


def test_planted_pairs_of_real_abstracts(tmp_path: Path, planted: ModuleType, shared_data: Path) -> None:
    originals = planted.read_abstracts(shared_data, 150)
    check_planted_pairs(tmp_path, list(planted.plant_pairs(originals, 4, seed=1)), 4)


def test_planted_pairs_of_real_articles(tmp_path: Path, planted: ModuleType, shared_data: Path) -> None:
    originals = planted.read_articles(shared_data, 12)
    check_planted_pairs(tmp_path, list(planted.plant_pairs(originals, 16, seed=2)), 16)


def test_first_copy_stays_and_others_go_wherever_they_are(tmp_path: Path, planted: ModuleType) -> None:
    one, two, three = planted.make_texts(3, 200, seed=3)
    texts = [one, two, one.upper(), three, "“" + one.replace(" ", ", ") + "”", two + " indeed"]
    found = find_flagged(tmp_path, Signer().sign(texts), files=4)
    assert found.tolist() == [False, False, True, False, True, True]


def test_document_dropped_already_neither_goes_nor_sends_others(tmp_path: Path, planted: ModuleType) -> None:
    text = planted.make_texts(1, 200, seed=4)[0]
    (tmp_path / "signatures").write_bytes(Signer().sign([text] * 3).tobytes())
    flags = np.array([EXACT_DUPLICATE, 0, 0], np.uint8)
    mark_near_duplicates([tmp_path / "signatures"], flags, tmp_path / "scratch")
    assert flags.tolist() == [EXACT_DUPLICATE, 0, NEAR_DUPLICATE]


def test_text_without_a_shingle_is_never_a_near_duplicate(tmp_path: Path) -> None:
    texts = ["", "...", "No abstract available.", "no abstract available", "one two three four"] * 2
    signatures = Signer().sign(texts)
    assert signatures["shingles"].tolist() == [0] * 10
    assert not find_flagged(tmp_path, signatures).any()


def test_corpus_without_documents_is_no_error(tmp_path: Path) -> None:
    assert find_flagged(tmp_path, np.zeros(0, SIGNATURE)).tolist() == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Naïve TGF-β1\u00a0(5 µM)", "naive tgf β1 5 μm"),
        ("nai\u0308ve co\u00adoperate ﬁbrosis", "naive cooperate fibrosis"),
        ("糖尿病 and Diabetes", "糖 尿 病 and diabetes"),
        ("a\x00b\ud800c\n_d_", "a b c d"),
        ("STRASSE straße İ", "strasse strasse i"),
    ],
)
def test_words_are_without_case_diacritics_and_punctuation(text: str, words: str) -> None:
    assert b" ".join(split_words(text)).decode() == words


def test_signature_is_the_same_everywhere_and_always() -> None:
    # Work that is kept and continued compares these with signatures of other runs: a change of the library, of
    # the normalisation or of the hashing must be seen here, and then counted in Signer.identify.
    text = "The quick brown fox jumps over the lazy dog; naïve β-cells, 5 µM, do not."
    row = Signer().sign([text])[0]
    assert row["shingles"] == 12
    assert row["minima"][:6].tolist() == PINNED_MINIMA
    assert [int(h[0]) for h in iter_bands(row["minima"][None])][:2] == PINNED_BANDS
    long = Signer().sign([" ".join(f"word{i * i % 9973}" for i in range(20_000))])[0]
    assert long["minima"][-6:].tolist() == PINNED_LONG
    assert Signer().identify()["algorithm_version"] == 2


def test_signature_does_not_depend_on_its_company(planted: ModuleType) -> None:
    texts = [text for words in (3, 10, 200, 3000) for text in planted.make_texts(30, words, seed=words)]
    random.Random(0).shuffle(texts)
    signer = Signer()
    together = signer.sign(texts)
    assert (together == np.concatenate([Signer().sign([text]) for text in texts])).all()
    assert (together == signer.sign(texts)).all()


def test_words_are_forgotten_when_they_are_many(planted: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = planted.make_texts(20, 300, seed=7)
    expected = Signer().sign(texts)
    monkeypatch.setattr(minhash, "_REMEMBERED_WORDS", 50)
    signer = Signer()
    assert (signer.sign(texts) == expected).all()
    assert len(signer._hashes) <= 50


def test_long_text_is_signed_in_pieces(planted: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [*planted.make_texts(3, 500, seed=8), "é  è " * 50, "", "x" * 300]
    expected = Signer().sign(texts)
    monkeypatch.setattr(minhash, "_PIECE_CHARACTERS", 10)
    assert (Signer().sign(texts) == expected).all()


def test_signing_starts_no_threads() -> None:
    # A pool of threads does not survive the fork that starts a worker: its first use there would hang.
    code = (
        "import os; from biomedllama_cli.corpus.minhash import Signer; s = Signer(); s.sign(['a b c d e f']);"
        "count = lambda: len(os.listdir('/proc/self/task')); before = count();"
        "s.sign(['w%d x y z u v' % i for i in range(600)]);"
        "s.sign([' '.join('w%d' % i for i in range(200_000))] * 2); print(before, count())"
    )
    if not os.path.isdir("/proc/self/task"):
        pytest.skip("threads are counted in /proc")
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = finished.stdout.split()
    assert before == after


def find_followers_one_by_one(signatures: npt.NDArray[Any]) -> list[bool]:
    """Say the rule again: band by band, each document against those before it that stay."""
    gone = [False] * len(signatures)
    for hashes in iter_bands(signatures["minima"]):
        leaders: list[int] = []
        for document, band in enumerate(hashes.tolist()):
            if gone[document] or not signatures["shingles"][document]:
                continue
            rivals = [other for other in leaders if hashes[other] == band]
            if any(estimate_jaccard(signatures[document], signatures[other]) >= 0.78 for other in rivals):
                gone[document] = True
            else:
                leaders.append(document)
    return gone


def draw_signatures(rng: np.random.Generator, documents: int) -> npt.NDArray[Any]:
    """Return signatures in clusters, similar in every degree."""
    rows = np.zeros(documents, SIGNATURE)
    seeds = rng.integers(0, 2**16, (3, PERMUTATIONS))
    rows["minima"] = seeds[rng.integers(0, 3, documents)]
    changed = rng.random((documents, PERMUTATIONS)) < rng.choice(
        [0.0, 0.05, 0.1, 0.15, 0.2, 0.4], (documents, 1)
    )
    rows["minima"][changed] = rng.integers(0, 2**16, int(changed.sum()))
    rows["shingles"] = rng.random(documents) < 0.95
    return rows


@given(st.integers(0, 10**6), st.integers(1, 4))
@settings(max_examples=40)
def test_what_goes_does_not_depend_on_files_and_slices(
    tmp_path_factory: pytest.TempPathFactory, seed: int, files: int
) -> None:
    signatures = draw_signatures(np.random.default_rng(seed), 60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near_duplicates, "_CHUNK_DOCUMENTS", 7)
        patch.setattr(near_duplicates, "_BUCKET_ENTRIES", 9)
        found = find_flagged(tmp_path_factory.mktemp("near"), signatures, files)
    assert found.tolist() == find_followers_one_by_one(signatures)


def test_documents_that_share_only_a_phrase_cost_no_square_of_their_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    signatures = np.zeros(20_000, SIGNATURE)
    signatures["shingles"] = 1
    signatures["minima"] = rng.integers(0, 2**16, (len(signatures), PERMUTATIONS))
    signatures["minima"][:, :7] = 5  # one band in common
    compared = []
    compare: Callable[..., Any] = near_duplicates.estimate_jaccard
    monkeypatch.setattr(
        near_duplicates, "estimate_jaccard", lambda a, b: compared.append(len(a)) or compare(a, b)
    )
    assert not find_flagged(tmp_path, signatures).any()
    assert sum(compared) <= 64 * len(signatures)


_MEASURED = """
import re, sys
from pathlib import Path
import numpy as np
from biomedllama_cli.corpus import deduplication, near_duplicates
from biomedllama_cli.corpus.minhash import PERMUTATIONS, SIGNATURE
from biomedllama_cli.corpus.split import DOCUMENT

stage, folder, documents = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
rng = np.random.default_rng(0)
# As many buckets for few documents as for many: files have buffers.
deduplication._BUCKET_DOCUMENTS = near_duplicates._BUCKET_ENTRIES = 400
near_duplicates._CHUNK_DOCUMENTS = 4096
dtype = SIGNATURE if stage == "near" else DOCUMENT
with (folder / "rows").open("wb") as file:
    for start in range(0, documents, 10_000):
        rows = np.zeros(10_000, dtype)
        if stage == "near":
            rows["shingles"] = 1
            rows["minima"] = rng.integers(0, 2**16, (10_000, PERMUTATIONS))
            rows["minima"][5_000:] = rows["minima"][:5_000]
        else:
            rows["content"] = rng.integers(0, documents, 10_000)
        file.write(rows.tobytes())
flags = np.memmap(folder / "flags", np.uint8, "w+", shape=(documents,))
if stage == "near":
    near_duplicates.mark_near_duplicates([folder / "rows"], flags, folder / "scratch")
else:
    deduplication.mark_duplicates([folder / "rows"], folder / "scratch", flags)
assert documents // 3 < np.count_nonzero(flags) < documents
# Not getrusage: its peak is inherited from the process that started this one.
print(1024 * int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]))
"""


@pytest.mark.parametrize(("stage", "few", "many"), [("near", 50_000, 450_000), ("exact", 200_000, 2_200_000)])
def test_memory_per_document_is_what_is_stated(tmp_path: Path, stage: str, few: int, many: int) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("peak memory is read from /proc")

    def measure(documents: int, attempt: int) -> int:
        folder = tmp_path / f"{documents}-{attempt}"
        folder.mkdir()
        command = [sys.executable, "-c", _MEASURED, stage, str(folder), str(documents)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    # A busy machine only ever adds to a peak (pages that are not yet given back): the least of three counts.
    peaks = [min(measure(documents, attempt) for attempt in range(3)) for documents in (few, many)]
    per_document = (peaks[1] - peaks[0]) / (many - few)
    assert per_document <= 4, f"{per_document:.1f} bytes per document; 1 is stated, and 1.4 for large buckets"
