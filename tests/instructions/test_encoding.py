"""The trained tokens are exactly the answer and its end, and the ids before them those of inference."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_models import (
    AROUND,
    CHATML,
    END,
    ENDLESS,
    MODELS,
    REWRITING,
    build_sentencepiece,
    load_chat_model,
    save_byte_level,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from biomedllama_cli.errors import DataError, SettingsError
from biomedllama_cli.instructions.encoding import CannotFit, EncodedExample, Encoder, encode_examples
from biomedllama_cli.instructions.example import Example, Role, Turn, make_pair
from biomedllama_cli.models.chat_template import Template, choose_template
from biomedllama_cli.models.tokenizer import Tokenizer, load_tokenizer

TWO_TURNS = Example(
    "1",
    "mine",
    (
        Turn("system", "You know the heart."),
        Turn("user", "Which valve lies left?"),
        Turn("assistant", "The mitral valve."),
        Turn("user", "And what inhibits platelets?"),
        Turn("assistant", "Aspirin"),
    ),
)
LoadModel = Callable[[str, str], tuple[Tokenizer, Template]]


@pytest.fixture(scope="session")
def load_model(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> LoadModel:
    root = tmp_path_factory.mktemp("chat")

    @cache
    def load(kind: str, name: str) -> tuple[Tokenizer, Template]:
        file = None
        if kind == "llama":
            file = request.getfixturevalue("shared_data") / "tokenizer" / "llama" / "tokenizer.model"
        return load_chat_model(kind, name, root / f"{kind}-{name}", file)

    return load


@pytest.fixture(scope="session")
def load_plain(tmp_path_factory: pytest.TempPathFactory, request: Any) -> Callable[[str], Tokenizer]:
    root = tmp_path_factory.mktemp("plain")

    @cache
    def load(kind: str) -> Tokenizer:
        if kind == "llama":
            folder = request.getfixturevalue("shared_data") / "tokenizer" / "llama"
            return load_tokenizer(str(folder / "tokenizer.model"))
        if kind == "sentencepiece":
            return build_sentencepiece(root / "trained")
        return load_tokenizer(str(save_byte_level(root / "byte-level", ["<s>", "</s>"], adds_bos=True)))

    return load


def list_runs(row: EncodedExample) -> list[tuple[int, list[int]]]:
    """Return where each run of trained tokens begins, and its ids."""
    runs = []
    for trained, places in groupby(range(len(row.trained)), key=row.trained.__getitem__):
        found = list(places)
        if trained:
            runs.append((found[0], [row.token_ids[place] for place in found]))
    return runs


def read(tokenizer: Tokenizer, ids: list[int]) -> str:
    """Decode ids behind others, with the library alone: SentencePiece drops a space at the beginning of all."""
    if tokenizer.kind == "sentencepiece":
        return tokenizer._backend.decode([tokenizer._backend.piece_to_id("<0x0A>"), *ids])[1:]
    if tokenizer.encode("\na") != [*tokenizer.encode("\n"), *tokenizer.encode("a")]:
        before = tokenizer._backend.convert_tokens_to_ids("<0x0A>")
        return tokenizer._backend.decode([before, *ids], clean_up_tokenization_spaces=False)[1:]
    return tokenizer._backend.decode(ids, clean_up_tokenization_spaces=False)


def check_row(
    row: EncodedExample,
    tokenizer: Tokenizer,
    template: Template,
    example: Example,
    answers: list[str],
    end: int,
) -> None:
    """Check that the runs say the answers and end, and that each continues what inference feeds."""
    runs = list_runs(row)
    assert [read(tokenizer, ids[:-1]) for _, ids in runs] == answers
    assert [ids[-1] for _, ids in runs] == [end] * len(answers)
    turns = [(turn.role, turn.text) for turn in example.turns]
    places = [number for number, (role, _) in enumerate(turns) if role == "assistant"][-len(runs) :]
    for (start, _), place in zip(runs, places, strict=True):
        fed = template.encode_prompt(tokenizer, turns[:place], exact=example.exact)
        assert row.token_ids[:start] == fed
    if tokenizer.adds_bos:
        assert row.token_ids[0] == tokenizer.bos_id
        assert row.token_ids[1] != tokenizer.bos_id


def end_id(tokenizer: Tokenizer, name: str) -> int:
    if tokenizer.kind == "sentencepiece" or END[name] == "</s>":
        return tokenizer.eos_id
    return tokenizer._backend.convert_tokens_to_ids(END[name])


@pytest.mark.parametrize(("kind", "name"), MODELS)
def test_last_turn_of_every_template_is_its_answer_and_end(
    kind: str, name: str, load_model: LoadModel
) -> None:
    tokenizer, template = load_model(kind, name)
    row = Encoder(tokenizer, template, 512, "last-turn").encode(TWO_TURNS)
    before, after = AROUND.get(name, ("", ""))
    check_row(row, tokenizer, template, TWO_TURNS, [f"{before}Aspirin{after}"], end_id(tokenizer, name))
    assert row.trained[-1]


@pytest.mark.parametrize(("kind", "name"), MODELS)
def test_all_turns_of_every_template_are_answers_and_ends(
    kind: str, name: str, load_model: LoadModel
) -> None:
    tokenizer, template = load_model(kind, name)
    encoder = Encoder(tokenizer, template, 512, "all-turns")
    if name in REWRITING:
        with pytest.raises(SettingsError, match="train_on") as caught:
            encoder.encode(TWO_TURNS)
        assert "--train-on last-turn" in caught.value.hint
        return
    row = encoder.encode(TWO_TURNS)
    before, after = AROUND.get(name, ("", ""))
    answers = [f"{before}{answer}{after}" for answer in ("The mitral valve.", "Aspirin")]
    check_row(row, tokenizer, template, TWO_TURNS, answers, end_id(tokenizer, name))


@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece", "llama"])
@pytest.mark.parametrize("train_on", ["all-turns", "last-turn"])
def test_plain_text_trains_answers_and_eos(kind: str, train_on: Any, load_plain: Any) -> None:
    tokenizer = load_plain(kind)
    template = choose_template(tokenizer, "", "plain")
    row = Encoder(tokenizer, template, 512, train_on).encode(TWO_TURNS)
    answers = ["The mitral valve.", "Aspirin"][-1 if train_on == "last-turn" else 0 :]
    check_row(row, tokenizer, template, TWO_TURNS, answers, tokenizer.eos_id)


TEXTS = st.text(
    alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\x00\u2581"), max_size=30
)
SNIPPETS = st.sampled_from(
    [
        "\n",
        "\n\n",
        " ",
        "  ",
        " (A) iron",
        "</s>",
        "<s>",
        "<|im_end|>",
        "<end_of_turn>",
        "[INST]",
        "é",
        "\u0301",
        "β-",
    ]
)
HARD = st.lists(TEXTS | SNIPPETS, min_size=1, max_size=4).map("".join)


@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece", "llama"])
@given(prompt=HARD, answer=HARD)
@settings(max_examples=60, deadline=None)
def test_any_plain_answer_is_trained_to_the_character(
    kind: str, load_plain: Any, prompt: str, answer: str
) -> None:
    tokenizer = load_plain(kind)
    template = choose_template(tokenizer, "", "plain")
    for exact in (True, False):
        example = make_pair("1", "mine", prompt, answer, exact=exact)
        if not answer.strip():
            with pytest.raises(CannotFit, match="empty_answer"):
                Encoder(tokenizer, template, 2048).encode(example)
            return
        row = Encoder(tokenizer, template, 2048).encode(example)
        check_row(row, tokenizer, template, example, [answer], tokenizer.eos_id)


@pytest.mark.parametrize(("kind", "name"), MODELS)
@given(prompt=HARD, answer=HARD)
@settings(max_examples=25, deadline=None)
def test_any_chat_answer_is_trained_as_the_template_writes_it(
    kind: str, name: str, load_model: LoadModel, prompt: str, answer: str
) -> None:
    tokenizer, template = load_model(kind, name)
    example = make_pair("1", "mine", prompt, answer, exact=False)
    if not answer.strip():
        with pytest.raises(CannotFit, match="empty_answer"):
            Encoder(tokenizer, template, 2048).encode(example)
        return
    row = Encoder(tokenizer, template, 2048).encode(example)
    written = {
        "llama2": f" {answer.strip()} ",
        "llama3": answer.strip(),
        "gemma": answer.strip(),
        "qwen3": answer.lstrip("\n"),
    }.get(name, answer)
    check_row(row, tokenizer, template, example, [written], end_id(tokenizer, name))


@pytest.mark.parametrize(("kind", "name"), [pair for pair in MODELS if pair[1] not in REWRITING])
@given(texts=st.lists(HARD.filter(str.strip), min_size=4, max_size=4))
@settings(max_examples=15, deadline=None)
def test_every_turn_of_any_conversation_continues_what_inference_feeds(
    kind: str, name: str, load_model: LoadModel, texts: list[str]
) -> None:
    tokenizer, template = load_model(kind, name)
    roles: list[Role] = ["user", "assistant", "user", "assistant"]
    example = Example("1", "mine", tuple(map(Turn, roles, texts)))
    row = Encoder(tokenizer, template, 4096).encode(example)
    before, after = AROUND.get(name, ("", ""))
    trims = name in ("llama2", "llama3", "gemma")
    answers = [f"{before}{text.strip() if trims else text}{after}" for text in texts[1::2]]
    check_row(row, tokenizer, template, example, answers, end_id(tokenizer, name))


@pytest.mark.parametrize(("kind", "name"), MODELS)
def test_control_tokens_spelled_by_anybody_stay_text(kind: str, name: str, load_model: LoadModel) -> None:
    tokenizer, template = load_model(kind, name)
    clean = make_pair("1", "mine", "Say it", "Done", exact=False)
    end = END[name]
    forged = make_pair("1", "mine", f"Say it{end} {end}", f"Do{end}ne", exact=False)
    encoder = Encoder(tokenizer, template, 512)
    expected = encoder.encode(clean).token_ids.count(end_id(tokenizer, name))
    row = encoder.encode(forged)
    assert row.token_ids.count(end_id(tokenizer, name)) == expected
    before, after = AROUND.get(name, ("", ""))
    check_row(row, tokenizer, template, forged, [f"{before}Do{end}ne{after}"], end_id(tokenizer, name))


def test_dummy_prefix_never_enters_an_answer(load_plain: Any) -> None:
    tokenizer = load_plain("llama")
    template = choose_template(tokenizer, "", "plain")
    row = Encoder(tokenizer, template, 64).encode(make_pair("1", "mine", "Q: ", "Yes", exact=True))
    # `Q: Yes` as one text would have the piece `▁Yes`, which the prompt's own space forbids.
    assert [tokenizer._backend.id_to_piece(i) for i in list_runs(row)[0][1]] == ["Yes", "</s>"]


def test_published_answer_continues_its_cue(load_plain: Any) -> None:
    tokenizer = load_plain("llama")
    template = choose_template(tokenizer, "", "plain")
    row = Encoder(tokenizer, template, 64).encode(
        make_pair("1", "mine", "### Question: Rust?\n### Answer:", " (A) iron", exact=True)
    )
    whole = tokenizer.encode("### Question: Rust?\n### Answer: (A) iron")
    assert row.token_ids == [tokenizer.bos_id, *whole, tokenizer.eos_id]


def test_blank_before_an_exact_answer_is_left_to_the_chat_template(load_model: LoadModel) -> None:
    tokenizer, template = load_model("byte-level", "chatml")
    example = make_pair("1", "mine", "Rust?\n### Answer:", " (A) iron", exact=True)
    check_row(
        Encoder(tokenizer, template, 128).encode(example),
        tokenizer,
        template,
        example,
        ["(A) iron"],
        end_id(tokenizer, "chatml"),
    )


def test_thoughts_of_the_last_turn_are_trained(load_model: LoadModel) -> None:
    tokenizer, template = load_model("byte-level", "qwen3")
    answer = "<think>\nThe heart\n</think>\n\nAspirin"
    row = Encoder(tokenizer, template, 256).encode(make_pair("1", "mine", "What?", answer, exact=False))
    ((start, ids),) = list_runs(row)
    assert read(tokenizer, ids[:-1]) == answer
    assert row.token_ids[:start] == template.encode_prompt(tokenizer, [("user", "What?")], thinking=True)


def test_turns_without_an_end_get_eos_and_only_the_last_can_be_trained(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(save_byte_level(tmp_path, ["<s>", "</s>"], adds_bos=True)))
    (tmp_path / "chat_template.jinja").write_text(ENDLESS)
    template = choose_template(tokenizer, str(tmp_path), "auto")
    row = Encoder(tokenizer, template, 256, "last-turn").encode(TWO_TURNS)
    check_row(row, tokenizer, template, TWO_TURNS, ["Aspirin"], tokenizer.eos_id)
    with pytest.raises(SettingsError, match="train_on"):
        Encoder(tokenizer, template, 256, "all-turns").encode(TWO_TURNS)


ABSTRACT = "Background words stand here. Insulin lowers glucose. Aspirin inhibits platelets."
CONTEXT = f"### Context: {ABSTRACT}\n### Question: Does it?\n### Answer:"


def make_context(answer: str = " (A) yes") -> Example:
    return make_pair("7", "mine", CONTEXT, answer, exact=True, cuttable=(13, 13 + len(ABSTRACT)))


@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece", "llama"])
def test_abstract_is_cut_from_the_left_and_nothing_else(kind: str, load_plain: Any) -> None:
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
        (make_context(" (A) yes" * 40), "too_long_without_its_context"),
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
    example: Example, reason: str, load_plain: Any
) -> None:
    tokenizer = load_plain("sentencepiece")
    encoder = Encoder(tokenizer, choose_template(tokenizer, "", "plain"), 60)
    with pytest.raises(CannotFit) as caught:
        encoder.encode(example)
    assert caught.value.reason == reason


def test_answer_without_any_prompt_is_refused_where_no_bos_stands(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(save_byte_level(tmp_path, ["<s>", "</s>"], adds_bos=False)))
    encoder = Encoder(tokenizer, choose_template(tokenizer, "", "plain"), 60)
    with pytest.raises(CannotFit, match="empty_prompt"):
        encoder.encode(make_pair("1", "mine", "", "Yes", exact=True))


def test_turns_that_a_template_refuses_are_refused(load_model: LoadModel) -> None:
    tokenizer, template = load_model("byte-level", "gemma")
    twice = Example("1", "mine", (Turn("user", "a"), Turn("user", "b"), Turn("assistant", "c")))
    with pytest.raises(CannotFit, match="must alternate") as caught:
        Encoder(tokenizer, template, 60).encode(twice)
    assert caught.value.reason == "refused_by_chat_template"


def test_encoded_set_holds_the_rows_one_after_the_other(load_plain: Any) -> None:
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


def test_too_many_refused_examples_stop_the_run_with_their_counts(load_plain: Any) -> None:
    tokenizer = load_plain("sentencepiece")
    encoder = Encoder(tokenizer, choose_template(tokenizer, "", "plain"), 60)
    examples = [
        make_pair(str(n), "mine", "word " * (90 if n < 3 else 1), "So", exact=True) for n in range(10)
    ]
    examples.append(make_pair("e", "mine", "Why?", "", exact=True))
    with pytest.raises(DataError, match=r"4 of 11 examples \(36.4%\)") as caught:
        encode_examples(examples, encoder, max_refused=0.36)
    assert "too_long 3, empty_answer 1" in caught.value.message
    assert "--sequence-length" in caught.value.hint
    assert len(encode_examples(examples, encoder, max_refused=0.37)) == 7


def test_set_without_any_loss_is_an_error(load_plain: Any) -> None:
    tokenizer = load_plain("sentencepiece")
    encoder = Encoder(tokenizer, choose_template(tokenizer, "", "plain"), 10)
    long = [make_pair("1", "mine", "word " * 90, "So", exact=True)]
    with pytest.raises(DataError, match="no token carries loss, since all 1 are left out"):
        encode_examples(long, encoder, max_refused=1.0)
    with pytest.raises(DataError, match="there is none to train on"):
        encode_examples([], encoder, max_refused=1.0)


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


def test_template_that_changes_answers_is_refused(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(save_byte_level(tmp_path, ["<|im_start|>", "<|im_end|>"], adds_bos=False)))
    (tmp_path / "chat_template.jinja").write_text(
        CHATML.replace("message['content']", "message['content'] | upper")
    )
    template = choose_template(tokenizer, str(tmp_path), "chat")
    encoder = Encoder(tokenizer, template, 60)
    with pytest.raises(CannotFit, match="does not continue its own prompt") as caught:
        encoder.encode(make_pair("1", "mine", "Why?", "so", exact=False))
    assert caught.value.reason == "changed_by_chat_template"
    # A prompt with such an answer before it is fed as the template remembers it.
    turns = [("user", "Why?"), ("assistant", "so"), ("user", "How?")]
    assert "SO<|im_end|>" in tokenizer._backend.decode(template.encode_prompt(tokenizer, turns))


def test_mask_equals_the_one_of_generation_markers(load_model: LoadModel) -> None:
    tokenizer, template = load_model("byte-level", "chatml-marked")
    row = Encoder(tokenizer, template, 512).encode(TWO_TURNS)
    messages = [{"role": turn.role, "content": turn.text} for turn in TWO_TURNS.turns]
    theirs = tokenizer._backend.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    # Theirs goes on after the last end of turn, with the template's line end.
    assert theirs["input_ids"] == [*row.token_ids, *tokenizer.encode("\n")]
    assert theirs["assistant_masks"] == [*map(int, row.trained), 0]


def test_real_abstracts_lose_only_their_beginning(load_plain: Any, shared_data: Path) -> None:
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


@pytest.mark.parametrize("name", ["llama2", "zephyr"])
def test_real_instructions_are_trained_to_the_character(
    name: str, load_model: LoadModel, shared_data: Path
) -> None:
    tokenizer, template = load_model("llama", name)
    encoder = Encoder(tokenizer, template, 2048)
    records = json.loads((shared_data / "instruct" / "alpaca_format_roleplay300.json").read_text())[:40]
    before, after = AROUND.get(name, ("", ""))
    for record in records:
        example = make_pair("1", "alpaca", record["instruction"], record["output"], exact=False)
        answer = record["output"].strip() if before else record["output"]
        row = encoder.encode(example)
        check_row(row, tokenizer, template, example, [f"{before}{answer}{after}"], tokenizer.eos_id)
