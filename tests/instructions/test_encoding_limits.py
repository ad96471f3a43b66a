"""What is cut and what is left out where examples are too long, and what all of them give."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from chat_models import save_byte_level
from mask_checks import TWO_TURNS, LoadModel, LoadPlain, check_row, list_runs, read

from biomedllama_cli.errors import DataError
from biomedllama_cli.instructions.encoding import CannotFit, Encoder, encode_examples
from biomedllama_cli.instructions.example import Example, Turn, make_pair
from biomedllama_cli.models.chat_template import choose_template
from biomedllama_cli.models.tokenizer import load_tokenizer

ABSTRACT = "Background words stand here. Insulin lowers glucose. Aspirin inhibits platelets."
CONTEXT = f"### Context: {ABSTRACT}\n### Question: Does it?\n### Answer:"


def make_context(answer: str = " (A) yes") -> Example:
    return make_pair("7", "mine", CONTEXT, answer, exact=True, cuttable=(13, 13 + len(ABSTRACT)))


@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece", "llama"])
def test_abstract_is_cut_from_the_left_and_nothing_else(kind: str, load_plain: LoadPlain) -> None:
    tokenizer = load_plain(kind)
    template = choose_template(tokenizer, "", "plain")
    whole = Encoder(tokenizer, template, 512).encode(make_context())
    bare = Encoder(tokenizer, template, 512).encode(
        make_pair("7", "mine", CONTEXT.replace(ABSTRACT, ""), " (A) yes", exact=True)
    )
    seen = set()
    for length in range(len(bare.token_ids), len(whole.token_ids) + 1):
        row = Encoder(tokenizer, template, length).encode(make_context())
        assert len(row.token_ids) + row.cut_tokens == len(whole.token_ids)
        assert len(row.token_ids) <= length
        text = tokenizer.decode(row.token_ids)
        kept = text.removeprefix("### Context: ").split("\n### Question")[0]
        words = ABSTRACT.split()
        assert kept.split() == words[len(words) - len(kept.split()) :]
        # One word more would not fit.
        if (taken := len(words) - len(kept.split())) and row.cut_tokens:
            more = CONTEXT.replace(ABSTRACT, " ".join(words[taken - 1 :]))
            longer = Encoder(tokenizer, template, 512).encode(
                make_pair("7", "mine", more, " (A) yes", exact=True)
            )
            assert len(longer.token_ids) > length
        ((_, ids),) = list_runs(row)
        assert read(tokenizer, ids[:-1]) == " (A) yes"
        seen.add(len(kept.split()))
    assert {0, len(ABSTRACT.split())} <= seen


def test_cut_conversation_keeps_its_template(load_model: LoadModel) -> None:
    tokenizer, template = load_model("byte-level", "gemma")
    example = Example(
        "1",
        "mine",
        (
            Turn("system", "Be brief."),
            Turn("user", ABSTRACT + " Really?", (0, len(ABSTRACT))),
            Turn("assistant", "Yes"),
        ),
    )
    whole = Encoder(tokenizer, template, 512).encode(example)
    row = Encoder(tokenizer, template, len(whole.token_ids) - 20).encode(example)
    text = tokenizer._backend.decode(row.token_ids)
    assert text.startswith("<s><start_of_turn>user\nBe brief.\n\n")
    assert text.endswith("platelets. Really?<end_of_turn>\n<start_of_turn>model\nYes<end_of_turn>")
    assert row.cut_tokens >= 20


@pytest.mark.parametrize(
    ("example", "reason"),
    [
        (make_pair("1", "mine", "words " * 80, "Yes", exact=True), "too_long"),
        (make_context(" (A) yes" * 40), "too_long_even_without_its_context"),
        (
            Example("1", "mine", (*TWO_TURNS.turns[1:4], Turn("assistant", "so " * 80))),
            "conversation_too_long",
        ),
        (make_pair("1", "mine", "Why?", " \n", exact=True), "empty_answer"),
        (make_pair("1", "mine", "Why?", "\ud800", exact=True), "broken_unicode"),
        (make_pair("1", "mine", "Why\0?", "So", exact=True), "holds_a_null_character"),
        (Example("1", "mine", TWO_TURNS.turns[:2]), "does_not_end_with_an_answer"),
    ],
)
def test_what_cannot_be_trained_is_refused_for_a_reason(
    example: Example, reason: str, load_plain: LoadPlain
) -> None:
    tokenizer = load_plain("sentencepiece")
    encoder = Encoder(tokenizer, choose_template(tokenizer, "", "plain"), 60)
    with pytest.raises(CannotFit) as caught:
        encoder.encode(example)
    assert caught.value.reason == reason
    assert (caught.value.tokens > 60) == ("too_long" in reason)


def test_answer_without_any_prompt_is_refused_where_no_bos_stands(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(save_byte_level(tmp_path, ["<s>", "</s>"], adds_bos=False)))
    encoder = Encoder(tokenizer, choose_template(tokenizer, "", "plain"), 60)
    with pytest.raises(CannotFit, match="empty prompt"):
        encoder.encode(make_pair("1", "mine", "", "Yes", exact=True))


def test_turns_that_a_template_refuses_are_refused(load_model: LoadModel) -> None:
    tokenizer, template = load_model("byte-level", "gemma")
    twice = Example("1", "mine", (Turn("user", "a"), Turn("user", "b"), Turn("assistant", "c")))
    with pytest.raises(CannotFit, match="must alternate") as caught:
        Encoder(tokenizer, template, 60).encode(twice)
    assert caught.value.reason == "refused_by_chat_template"


def test_encoded_set_holds_the_rows_one_after_the_other(load_plain: LoadPlain) -> None:
    tokenizer = load_plain("sentencepiece")
    encoder = Encoder(tokenizer, choose_template(tokenizer, "", "plain"), 90)
    examples = [
        make_pair("a", "first", "Why?", " So", exact=True),
        make_pair("b", "first", "word " * 99, " No", exact=True),
        make_context(),
        TWO_TURNS,
    ]
    encoded = encode_examples(examples[:3], encoder, max_refused=0.5)
    assert (encoded.ids, encoded.sources) == (["a", "7"], ["first", "mine"])
    assert encoded.refused == {"too_long": 1}
    assert encoded.cut_rows == 1
    rows = [encoder.encode(examples[0]), encoder.encode(examples[2])]
    assert [encoded.row(number) for number in range(len(encoded))] == rows
    assert encoded.lengths.tolist() == [len(row.token_ids) for row in rows]
    assert encoded.target_tokens.tolist() == [sum(row.trained) for row in rows]
    assert (encoded.token_ids.dtype, encoded.trained.dtype, encoded.starts.dtype) == (
        np.uint32,
        np.bool_,
        np.int64,
    )


def test_too_many_refused_examples_stop_the_run_with_their_counts(load_plain: LoadPlain) -> None:
    tokenizer = load_plain("sentencepiece")
    encoder = Encoder(tokenizer, choose_template(tokenizer, "", "plain"), 60)
    examples = [
        make_pair(str(n), "mine", "word " * (90 if n < 3 else 1), "So", exact=True) for n in range(10)
    ]
    examples.append(make_pair("e", "mine", "Why?", "", exact=True))
    with pytest.raises(DataError, match=r"4 of 11 training examples \(36.4%\)") as caught:
        encode_examples(examples, encoder, max_refused=0.36)
    longest = len(Encoder(tokenizer, encoder.template, 512).encode(examples[0]).token_ids)
    assert f": 3 too long, 1 empty answer (the longest needs {longest} tokens)." in caught.value.message
    assert "--sequence-length" in caught.value.hint
    assert len(encode_examples(examples, encoder, max_refused=0.37)) == 7


def test_set_without_any_loss_is_an_error(load_plain: LoadPlain) -> None:
    tokenizer = load_plain("sentencepiece")
    encoder = Encoder(tokenizer, choose_template(tokenizer, "", "plain"), 10)
    long = [make_pair("1", "mine", "word " * 90, "So", exact=True)]
    with pytest.raises(DataError, match="no token carries loss, since all 1 are left out"):
        encode_examples(long, encoder, max_refused=1.0)
    with pytest.raises(DataError, match="there is none to train on"):
        encode_examples([], encoder, max_refused=1.0)


def test_a_set_that_may_be_empty_counts_what_it_lacks(
    load_plain: LoadPlain, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = load_plain("sentencepiece")
    encoder = Encoder(tokenizer, choose_template(tokenizer, "", "plain"), 10)
    long = [make_pair("1", "mine", "word " * 90, "So", exact=True)]
    encoded = encode_examples(long, encoder, max_refused=1.0, what="held-out examples", may_be_empty=True)
    assert (len(encoded), encoded.token_ids.size, encoded.refused) == (0, 0, {"too_long": 1})
    assert "1 of 1 held-out examples are left out: 1 too long" in caplog.text
    with pytest.raises(DataError, match="held-out examples: no token carries loss"):
        encode_examples(long, encoder, max_refused=1.0, what="held-out examples")


def test_set_does_not_depend_on_how_many_are_encoded_at_once(
    load_model: LoadModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, template = load_model("prefix", "mistral")
    encoder = Encoder(tokenizer, template, 120)
    examples = [make_pair(str(n), "mine", "Why? " * n, "So " * (n % 4 + 1), exact=False) for n in range(9)]
    whole = encode_examples(examples, encoder, max_refused=0)
    monkeypatch.setattr("biomedllama_cli.instructions.encoding._BATCH", 2)
    parts = encode_examples(examples, encoder, max_refused=0)
    assert whole.token_ids.tolist() == parts.token_ids.tolist()
    assert whole.trained.tolist() == parts.trained.tolist()


def test_real_abstracts_lose_only_their_beginning(load_plain: LoadPlain, shared_data: Path) -> None:
    records = json.loads((shared_data / "pubmedqa" / "ori_pqal_nontest500.json").read_text())
    tokenizer = load_plain("llama")
    template = choose_template(tokenizer, "", "plain")
    examples = []
    for pmid, record in sorted(records.items())[:40]:
        abstract = " ".join(record["CONTEXTS"])
        prompt = f"### Context: {abstract}\n### Question: {record['QUESTION']}\n### Answer:"
        cuttable = (13, 13 + len(abstract))
        answer = f" {record['final_decision']}"
        examples.append(make_pair(pmid, "pubmedqa", prompt, answer, exact=True, cuttable=cuttable))
    encoded = encode_examples(examples, Encoder(tokenizer, template, 256), max_refused=0)
    assert encoded.cut_rows > 30
    assert int(encoded.lengths.max()) <= 256
    for number, example in enumerate(examples):
        row = encoded.row(number)
        prompt, answer = (turn.text for turn in example.turns)
        text = tokenizer.decode(row.token_ids)
        head, tail = prompt[:13], prompt[prompt.index("\n### Question: ") :]
        assert text.startswith(head)
        assert text.endswith(tail + answer)
        assert prompt.endswith(text[len(head) : -len(answer)])
        check_row(
            row,
            tokenizer,
            template,
            make_pair("1", "mine", text[: -len(answer)], answer, exact=True),
            [answer],
            tokenizer.eos_id,
        )
