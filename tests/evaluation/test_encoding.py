"""Texts become the same tokens as in lm-evaluation-harness, and running text the same windows."""

from __future__ import annotations

import json

import pytest
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from transformers import AutoTokenizer

from biomedllama_cli.errors import DataError, ModelError
from biomedllama_cli.evaluation.encoding import encode_continuations, iter_windows
from biomedllama_cli.models.tokenizer import load_tokenizer

CONTEXTS = [
    "Question: Which metal is in haemoglobin?\nAnswer:",
    "Question: Which metal is in haemoglobin?\nAnswer: ",
    "Two spaces and a line end  \n",
    "β-blockers – naïve 患者:\t",
    "x",
]
CONTINUATIONS = (" Iron", "Iron", "  two spaces", " 5 µg/dL (0.5 %)", "\nA", " Iron Iron")


class Reference(TemplateLM):
    """lm-eval's own splitting, over a tokenizer of transformers; nothing is scored."""

    def __init__(self, folder) -> None:
        super().__init__()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.seen: list = []

    @property
    def eot_token_id(self):
        return self.tokenizer.eos_token_id

    def tok_encode(self, string, add_special_tokens=None, **_):
        wanted = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return self.tokenizer.encode(string, **wanted)

    def _loglikelihood_tokens(self, requests, **_):
        self.seen = [(context, continuation) for _, context, continuation in requests]

    def loglikelihood_rolling(self, requests):
        raise NotImplementedError

    def generate_until(self, requests):
        raise NotImplementedError

    def split(self, context, continuation):
        request = type("Request", (), {"args": (context, continuation)})()
        self.loglikelihood([request], disable_tqdm=True)
        return self.seen[0]


def assert_equal_splits(folder, contexts, continuations, *, bos):
    tokenizer, reference = load_tokenizer(str(folder)), Reference(folder)
    for context in contexts:
        found = encode_continuations(tokenizer, context, continuations, bos=bos)
        for sequence, continuation in zip(found, continuations, strict=True):
            before, scored = reference.split(context, continuation)
            assert sequence.token_ids == (*before, *scored), (context, continuation)
            assert sequence.scored == len(scored)


def test_without_bos_it_splits_as_lm_eval(tiny_model):
    assert_equal_splits(tiny_model.folder, CONTEXTS, CONTINUATIONS, bos=False)


def test_with_bos_it_splits_as_lm_eval(tiny_model_with_bos):
    assert_equal_splits(tiny_model_with_bos.folder, CONTEXTS, CONTINUATIONS, bos=True)


def test_real_questions_are_split_as_lm_eval_does(tiny_model, shared_data):
    lines = (shared_data / "medqa" / "test_5options_first640.jsonl").read_text(encoding="utf-8").splitlines()
    for line in lines[:150:3]:
        record = json.loads(line)
        options = [f" {text}" for text in record["options"].values()]
        context = f"Question: {record['question']}\nAnswer:"
        assert_equal_splits(tiny_model.folder, [context], options, bos=False)


def test_an_empty_context_is_eos(tiny_model):
    assert_equal_splits(tiny_model.folder, [""], CONTINUATIONS, bos=False)
    (found,) = encode_continuations(load_tokenizer(str(tiny_model.folder)), "", [" Iron"], bos=False)
    assert found.token_ids[0] == tiny_model.tokenizer.eos_token_id
    assert found.scored == len(found.token_ids) - 1


def test_an_empty_context_is_bos_where_the_protocol_has_it(tiny_model_with_bos):
    tokenizer = load_tokenizer(str(tiny_model_with_bos.folder))
    (found,) = encode_continuations(tokenizer, "", [" Iron"], bos=True)
    assert found.token_ids == (tokenizer.bos_id, *tokenizer.encode(" Iron"))


def test_the_space_at_the_end_of_a_prompt_is_scored_with_the_option(tiny_model):
    tokenizer = load_tokenizer(str(tiny_model.folder))
    glued = encode_continuations(tokenizer, "Answer: ", ["Iron"], bos=False)
    apart = encode_continuations(tokenizer, "Answer:", [" Iron"], bos=False)
    assert glued == apart
    assert tokenizer.decode(glued[0].token_ids[-glued[0].scored :]) == " Iron"


def test_bos_is_not_made_up_for_a_tokenizer_without(tiny_model, tmp_path):
    folder = tmp_path / "no-bos"
    AutoTokenizer.from_pretrained(tiny_model.folder, bos_token=None).save_pretrained(folder)
    tokenizer = load_tokenizer(str(folder))
    assert tokenizer.bos_id is None
    with pytest.raises(ModelError, match="no BOS"):
        encode_continuations(tokenizer, "Answer:", [" Iron"], bos=True)


def test_an_empty_option_names_its_question(tiny_model):
    tokenizer = load_tokenizer(str(tiny_model.folder))
    with pytest.raises(DataError, match=r"which one\?.* has an empty option") as error:
        encode_continuations(tokenizer, "which one?", [" Iron", ""], bos=False)
    assert "--drop-defective" in error.value.hint


def test_an_option_that_melts_into_its_prompt_is_refused(tiny_model):
    tokenizer = load_tokenizer(str(tiny_model.folder))
    whole = max((tokenizer.decode([number]) for number in range(tokenizer.vocabulary_size)), key=len)
    (piece,) = tokenizer.encode(whole)
    context, option = whole[:1], whole[1:]
    assert tokenizer.encode(context + option) == [piece]
    with pytest.raises(DataError, match="no token of its own"):
        encode_continuations(tokenizer, context, [option], bos=False)


@pytest.mark.parametrize("count", [0, 1, 2047, 2048, 2049, 4096, 5000])
def test_windows_are_those_of_lm_eval(count):
    token_ids = [number % 997 for number in range(count)]
    expected = [
        make_disjoint_window(pair)
        for pair in get_rolling_token_windows(token_ids, prefix_token=999, max_seq_len=2048, context_len=1)
    ]
    found = list(iter_windows(token_ids, prefix_id=999, context_length=2048))
    assert [list(window.token_ids) for window in found] == [before + after for before, after in expected]
    assert [window.scored for window in found] == [len(after) for _, after in expected]
    assert sum(window.scored for window in found) == count
    scored = [number for window in found for number in window.token_ids[-window.scored :]]
    assert scored == token_ids
