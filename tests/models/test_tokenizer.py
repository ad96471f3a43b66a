"""The tokenizer that prepares a corpus is provably the one the model uses."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as BackendTokenizer
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import biomedllama_cli.models.tokenizer as tokenizer_module
from biomedllama_cli.errors import ModelError, Resumable, SettingsError, UnavailableError
from biomedllama_cli.models.tokenizer import Tokenizer, load_tokenizer, train_tokenizer

TEXTS = [
    "Serum ferritin was 12.5 ng/mL in 38 patients; p < 0.001.",
    "Mutations of BRCA1 and BRCA2 predispose to breast cancer.",
    "  Two  leading and   inner spaces\n\n\tand a tab",
    "β-catenin, TNF-α and 日本語 🧬",
]


def save_byte_level(folder: Path, *, bos: str | None, eos: str | None = "<|end|>") -> Path:
    """Write a byte-level BPE folder as Llama-3 (with BOS) or Qwen (without) have it."""
    backend = BackendTokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    specials = [token for token in (bos, eos) if token]
    backend.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=specials,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    if bos:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, backend.token_to_id(bos))]
        )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=bos, eos_token=eos)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return train_tokenizer(TEXTS * 3, 380, tmp_path_factory.mktemp("trained"), seed=0)


def test_trained_tokenizer_has_llamas_special_ids(trained: Tokenizer) -> None:
    assert (trained.bos_id, trained.eos_id, trained.vocabulary_size) == (1, 2, 380)
    assert trained.adds_bos
    assert trained.kind == "sentencepiece"


def test_training_twice_gives_the_same_tokenizer(trained: Tokenizer, tmp_path: Path) -> None:
    again = train_tokenizer(TEXTS * 3, 380, tmp_path, seed=0)
    assert again.fingerprint == trained.fingerprint
    other = train_tokenizer(TEXTS[:2] * 3, 330, tmp_path / "other", seed=0)
    assert other.fingerprint != trained.fingerprint


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=60))
@settings(max_examples=60)
def test_byte_fallback_loses_no_character(trained: Tokenizer, text: str) -> None:
    # SentencePiece writes U+2581 for a space, and so cannot tell the two apart; NUL ends its strings.
    text = text.replace("\u2581", "").replace("\x00", "")
    assert trained.decode(trained.encode(text)) == text


def test_saved_folder_loads_in_plain_transformers_with_the_same_ids(
    trained: Tokenizer, tmp_path: Path
) -> None:
    trained.save(tmp_path)
    plain = AutoTokenizer.from_pretrained(tmp_path)
    assert plain.get_vocab() == {trained._backend.id_to_piece(i): i for i in range(380)}
    for text in TEXTS:
        assert plain(text)["input_ids"] == [trained.bos_id, *trained.encode(text)]
        assert plain.decode(trained.encode(text)) == text
    again = load_tokenizer(str(tmp_path))
    assert (again.kind, again.fingerprint) == ("sentencepiece", trained.fingerprint)


@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen3"])
def test_saved_folder_stays_equal_beside_a_model_config(
    trained: Tokenizer, tmp_path: Path, model_type: str
) -> None:
    trained.save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    plain = AutoTokenizer.from_pretrained(tmp_path)
    assert [plain(t, add_special_tokens=False)["input_ids"] for t in TEXTS] == trained.encode_batch(TEXTS)


def test_fingerprint_does_not_depend_on_who_reads_the_vocabulary(trained: Tokenizer, tmp_path: Path) -> None:
    trained.save(tmp_path)
    (tmp_path / "tokenizer.model").unlink()
    read_by_transformers = load_tokenizer(str(tmp_path))
    assert read_by_transformers.kind == "huggingface"
    assert read_by_transformers.fingerprint == trained.fingerprint
    assert read_by_transformers.encode_batch(TEXTS) == trained.encode_batch(TEXTS)


@pytest.mark.parametrize(("bos", "adds_bos"), [("<|begin|>", True), (None, False)])
def test_byte_level_folders_keep_their_own_bos_convention(
    tmp_path: Path, bos: str | None, adds_bos: bool
) -> None:
    tokenizer = load_tokenizer(str(save_byte_level(tmp_path / "a", bos=bos)))
    assert (tokenizer.kind, tokenizer.adds_bos) == ("huggingface", adds_bos)
    assert (tokenizer.bos_id is None) == (bos is None)
    assert [tokenizer.decode(tokenizer.encode(text)) for text in TEXTS] == TEXTS
    tokenizer.save(tmp_path / "b")
    again = load_tokenizer(str(tmp_path / "b"))
    assert again.fingerprint == tokenizer.fingerprint
    assert again.adds_bos == adds_bos
    assert again.encode_batch(TEXTS) == tokenizer.encode_batch(TEXTS)


def test_special_tokens_spelled_in_a_text_stay_text(trained: Tokenizer, tmp_path: Path) -> None:
    for tokenizer, hostile in (
        (trained, "a </s> b <s>"),
        (load_tokenizer(str(save_byte_level(tmp_path, bos="<|begin|>"))), "a <|end|> b <|begin|>"),
    ):
        ids = tokenizer.encode(hostile)
        assert tokenizer.eos_id not in ids
        assert tokenizer.bos_id not in ids
        assert tokenizer.decode(ids) == hostile


@given(st.text(alphabet=" ab\u2581\nβ1.", max_size=300))
@settings(max_examples=200)
def test_cutting_a_long_text_changes_no_id(trained: Tokenizer, text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer_module, "_LONG_TEXT", 5)
        cut = trained.encode(text)
    assert cut == trained._backend.encode(text)


def test_long_texts_are_cut(trained: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    whole = tokenizer_module.iter_cuts

    def watch(text: str, length: int) -> list[str]:
        parts = list(whole(text, length))
        lengths.extend(map(len, parts))
        return parts

    monkeypatch.setattr(tokenizer_module, "iter_cuts", watch)
    assert len(trained.encode("iron " * 200_000)) > 200_000
    assert len(lengths) > 2
    assert max(lengths) < 300_000


def test_tokenizer_without_eos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="end-of-sequence"):
        load_tokenizer(str(save_byte_level(tmp_path, bos="<|begin|>", eos=None)))


@pytest.mark.parametrize("name", ["./nowhere", "nowhere.model", "/no/such/folder", ""])
def test_missing_path_is_refused_without_asking_the_hub(name: str) -> None:
    with pytest.raises(ModelError, match="neither a folder nor a file"):
        load_tokenizer(name)


def test_broken_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.model").write_bytes(b"not a model")
    with pytest.raises(ModelError, match="not a SentencePiece model"):
        load_tokenizer(str(tmp_path / "x.model"))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ModelError, match=r"holds no tokenizer\.json"):
        load_tokenizer(str(empty))
    (empty / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="cannot load"):
        load_tokenizer(str(empty))


def test_signal_while_transformers_loads_is_not_taken_for_a_broken_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: object, **options: object) -> None:
        raise Resumable("Stopped by SIGTERM.")

    save_byte_level(tmp_path, bos=None)
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", stop)
    with pytest.raises(Resumable):
        load_tokenizer(str(tmp_path))


def test_hub_id_offline_names_the_way_out() -> None:
    with pytest.raises(UnavailableError, match="huggyllama/llama-7b") as caught:
        load_tokenizer("huggyllama/llama-7b")
    assert "--tokenizer" in caught.value.hint
    assert "--vocabulary-size" in caught.value.hint


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_impossible_vocabulary_size_is_a_settings_error(tmp_path: Path, size: int) -> None:
    with pytest.raises(SettingsError, match=rf"vocabulary_size = {size}"):
        train_tokenizer(TEXTS, size, tmp_path, seed=0)


def test_llama_vocabulary_gives_the_same_ids_in_plain_transformers(shared_data: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(shared_data / "tokenizer" / "llama" / "tokenizer.model"))
    assert (tokenizer.vocabulary_size, tokenizer.bos_id, tokenizer.eos_id) == (32_000, 1, 2)
    assert tokenizer.adds_bos
    tokenizer.save(tmp_path)
    plain = AutoTokenizer.from_pretrained(tmp_path)
    shard = (shared_data / "pile" / "00.jsonl.zst").open("rb")
    lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(shard), encoding="utf-8")
    texts = [json.loads(line)["text"] for line in lines] + ["a  b", " a", " " * 40 + "y", "\n\n  x"]
    assert len(texts) > 100
    assert plain(texts, add_special_tokens=False)["input_ids"] == tokenizer.encode_batch(texts)
    assert plain("a b")["input_ids"][0] == 1
