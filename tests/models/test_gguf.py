"""GGUF files: the same logits and ids as the folder they were made from, and refusals of everything malformed."""

from __future__ import annotations

import struct
import tracemalloc
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf_writing import write_gguf
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tiny_llama import build_tiny_model
from transformers import AutoModelForCausalLM

from biomedllama_cli.errors import ModelError
from biomedllama_cli.models import gguf as gguf_files
from biomedllama_cli.models import gguf_tokenizer
from biomedllama_cli.models.chat_template import choose_template
from biomedllama_cli.models.gguf import find_gguf, read_gguf
from biomedllama_cli.models.gguf_header import MalformedHeader, parse_header
from biomedllama_cli.models.load import load_model, load_text_config
from biomedllama_cli.models.tokenizer import Tokenizer, load_tokenizer

TEXTS = [
    "Insulin lowers the concentration of glucose in 24 patients (12 women).",
    " a leading space", "   three", "runs  of   spaces\n\n\n 1.  x\t y", "é漢🙂", "", " ",
]  # fmt: skip
IDS = torch.tensor([[5, 17, 40, 7, 123, 99, 260, 33]])


@pytest.fixture(scope="session")
def tiny_gguf(tiny_folder, tmp_path_factory) -> Path:
    return write_gguf(tiny_folder("llama"), tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def logits_of(model, ids=IDS):
    with torch.inference_mode():
        return model(ids).logits


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_a_file_gives_the_logits_of_the_folder_it_was_made_from(family, tiny_folder, tmp_path):
    file = write_gguf(tiny_folder(family), tmp_path / "model.gguf")
    plain = AutoModelForCausalLM.from_pretrained(tiny_folder(family))
    if family == "mistral":  # a file says nothing of sliding windows
        plain.config.sliding_window = None
        plain = AutoModelForCausalLM.from_pretrained(tiny_folder(family), config=plain.config)
    torch.testing.assert_close(logits_of(load_model(str(file))), logits_of(plain), rtol=0, atol=1e-6)


def test_quantised_weights_are_unpacked_as_gguf_defines_them(tmp_path):
    build_tiny_model(tmp_path / "folder", adds_bos=False)
    q8 = gguf.GGMLQuantizationType.Q8_0
    file = write_gguf(tmp_path / "folder", tmp_path / "q8.gguf", quantization=q8)
    assert read_gguf(file).stored_as == "Q8_0"
    loaded = load_model(str(file)).state_dict()
    for name, weight in AutoModelForCausalLM.from_pretrained(tmp_path / "folder").state_dict().items():
        if weight.dim() == 1:
            assert torch.equal(loaded[name], weight)
            continue
        blocks = weight.reshape(*weight.shape[:-1], -1, 32)
        scale = (blocks.abs().amax(-1, keepdim=True) / 127).half().float()
        error = (loaded[name].reshape(blocks.shape) - blocks).abs()
        assert bool((error <= scale * 0.57 + 1e-6).all())
        assert not torch.equal(loaded[name], weight)
    half = load_model(str(file), dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}


def test_the_model_is_a_plain_one(tiny_gguf, tmp_path):
    model = load_model(str(tiny_gguf))
    assert not model.training
    assert not hasattr(model.config, "quantization_config")
    model.save_pretrained(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(logits_of(again), logits_of(model))


def test_half_precision_is_read_as_it_is(tiny_folder, tmp_path):
    f16 = gguf.GGMLQuantizationType.F16
    file = write_gguf(tiny_folder("llama"), tmp_path / "f16.gguf", quantization=f16)
    assert read_gguf(file).stored_as == "F16"
    loaded = load_model(str(file)).state_dict()
    for name, weight in AutoModelForCausalLM.from_pretrained(tiny_folder("llama")).state_dict().items():
        assert torch.equal(loaded[name], weight.half().float() if weight.dim() > 1 else weight)


def test_the_configuration_is_that_of_the_loaded_model(tiny_gguf):
    config, model = load_text_config(str(tiny_gguf)), load_model(str(tiny_gguf))
    assert type(config) is type(model.config)
    assert (config.hidden_size, config.vocab_size) == model.get_input_embeddings().weight.T.shape


def test_a_header_is_read_once_until_the_file_is_another(tiny_folder, tmp_path, monkeypatch):
    sizes = []

    def count(content, size):
        sizes.append(size)
        return parse_header(content, size)

    monkeypatch.setattr(gguf_files, "parse_header", count)
    file = write_gguf(tiny_folder("llama"), tmp_path / "model.gguf")
    for _ in range(2):
        load_tokenizer(str(file))
        assert load_model(str(file)).config.max_position_embeddings == 512
    assert sizes == [file.stat().st_size]
    other = write_gguf(tiny_folder("llama"), tmp_path / "other.gguf", metadata={"llama.context_length": 256})
    other.replace(file)
    assert load_model(str(file)).config.max_position_embeddings == 256
    assert len(sizes) == 2


def test_frequency_factors_are_applied(tiny_folder, tmp_path):
    factors = torch.tensor([1.0, 1.0, 2.0, 8.0])
    file = write_gguf(tiny_folder("llama"), tmp_path / "model.gguf", rope_factors=factors)
    stretched, plain = load_model(str(file)), AutoModelForCausalLM.from_pretrained(tiny_folder("llama"))
    rotary = plain.model.rotary_emb.inv_freq
    torch.testing.assert_close(stretched.model.rotary_emb.inv_freq, rotary / factors)
    assert not torch.allclose(logits_of(stretched), logits_of(plain), atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_ids_are_those_of_the_folders_tokenizer(family, tiny_folder, tmp_path):
    plain = load_tokenizer(str(tiny_folder(family)))
    file = write_gguf(tiny_folder(family), tmp_path / "model.gguf")
    tokenizer = load_tokenizer(str(file))
    assert tokenizer.encode_batch(TEXTS) == plain.encode_batch(TEXTS)
    assert [tokenizer.decode(ids) for ids in tokenizer.encode_batch(TEXTS)] == [
        plain.decode(ids) for ids in plain.encode_batch(TEXTS)
    ]
    assert (tokenizer.kind, tokenizer.bos_id, tokenizer.eos_id) == ("huggingface", plain.bos_id, plain.eos_id)


def test_a_vocabulary_that_does_not_name_its_unknown_piece_gives_the_same_ids(
    tiny_gguf, tiny_folder, tmp_path
):
    file = write_gguf(tiny_folder("llama"), tmp_path / "model.gguf", names_unknown=False)
    assert "tokenizer.ggml.unknown_token_id" not in read_gguf(file).metadata
    assert load_tokenizer(str(file)).encode_batch(TEXTS) == load_tokenizer(str(tiny_gguf)).encode_batch(TEXTS)


def test_ids_of_articles_are_those_of_sentencepiece(shared_data, tiny_gguf, tiny_folder):
    text = (shared_data / "pubmed" / "pubmed2.xml").read_text(encoding="utf-8").splitlines()
    plain = load_tokenizer(str(tiny_folder("llama")))
    assert load_tokenizer(str(tiny_gguf)).encode_batch(text) == plain.encode_batch(text)


@pytest.mark.parametrize(("says", "adds"), [({}, True), ({"tokenizer.ggml.add_bos_token": False}, False)])
def test_the_file_says_whether_bos_goes_first(says, adds, tiny_folder, tmp_path):
    file = write_gguf(tiny_folder("llama"), tmp_path / "model.gguf", metadata=says)
    tokenizer = load_tokenizer(str(file))
    tokenizer.save(tmp_path / "saved")
    saved = load_tokenizer(str(tmp_path / "saved"))
    assert (tokenizer.adds_bos, saved.adds_bos) == (adds, adds)
    assert saved.encode_batch(TEXTS) == tokenizer.encode_batch(TEXTS)
    assert saved.fingerprint == tokenizer.fingerprint


def test_bos_goes_before_words_that_stay_whole(tmp_path):
    build_tiny_model(tmp_path / "folder", adds_bos=False)
    for words, adds in (("gpt-2", False), ("llama-bpe", True)):
        file = write_gguf(tmp_path / "folder", tmp_path / f"{words}.gguf", words=words)
        tokenizer = load_tokenizer(str(file))
        tokenizer.save(tmp_path / words)
        assert (tokenizer.adds_bos, load_tokenizer(str(tmp_path / words)).adds_bos) == (adds, adds)
        ids = tokenizer._backend("Iron", "Zinc")["input_ids"]
        assert ids.count(tokenizer.bos_id) == 2 * adds


def test_the_chat_template_of_the_file_is_used(tiny_folder, tmp_path):
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"
    file = write_gguf(
        tiny_folder("llama"), tmp_path / "model.gguf", metadata={"tokenizer.chat_template": template}
    )
    tokenizer = load_tokenizer(str(file))
    found = choose_template(tokenizer, str(file), "auto")
    assert (found.name, found.source) == ("chat", template)
    assert found.encode_prompt(tokenizer, [("user", "Hi")])[-1] == tokenizer.eos_id


@pytest.mark.parametrize(
    ("words", "split", "warns"),
    [
        ("gpt-2", ["a", "Ġ", "Ġ12"], False),
        ("smollm", ["a", "ĠĠ", "1", "2"], False),
        ("llama-bpe", ["a", "Ġ", "Ġ", "12"], False),
        ("qwen2", ["a", "Ġ", "Ġ", "1", "2"], False),
        ("martian", ["a", "Ġ", "Ġ12"], True),
    ],
)
def test_words_are_split_the_way_the_file_names(words, split, warns, tiny_folder, tmp_path, caplog):
    file = write_gguf(tiny_folder("qwen3"), tmp_path / "model.gguf", words=words)
    tokenizer = load_tokenizer(str(file))
    found = tokenizer._backend.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a  12")
    assert [word for word, _ in found] == split
    assert ("(martian) is not known here" in caplog.text) is warns


def test_a_file_is_known_by_its_first_bytes_too(tiny_gguf, tmp_path):
    blob = tmp_path / "sha256-0123"
    blob.write_bytes(tiny_gguf.read_bytes())
    assert find_gguf(str(blob)) == blob
    other = tmp_path / "weights.bin"
    other.write_bytes(b"PK..")
    assert find_gguf(str(other)) is None
    assert find_gguf("owner/name") is None


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"llama.block_count": 10**9}, "block_count is 1000000000"),
        ({"llama.feed_forward_length": 4_000_000_000}, "feed_forward_length is 4000000000"),
        ({"llama.attention.head_count": 0}, "head_count is 0"),
        ({"llama.rope.scaling.type": "yarn"}, r"stretches its positions \(yarn\)"),
        ({"split.count": 3}, "one of 3 parts"),
        ({"llama.embedding_length": 64}, "is needed"),
        ({"llama.block_count": 3}, "block_count is 3; a whole number from 1 to 2"),
        ({"llama.block_count": 1}, "holds blk.1.attn_.*, which its architecture has not"),
        ({"llama.attention.key_length": 7}, "heads of 7 numbers; an even number"),
        ({"llama.attention.head_count_kv": 3}, "as many queries for each key"),
        ({"llama.rope.dimension_count": 4}, "the same for keys, values and rotation"),
        ({"llama.rope.freq_base": 0.0}, r"freq_base is 0\.0; a number above 0"),
        ({"llama.attention.layer_norm_rms_epsilon": "small"}, "rms_epsilon is small"),
    ],
)
def test_a_model_that_does_not_fit_its_tensors_is_refused(metadata, message, tiny_folder, tmp_path):
    file = write_gguf(tiny_folder("llama"), tmp_path / "model.gguf", metadata=metadata)
    with pytest.raises(ModelError, match=message):
        load_model(str(file))


