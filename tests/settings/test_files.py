"""Settings files that are broken, ambiguous or hostile."""

from __future__ import annotations

from pathlib import Path

import pytest

from biomedllama_cli.errors import SettingsError
from biomedllama_cli.settings.files import parse_settings, read_settings_file


def test_an_empty_file_sets_nothing() -> None:
    assert parse_settings("# nothing\n", "f") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nseed: 2\n", "f is not valid YAML in line 2: the key 'seed' comes twice."),
        ("a: {b: 1, b: 2}", "f is not valid YAML in line 1: the key 'b' comes twice."),
        ("a: b: c", "f is not valid YAML in line 1: mapping values are not allowed here."),
        ("[1]", "f must be a mapping of settings, not list."),
        ("[" * 5000, "f is not a settings file: it is nested too deeply."),
        ("a: 2024-99-99", "f is not valid YAML: month must be in 1..12."),
    ],
)
def test_a_broken_file_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_settings(text, "f")
    assert caught.value.message == message


def test_a_tag_that_would_run_code_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "made"
    with pytest.raises(SettingsError, match="could not determine a constructor"):
        parse_settings(f"seed: !!python/object/apply:os.mkdir ['{target}']", "f")
    assert not target.exists()


def test_a_yaml_merge_is_no_double_key() -> None:
    text = "a: &x {b: 1}\nc: &y {d: 2}\ne:\n  <<: *x\n  <<: *y\n"
    assert parse_settings(text, "f")["e"] == {"b": 1, "d": 2}


def test_a_missing_a_binary_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="there is no such file"):
        read_settings_file(tmp_path / "missing.yaml")
    with pytest.raises(SettingsError, match="cannot be read"):
        read_settings_file(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"seed: \xff\xfe")
    with pytest.raises(SettingsError, match=r"not UTF-8 text \(byte 6\)"):
        read_settings_file(tmp_path / "binary.yaml")


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbfseed: 1\n")
    assert read_settings_file(tmp_path / "bom.yaml") == {"seed": 1}
