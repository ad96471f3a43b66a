"""`/set`: what can change during a chat, and how it is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from biomedllama_cli.chat.changes import _is_changeable, change_setting, list_current
from biomedllama_cli.errors import SettingsError
from biomedllama_cli.settings.chat import ChatSettings
from biomedllama_cli.settings.leaves import iter_leaves
from biomedllama_cli.settings.resolve import resolve_settings

SETTINGS = ChatSettings()


@pytest.mark.parametrize(
    ("name", "raw", "section", "field", "value"),
    [
        ("temperature", "0.2", "reply", "temperature", 0.2),
        ("temperature", " 0 ", "reply", "temperature", 0.0),
        ("max-new-tokens", "64", "reply", "max_new_tokens", 64),
        ("--max-new-tokens", "64", "reply", "max_new_tokens", 64),
        ("reply.top_p", "1", "reply", "top_p", 1.0),
        ("repetition_penalty", "1.1", "reply", "repetition_penalty", 1.1),
        ("repetition_guard", "off", "reply", "repetition_guard", False),
        ("passages", "5", "sources", "passages", 5),
        ("profile", "clean", "exam", "profile", "clean"),
        ("Seed", "7", None, "seed", 7),
    ],
)
def test_a_value_changes_and_nothing_else(
    name: str, raw: str, section: str | None, field: str, value: object
) -> None:
    changed, said = change_setting(SETTINGS, name, raw)
    holder = getattr(changed, section) if section else changed
    assert getattr(holder, field) == value
    assert type(getattr(holder, field)) is type(value)
    assert said.startswith(f"{field} is now ")
    after, before = changed.model_dump(), SETTINGS.model_dump()
    for dump in (after, before):
        del (dump[section] if section else dump)[field]
    assert after == before


@pytest.mark.parametrize(
    ("raw", "texts"),
    [
        ('"###"', ("###",)),
        ("###", ("###",)),
        ("'a b' Q:", ("a b", "Q:")),
        (r'"\n\n" "say \"no\""', ("\n\n", 'say "no"')),
        (r"'\n'", (r"\n",)),
        ('"ß"', ("ß",)),
        ('"none"', ()),
        ("none", ()),
        ("", ()),
        ('"a"b c', ('"a"b', "c")),
        ('it"s', ('it"s',)),
        ('"', ('"',)),
    ],
)
def test_stop_texts_are_read_as_they_are_typed(raw: str, texts: tuple[str, ...]) -> None:
    begun, _ = change_setting(SETTINGS, "stop", "before")
    changed, said = change_setting(begun, "stop", raw)
    # Only the bare word stands for no text.
    assert changed.reply.stop == (("none",) if raw == '"none"' else texts)
    assert said.endswith('(was "before").')


@pytest.mark.parametrize("raw", ['""', "ok ''"])
def test_a_stop_text_that_every_reply_holds_is_refused(raw: str) -> None:
    with pytest.raises(SettingsError, match=r"stop is \[.*''\], but must be texts with something in them\."):
        change_setting(SETTINGS, "stop", raw)


def test_a_broken_quote_is_named() -> None:
    with pytest.raises(SettingsError, match=r"no text in quotes as JSON"):
        change_setting(SETTINGS, "stop", r'"\q"')


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("temperature", "warm"),
        ("temperature", "-1"),
        ("temperature", "inf"),
        ("top_p", "1.5"),
        ("max_new_tokens", "0"),
        ("max_new_tokens", "2.5"),
        ("repetition_guard", "maybe"),
        ("passages", "none"),
        ("profile", "cleen"),
        ("seed", "-3"),
    ],
)
def test_a_wrong_value_is_refused_in_the_words_of_the_command_line(name: str, raw: str) -> None:
    flag = "--" + name.replace("_", "-")
    with pytest.raises(SettingsError) as on_command_line:
        resolve_settings(ChatSettings, preset=None, config=None, environment={}, flags={name: raw})
    with pytest.raises(SettingsError) as in_chat:
        change_setting(SETTINGS, name, raw)
    assert in_chat.value.message == on_command_line.value.message.replace(flag, name)
    assert in_chat.value.hint == on_command_line.value.hint


def test_a_missing_value_is_asked_for() -> None:
    with pytest.raises(SettingsError, match=r"temperature needs a value: it is 0\.7 now\."):
        change_setting(SETTINGS, "temperature", "  ")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("temprature", "Did you mean temperature?"),
        ("temp", "Did you mean temperature?"),
        ("max_tokens", "Did you mean max_new_tokens?"),
        ("xyz", "Type /set alone to see what can change."),
        ("", "Type /set alone to see what can change."),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(SettingsError, match="is no setting of a chat") as refused:
        change_setting(SETTINGS, name, "1")
    assert refused.value.hint == hint


@pytest.mark.parametrize(
    ("name", "reason", "hint"),
    [
        ("dtype", "the model is loaded with it", "Start `biomedllama chat` with --dtype."),
        ("device", "the model is loaded with it", "Start `biomedllama chat` with --device."),
        ("model", "belongs to the model that is loaded", "Start `biomedllama chat` with --model."),
        ("corpus", "the corpus is opened", "Start `biomedllama chat` with --corpus."),
        ("template", "written with it from its beginning", "Start `biomedllama chat` with --template."),
        ("system", "a command of its own", "Type /system TEXT."),
        ("save", "a command of its own", "Type /save FILE."),
    ],
)
def test_what_cannot_change_says_why(name: str, reason: str, hint: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} cannot be set during a chat: .*{reason}") as refused:
        change_setting(SETTINGS, name, "x")
    assert refused.value.hint == hint


def test_every_setting_either_changes_or_has_a_reason_not_to() -> None:
    for leaf in iter_leaves(ChatSettings):
        if not _is_changeable(leaf):
            with pytest.raises(SettingsError, match=r"cannot be set during a chat: \w"):
                change_setting(SETTINGS, leaf.dotted, "1")


def test_the_list_shows_what_can_be_typed_back() -> None:
    settings = SETTINGS
    for name, raw in (("stop", r'"\n" "a b"'), ("repetition_guard", "off"), ("top_p", "0.25")):
        settings, _ = change_setting(settings, name, raw)
    listed = {each.name: each for each in list_current(settings)}
    assert listed["temperature"].value == "0.7"
    assert listed["profile"].completions[:2] == ("paper", "clean")
    assert listed["repetition_guard"].completions == ("on", "off")
    assert "dtype" not in listed
    again = SETTINGS
    for each in listed.values():
        again, _ = change_setting(again, each.name, each.value)
    assert again == settings


def test_an_equal_value_says_so() -> None:
    same, said = change_setting(SETTINGS, "temperature", "0.70")
    assert (same, said) == (SETTINGS, "temperature is 0.7 already.")


def test_paths_of_the_settings_survive_a_change() -> None:
    settings = ChatSettings(workspace=Path("here"), model="m")
    changed, _ = change_setting(settings, "seed", "3")
    assert (changed.workspace, changed.model, changed.seed) == (Path("here"), "m", 3)
