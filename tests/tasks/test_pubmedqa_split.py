"""The official split of PubMedQA's labelled items, kept as identifiers."""

from __future__ import annotations

import json

from biomedllama_cli.tasks.pubmedqa_split import NON_TEST_PMIDS, is_official_test


def test_half_of_the_labelled_items_are_kept_from_the_test_part():
    assert len(NON_TEST_PMIDS) == 500
    assert all(pmid.isdecimal() for pmid in NON_TEST_PMIDS)
    assert not any(map(is_official_test, NON_TEST_PMIDS))
    assert is_official_test("1")


def test_bundled_identifiers_are_those_of_the_published_file(shared_data):
    published = json.loads((shared_data / "pubmedqa" / "ori_pqal_nontest500.json").read_text())
    assert published.keys() == NON_TEST_PMIDS
