"""Metrics of running text and the hash of what was scored."""

from __future__ import annotations

import math

import pytest

from biomedllama_cli.evaluation.results import build_text_metrics
from biomedllama_cli.tasks.question import Document


def test_text_metrics_are_per_word_byte_and_token_of_the_whole():
    documents = [Document("a", "one two"), Document("b", "drei μ")]
    metrics, samples = build_text_metrics(documents, 9, [3, 4], [-6.0, -8.0], seed=0)
    assert (metrics.n, metrics.n_all, metrics.words, metrics.tokens, metrics.utf8_bytes) == (2, 9, 4, 7, 14)
    assert metrics.log_likelihood == -14.0
    assert metrics.word_perplexity.value == pytest.approx(math.exp(14 / 4))
    assert metrics.token_perplexity.value == pytest.approx(math.exp(2))
    assert metrics.byte_perplexity.value == pytest.approx(math.e)
    assert metrics.bits_per_byte.value == pytest.approx(1 / math.log(2))
    assert samples[1] == {"id": "b", "log_likelihood": -8.0, "words": 2, "tokens": 4, "utf8_bytes": 7}


def test_hash_of_texts_tells_order_and_borders_apart():
    def digest(*texts):
        documents = [Document(str(row), text) for row, text in enumerate(texts)]
        ones = [1] * len(texts)
        return build_text_metrics(documents, len(texts), ones, [-1.0] * len(texts), seed=0)[0].text_sha256

    assert len({digest("ab", "c"), digest("a", "bc"), digest("c", "ab"), digest("abc")}) == 4
    assert digest("ab", "c") == digest("ab", "c")