def test_a_model_without_one_of_its_tensors_is_refused(tiny_folder, tmp_path):
    file = write_gguf(tiny_folder("llama"), tmp_path / "model.gguf", without="output_norm.weight")
    with pytest.raises(ModelError, match=r"lacks the weights of 1 tensors, first model\.norm"):
        load_model(str(file))


def test_keys_that_begin_like_the_architecture_are_not_its_own(tiny_folder, tmp_path):
    file = write_gguf(tiny_folder("llama"), tmp_path / "model.gguf", metadata={"llamaX.block_count": 200_000})
    assert load_model(str(file)).config.num_hidden_layers == 2


def test_tensors_that_share_bytes_are_refused(tiny_gguf, tmp_path):
    first, second = (f"blk.{number}.attn_norm.weight" for number in range(2))
    content = bytearray(tiny_gguf.read_bytes())
    # name, dimensions, one size, type, offset
    places = [content.index(name.encode()) + len(name) + 16 for name in (first, second)]
    content[places[1] : places[1] + 8] = content[places[0] : places[0] + 8]
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    with pytest.raises(ModelError, match=f"'{second}' overlaps another"):
        read_gguf(file)


@pytest.mark.parametrize("name", [b"blk.7.", b"blk.x.", b"blk.00"])
def test_blocks_that_are_not_numbered_from_nothing_on_are_refused(name, tiny_gguf, tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(tiny_gguf.read_bytes().replace(b"blk.1.", name))
    with pytest.raises(ModelError, match="blocks numbered from 0 on"):
        read_gguf(file)


def test_more_blocks_than_any_model_has_are_refused_before_they_are_built(tmp_path):
    file = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_uint32("llama.block_count", 2000)
    for number in range(2000):
        writer.add_tensor(f"blk.{number}.attn_norm.weight", np.zeros(1, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelError, match="tensors of 2,000 blocks"):
        read_gguf(file)


SHAPES = (
    "block_count", "embedding_length", "feed_forward_length", "context_length", "vocab_size",
    "attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length",
    "attention.layer_norm_rms_epsilon", "rope.dimension_count", "rope.freq_base", "rope.scale_linear",
)  # fmt: skip
VALUES = st.one_of(
    st.integers(0, 40),
    st.sampled_from([2**31, 2**32 - 1]),
    st.floats(width=32),
    st.booleans(),
    st.text(max_size=4),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    family=st.sampled_from(["llama", "qwen3"]),
    changes=st.dictionaries(st.sampled_from(SHAPES), VALUES, max_size=3),
)
def test_a_model_described_by_any_values_runs_or_is_refused(family, changes, tiny_folder, tmp_path):
    metadata = {f"{family}.{key}": value for key, value in changes.items()}
    file = write_gguf(tiny_folder(family), tmp_path / "model.gguf", metadata=metadata)
    try:
        model = load_model(str(file))
    except ModelError:
        return
    assert logits_of(model).shape[1] == IDS.shape[1]


def test_other_architectures_are_refused_by_name(tiny_gguf, tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(tiny_gguf.read_bytes().replace(b"llama", b"mamba"))
    with pytest.raises(ModelError, match="architecture 'mamba'") as caught:
        read_gguf(file)
    assert "llama, qwen2, qwen3" in caught.value.hint


def test_a_token_outside_the_vocabulary_is_refused(tiny_folder, tmp_path):
    file = write_gguf(tiny_folder("llama"), tmp_path / "m.gguf")
    key = b"tokenizer.ggml.eos_token_id"
    content = bytearray(file.read_bytes())
    place = content.index(key) + len(key) + 4
    content[place : place + 4] = struct.pack("<I", 10**6)
    file.write_bytes(content)
    with pytest.raises(ModelError, match="eos token 1000000, outside"):
        load_tokenizer(str(file))


@pytest.fixture(scope="module")
def byte_level_gguf(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("byte-level")
    build_tiny_model(folder / "model", adds_bos=False)
    return write_gguf(folder / "model", folder / "model.gguf")


def load_described(file: Path, changes: dict[str, object], monkeypatch) -> Tokenizer:
    """Load the tokenizer of a file whose header says something else in places."""
    header = read_gguf(file)
    changed = replace(header, metadata=header.metadata | changes)
    monkeypatch.setattr(gguf_tokenizer, "read_gguf", lambda path: changed)
    return load_tokenizer(str(file))


def test_a_token_that_is_there_twice_is_refused(byte_level_gguf, monkeypatch):
    tokens = list(read_gguf(byte_level_gguf).metadata["tokenizer.ggml.tokens"])
    tokens[5] = tokens[-1]
    with pytest.raises(ModelError, match="holds a token twice"):
        load_described(byte_level_gguf, {"tokenizer.ggml.tokens": tokens}, monkeypatch)


NAMES = (
    "model", "pre", "tokens", "merges", "scores", "token_type", "add_bos_token", "add_space_prefix",
    "bos_token_id", "eos_token_id", "unknown_token_id", "padding_token_id",
)  # fmt: skip
ENTRIES = st.one_of(
    st.sampled_from(["gpt2", "llama", "llama-bpe", "qwen2"]), st.integers(-2, 400), st.floats(), st.booleans(),
    st.lists(st.integers(-2, 8), max_size=3), st.lists(st.text(max_size=3), max_size=3), st.text(max_size=3),
)  # fmt: skip


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.dictionaries(st.sampled_from(NAMES), ENTRIES, max_size=3))
@example(changes={"pre": ["a"]})
def test_a_vocabulary_described_by_any_values_is_read_or_refused(changes, byte_level_gguf, monkeypatch):
    said = {f"tokenizer.ggml.{name}": value for name, value in changes.items()}
    with monkeypatch.context() as patch, suppress(ModelError):
        tokenizer = load_described(byte_level_gguf, said, patch)
        assert isinstance(tokenizer.encode_batch(["Insulin 12"])[0], list)


def entry(key: bytes, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(key)) + key + struct.pack("<I", kind) + value


ARCHITECTURE = entry(b"general.architecture", 8, struct.pack("<Q", 5) + b"llama")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"GGML" + bytes(40), "does not begin with GGUF"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version is 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (b"GGUF" + struct.pack("<I", 3), "ends inside"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**63, 0), "claims 9,223,372,036,854,775,808 tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**40), "entries of metadata"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**62), "text of"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + entry(b"a", 9, struct.pack("<IQ", 0, 2**40)), "an array of"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + entry(b"a", 9, struct.pack("<IQ", 8, 2**20)), "ends inside"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + entry(b"a", 9, struct.pack("<IQ", 9, 2)), "array of the unknown"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + entry(b"a", 77, b""), "unknown type 77"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "does not say its architecture"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + ARCHITECTURE * 2, "two entries"),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + ARCHITECTURE + entry(b"general.alignment", 4, bytes(4)),
            "alignment is 0",
        ),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + ARCHITECTURE + struct.pack("<Q1sI", 1, b"t", 9),
            "has 9 dimensions",
        ),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + ARCHITECTURE + struct.pack("<Q1sIQIQ", 1, b"t", 1, 2**60, 0, 0),
            "beyond the file's end",
        ),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + ARCHITECTURE + struct.pack("<Q1sIQIQ", 1, b"t", 1, 4, 9999, 0),
            "unknown type 9999",
        ),
    ],
)  # fmt: skip
def test_malformed_headers_are_refused_in_little_memory(content, message, tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(ModelError, match=message):
            read_gguf(file)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def test_a_file_that_was_cut_off_is_refused_wherever_it_ends(tiny_gguf):
    content = tiny_gguf.read_bytes()
    parse_header(content, len(content))
    for size in range(0, len(content) - 64, 997):
        with pytest.raises(MalformedHeader):
            parse_header(content[:size], size)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_changed_bytes_never_do_more_than_be_refused(data, tiny_gguf, tmp_path):
    content = bytearray(tiny_gguf.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, 20_000))] = data.draw(st.integers(0, 255))
    file = tmp_path / f"{len(list(tmp_path.iterdir()))}.gguf"  # a name of its own: headers are remembered
    file.write_bytes(content)
    for load in (load_tokenizer, load_model):
        try:
            load(str(file))
        except ModelError:
            continue
