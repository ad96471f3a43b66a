"""A model is written to as it was taught, or it is said why not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from chat_models import CHATML, GEMMA, LLAMA3, load_chat_model
from tiny import build_tokenizer
from transformers import AutoTokenizer

from biomedllama_cli.chat.style import Style, choose_style
from biomedllama_cli.errors import SettingsError
from biomedllama_cli.models.tokenizer import Tokenizer, load_tokenizer
from biomedllama_cli.models.tuning_facts import TuningOrigin, write_tuning_facts

TURNS = [
    ("system", "Be brief."),
    ("user", "What is aspirin?"),
    ("assistant", "The blood."),
    ("user", "Which?"),
]
STRICT = (
    "{% if messages[0]['role'] == 'user' %}{{ raise_exception('A system message is needed') }}{% endif %}"
    + CHATML
)


@pytest.fixture
def plain_folder(tmp_path: Path) -> Path:
    """A byte-level tokenizer with BOS and no chat template."""
    build_tokenizer("gemma3", tmp_path / "plain")
    return tmp_path / "plain"


def choose(folder: Path, wanted: str = "auto") -> tuple[Tokenizer, Style]:
    tokenizer = load_tokenizer(str(folder))
    return tokenizer, choose_style(tokenizer, str(folder), wanted)  # type: ignore[arg-type]


def test_a_base_model_goes_on_with_bare_text_and_is_said_to_be_one(plain_folder: Path) -> None:
    tokenizer, style = choose(plain_folder)
    assert style.name == "completion"
    assert "a base model goes on with the text; it was not taught to answer" in style.reason
    assert style.stop == ()
    assert style.end_ids == (tokenizer.eos_id,)
    ids = style.encode(tokenizer, TURNS)
    assert ids[0] == tokenizer.bos_id
    assert tokenizer.decode(ids) == "Be brief.\n\nWhat is aspirin?The blood.\n\nWhich?"


def test_a_model_with_a_chat_template_is_written_to_with_it(tmp_path: Path) -> None:
    tokenizer, template = load_chat_model("byte-level", "llama3", tmp_path / "chat")
    _, style = choose(tmp_path / "chat")
    assert (style.name, style.stop) == ("chat", ())
    assert set(style.end_ids) == set(template.end_ids)
    own = AutoTokenizer.from_pretrained(tmp_path / "chat")
    messages = [{"role": role, "content": text} for role, text in TURNS]
    expected = own.apply_chat_template(
        messages, chat_template=LLAMA3, add_generation_prompt=True, return_dict=False
    )
    assert style.encode(tokenizer, TURNS) == expected


@pytest.mark.parametrize("template", ["plain", "chat"])
@pytest.mark.parametrize("by_instruct", [True, False])
def test_a_tuned_model_is_written_to_as_it_was_tuned(
    template: str, by_instruct: bool, tmp_path: Path
) -> None:
    folder = tmp_path / "tuned"
    load_chat_model("byte-level", "chatml", folder)
    write_tuning_facts(folder, TuningOrigin(template, "last-turn", "org/base"))  # type: ignore[arg-type]
    if by_instruct:
        (folder / "mixture.json").write_text(json.dumps({}))
    _, style = choose(folder)
    assert style.name == {"plain": "instructed", "chat": "chat"}[template]
    assert ("it was tuned with" in style.reason) == (by_instruct or template == "chat")
    assert ("no partner for a conversation" in style.reason) != by_instruct


def test_the_snapshot_of_a_hub_id_tells_of_its_tuning(
    plain_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    commit = "a" * 40
    repository = tmp_path / "hub" / "models--org--tuned"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    (snapshot / "config.json").write_text("{}")
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    tokenizer = load_tokenizer(str(plain_folder))
    untold = choose_style(tokenizer, "org/tuned", "auto")
    assert untold.name == "completion"
    # Only what is seen is said: the weights alone may have been fetched.
    assert "no tuning.json beside it says that `instruct` tuned it" in untold.reason
    assert "--template instructed" in untold.reason
    write_tuning_facts(snapshot, TuningOrigin("plain", "last-turn", "org/base"))
    (snapshot / "mixture.json").write_text("{}")
    style = choose_style(tokenizer, "org/tuned", "auto")
    assert (style.name, style.reason) == ("instructed", "the prompts of `instruct`: it was tuned with them")


def test_instructed_prompts_are_those_of_training_and_end_before_the_next_question(
    plain_folder: Path,
) -> None:
    tokenizer, style = choose(plain_folder, "instructed")
    ids = style.encode(tokenizer, TURNS)
    assert tokenizer.decode(ids) == (
        "Be brief.\n\n### Instruction:\nWhat is aspirin?\n\n### Response:\nThe blood."
        "\n\n### Instruction:\nWhich?\n\n### Response:\n"
    )
    assert ids.count(tokenizer.eos_id) == 1
    assert any("\n### Instruction:" in stop for stop in style.stop)
    assert tokenizer.eos_id in style.end_ids


def test_a_wish_is_followed(tmp_path: Path, plain_folder: Path) -> None:
    load_chat_model("byte-level", "chatml", tmp_path / "chat")
    for wanted in ("chat", "instructed", "completion"):
        assert choose(tmp_path / "chat", wanted)[1].name == wanted
    with pytest.raises(SettingsError, match="has no chat template") as caught:
        choose(plain_folder, "chat")
    assert "--template instructed" in caught.value.hint
    assert "plain" not in caught.value.hint


def test_replies_stand_with_the_ids_they_were_said_with(tmp_path: Path, plain_folder: Path) -> None:
    load_chat_model("byte-level", "chatml", tmp_path / "chat")
    letters = TURNS[2][1]
    for folder, wanted in (
        (tmp_path / "chat", "chat"),
        (plain_folder, "instructed"),
        (plain_folder, "completion"),
    ):
        tokenizer, style = choose(folder, wanted)
        spelled = [token_id for letter in letters for token_id in tokenizer.encode(letter)]
        plain, said = (style.encode(tokenizer, TURNS, said=kept) for kept in (None, {letters: spelled}))
        assert len(said) > len(plain)
        assert tokenizer.decode(said) == tokenizer.decode(plain)
        start = next(i for i in range(len(said)) if said[i : i + len(spelled)] == spelled)
        assert said[:start] == plain[:start]
        # What somebody else says in the same words stays as it is encoded.
        asked = [("user", letters)]
        assert style.encode(tokenizer, asked, said={letters: spelled}) == style.encode(tokenizer, asked)


def test_a_template_without_a_place_for_a_system_message_gets_it_with_the_question(tmp_path: Path) -> None:
    load_chat_model("byte-level", "gemma", tmp_path / "gemma")
    tokenizer, style = choose(tmp_path / "gemma")
    assert GEMMA in (tmp_path / "gemma" / "chat_template.jinja").read_text()
    assert "Be brief.\n\nWhat is aspirin?" in tokenizer.decode(style.encode(tokenizer, TURNS))


def test_turns_that_a_template_refuses_are_told_with_a_way_out(tmp_path: Path) -> None:
    load_chat_model("byte-level", "chatml", tmp_path / "strict")
    (tmp_path / "strict" / "chat_template.jinja").write_text(STRICT)
    tokenizer, style = choose(tmp_path / "strict")
    assert style.encode(tokenizer, TURNS)
    with pytest.raises(SettingsError, match="A system message is needed") as caught:
        style.encode(tokenizer, TURNS[1:])
    assert "--template completion" in caught.value.hint
