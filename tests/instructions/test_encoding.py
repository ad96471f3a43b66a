"""The trained tokens are exactly the answer and its end, and the ids before them those of inference."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chat_models import AROUND, CHATML, END, ENDLESS, MODELS, REWRITING, save_byte_level
from hypothesis import given, settings
from hypothesis import strategies as st
from mask_checks import TWO_TURNS, LoadModel, LoadPlain, check_row, end_id, list_runs, read

from biomedllama_cli.errors import SettingsError
from biomedllama_cli.instructions.encoding import CannotFit, Encoder
from biomedllama_cli.instructions.example import Example, Role, Turn, make_pair
from biomedllama_cli.models.chat_template import choose_template
from biomedllama_cli.models.tokenizer import load_tokenizer


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
def test_plain_text_trains_answers_and_eos(kind: str, train_on: Any, load_plain: LoadPlain) -> None:
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
@settings(max_examples=60)
def test_any_plain_answer_is_trained_to_the_character(
    kind: str, load_plain: LoadPlain, prompt: str, answer: str
) -> None:
    tokenizer = load_plain(kind)
    template = choose_template(tokenizer, "", "plain")
    for exact in (True, False):
        example = make_pair("1", "mine", prompt, answer, exact=exact)
        if not answer.strip():
            with pytest.raises(CannotFit, match="empty answer"):
                Encoder(tokenizer, template, 2048).encode(example)
            return
        row = Encoder(tokenizer, template, 2048).encode(example)
        check_row(row, tokenizer, template, example, [answer], tokenizer.eos_id)


@pytest.mark.parametrize(("kind", "name"), MODELS)
@given(prompt=HARD, answer=HARD)
@settings(max_examples=25)
def test_any_chat_answer_is_trained_as_the_template_writes_it(
    kind: str, name: str, load_model: LoadModel, prompt: str, answer: str
) -> None:
    tokenizer, template = load_model(kind, name)
    example = make_pair("1", "mine", prompt, answer, exact=False)
    if not answer.strip():
        with pytest.raises(CannotFit, match="empty answer"):
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
@settings(max_examples=15)
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


def test_dummy_prefix_never_enters_an_answer(load_plain: LoadPlain) -> None:
    tokenizer = load_plain("llama")
    template = choose_template(tokenizer, "", "plain")
    row = Encoder(tokenizer, template, 64).encode(make_pair("1", "mine", "Q: ", "Yes", exact=True))
    # `Q: Yes` as one text would have the piece `▁Yes`, which the prompt's own space forbids.
    assert [tokenizer._backend.id_to_piece(i) for i in list_runs(row)[0][1]] == ["Yes", "</s>"]


def test_published_answer_continues_its_cue(load_plain: LoadPlain) -> None:
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


@pytest.mark.parametrize(
    ("kind", "name"), [("byte-level", "plain"), ("llama", "plain"), ("byte-level", "chatml")]
)
def test_an_answer_that_is_not_learnt_is_read_alone(
    kind: str, name: str, load_plain: LoadPlain, load_model: LoadModel
) -> None:
    tokenizer, template = load_model(kind, name) if name != "plain" else (load_plain(kind), None)
    template = template or choose_template(tokenizer, "", "plain")
    turns = list(TWO_TURNS.turns)
    whole = Encoder(tokenizer, template, 512).encode(TWO_TURNS)
    for place, kept in ((next(i for i, turn in enumerate(turns) if turn.role == "assistant"), 1), (-1, 0)):
        some = list(turns)
        some[place] = replace(some[place], learnt=False)
        row = Encoder(tokenizer, template, 512).encode(replace(TWO_TURNS, turns=tuple(some)))
        assert row.token_ids == whole.token_ids
        assert list_runs(row) == [list_runs(whole)[kept]]
    none = tuple(replace(turn, learnt=False) for turn in turns)
    with pytest.raises(CannotFit, match="nothing to learn"):
        Encoder(tokenizer, template, 512).encode(replace(TWO_TURNS, turns=none))


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
