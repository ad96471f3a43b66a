"""PubMedQA's official split: which of the 1,000 labelled items are scored, and which may be shown as examples."""

from __future__ import annotations

from pathlib import Path

_FILE = Path(__file__).resolve().parent.parent / "data" / "questions" / "pubmedqa-nontest-pmids.txt"

NON_TEST_PMIDS: frozenset[str] = frozenset(_FILE.read_text(encoding="ascii").split())
"""PMIDs of the 500 labelled items that its authors keep for training and development."""


OFFICIAL_TEST_ITEMS = 500
"""Size of the official test part."""


def is_official_test(pmid: str) -> bool:
    """Tell whether a labelled item belongs to the 500 of the official test part.

    Only items of the labelled part (`pqa_labeled`, `ori_pqal.json`) may be asked about: no list of the test part
    is kept here, so every other PMID counts as one of it.
    Source: pubmedqa/pubmedqa, `preprocess/split_dataset.py` and `data/test_ground_truth.json`.

    Args:
        pmid: PubMed's number of the item, its id in the data.

    >>> is_official_test("10808977")
    False
    """
    return pmid not in NON_TEST_PMIDS
