"""Ids from the memory of words are the library's own, whatever the text."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers, pre_tokenizers

from biomedllama_cli.models.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from biomedllama_cli.models.word_cache import WordCache

KINDS = ["trained", "llama", "llama3", "qwen3", "gpt2", "smollm2"]
ATOMS = [
    *(
        " ",
        "  ",
        "   ",
        " " * 17,
        "\n",
        "\n\n",
        "\r\n",
        "\r",
        "\t",
        "\v",
        "\f",
        "\x00",
        "\x01",
        "\x02",
        "\x1c",
        "\x85",
    ),
    *(
        "\u2581",
        "\u2581\u2581",
        "\xa0",
        "\u2000",
        "\u2003",
        "\u2028",
        "\u3000",
        "\u200b",
        "\ufeff",
        "\u0301",
        "\u0308",
    ),
    *(
        "<s>",
        "</s>",
        "<unk>",
        "<0x0A>",
        "<0xE2>",
        "<|end|>",
        "<think>",
        "</think>",
        "a",
        "the",
        " patients",
        "iron",
    ),
    *(
        "é",
        "e\u0301",
        "ﬁ",
        "日本",
        "🧬",
        "👩‍⚕️",
        "אב",
        "مرض",
        "β",
        "µ",
        "1",
        "12345",
        ".",
        "...",
        "'s",
        "'LL",
        "_",
        "/",
    ),
    *("p<0.001", "(BRCA1)", "Å", "\u212b", "\U0010ffff", "x" * 70, "ACGT" * 40),
]
TEXTS = [
    "Serum ferritin was 12.5 ng/mL in 38 patients; p < 0.001. The patients' iron wasn't measured.",
    "Mutations of BRCA1 and BRCA2 predispose to breast cancer.\n\nThe risk is 60 %.\n",
    "  Two  leading and   inner spaces\n\n\tand a tab\r\nand more",
    "β-catenin, TNF-α and 日本語 🧬 café naïve",
]


@pytest.fixture(scope="session")
def byte_level() -> Any:
    """Return the module that builds byte-level tokenizers."""
    spec = importlib.util.spec_from_file_location(
        "biomedllama_tests_byte_level", Path(__file__).with_name("byte_level.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def load_kind(
    byte_level: Any, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Tokenizer]:
    """Return a function that gives a tokenizer of a kind, loaded once."""
    loaded: dict[str, Tokenizer] = {}

    def load(kind: str) -> Tokenizer:
        if kind == "llama":
            model = repository.parent / "shared" / "data" / "tokenizer" / "llama" / "tokenizer.model"
            if not model.is_file():
                pytest.skip("LLaMA's vocabulary is not beside this checkout")
            loaded.setdefault(kind, load_tokenizer(str(model)))
        elif kind not in loaded:
            folder = tmp_path_factory.mktemp(kind)
            if kind == "trained":
                loaded[kind] = train_tokenizer(TEXTS * 3, 400, folder, seed=0)
            else:
                backend = byte_level.build_backend(kind, TEXTS * 3, 450)
                loaded[kind] = load_tokenizer(str(byte_level.save_backend(backend, folder)))
        return loaded[kind]

    return load


def list_memories() -> list[type[Any]]:
    """Return the two memories of words, or the one that needs no numba."""
    if importlib.util.find_spec("numba") is None:
        return [WordCache]
    from biomedllama_cli.models.word_table import WordTable

    return [WordCache, WordTable]


def use_memory(tokenizer: Tokenizer, memory: type[Any], **options: Any) -> Tokenizer:
    """Return the tokenizer with a memory of that type."""
    fresh = dataclasses.replace(tokenizer, _word_caches={})
    for dtype in (np.uint16, np.int32):
        cache: Any = tokenizer.find_word_cache(dtype)
        assert cache is not None
        fresh._word_caches[np.dtype(dtype).str] = memory(cache._codec, **options)
    return fresh


@pytest.fixture(params=list_memories(), ids=lambda memory: memory.__name__)
def memory(request: pytest.FixtureRequest) -> type[Any]:
    return request.param


@pytest.fixture(params=KINDS)
def tokenizer(
    request: pytest.FixtureRequest, load_kind: Callable[[str], Tokenizer], memory: type[Any]
) -> Tokenizer:
    """Return a tokenizer of each kind, with each memory of words."""
    return use_memory(load_kind(request.param), memory)


def encode_by_library(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    if tokenizer.kind == "sentencepiece":
        ids: list[list[int]] = tokenizer._backend.encode(texts, num_threads=1)
        return ids
    return tokenizer.encode_batch(texts)


def assert_same_ids(tokenizer: Tokenizer, texts: list[str]) -> None:
    ours = [np.frombuffer(ids, np.int32).tolist() for ids in tokenizer.encode_bytes(texts, np.int32)]
    for text, mine, library in zip(texts, ours, encode_by_library(tokenizer, texts), strict=True):
        assert mine == library, repr(text[:300])


def test_ten_thousand_random_strings(tokenizer: Tokenizer) -> None:
    draw = random.Random(20)
    texts = ["".join(draw.choices(ATOMS, k=draw.randint(0, 14))) for _ in range(10_000)]
    assert_same_ids(tokenizer, texts)
    assert_same_ids(tokenizer, texts[::-1])


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=80))
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_text(tokenizer: Tokenizer, text: str) -> None:
    assert_same_ids(tokenizer, [text, f" {text}", f"a{text} b", f"{text}\n{text}"])


ASCII_WORDS = [
    *(
        "'s",
        "'S",
        "'ll",
        "'LL",
        "'Ve",
        "'re",
        "'m",
        "'d",
        "'T",
        "'x",
        "''s",
        "s'",
        "iron",
        "BRCA",
        "a",
        "ll",
        "1",
        "2026",
        "007",
    ),
    *(
        ".",
        ",",
        "--",
        "(",
        ")",
        "/",
        "<",
        ">",
        "=",
        "%",
        "_",
        "\\",
        '"',
        "&",
        "#",
        "@",
        "+",
        "*",
        " ",
        " ",
        " ",
        "\n",
    ),
]


def test_ascii_words_of_every_make(tokenizer: Tokenizer) -> None:
    draw = random.Random(3)
    assert_same_ids(tokenizer, ["".join(draw.choices(ASCII_WORDS, k=40)) for _ in range(2000)])
    printable = [chr(i) for i in range(32, 127)]
    assert_same_ids(tokenizer, ["".join(draw.choices(printable, k=60)) for _ in range(2000)])
    pairs = [first + second for first in printable for second in printable]
    assert_same_ids(tokenizer, [" ".join(f"a{pair} {pair}1 {pair}" for pair in pairs)])


def list_blocks() -> Iterator[str]:
    """Yield the characters of every 256 code points of the planes in use, without surrogates."""
    for plane in (0, 1, 2, 3, 14, 15, 16):
        step = 1 if plane in (0, 1) else 16
        for block in range(plane << 8, (plane + 1) << 8, step):
            if not 0xD8 <= block <= 0xDF:
                yield "".join(map(chr, range(block << 8, (block + 1) << 8)))


def test_every_unicode_block(tokenizer: Tokenizer) -> None:
    texts = []
    for block in list_blocks():
        texts += [block, " ".join(block), "".join(f"a{c} {c}b {c}\n{c} \n" for c in block[::3])]
    assert_same_ids(tokenizer, texts)


def iter_strings(value: Any) -> Iterator[str]:
    """Yield every string of a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from iter_strings(part)


def list_shared_documents(folder: Path) -> list[str]:
    """Return every text of the shared data: of JSON files each string, of the others the whole file."""
    texts: list[str] = []
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".zst":
            reader = zstandard.ZstdDecompressor().stream_reader(path.open("rb"))
            for line in io.TextIOWrapper(reader, encoding="utf-8"):
                texts += iter_strings(json.loads(line))
        elif path.suffix == ".json":
            texts += iter_strings(json.loads(path.read_text("utf-8")))
        elif path.suffix == ".jsonl":
            for line in path.read_text("utf-8").splitlines():
                texts += iter_strings(json.loads(line))
        elif path.is_file() and path.suffix != ".model":
            texts.append(path.read_text("utf-8", errors="replace"))
    return texts


@pytest.mark.parametrize("kind", ["llama", "llama3", "qwen3"])
def test_every_document_of_the_shared_data(
    shared_data: Path, load_kind: Callable[[str], Tokenizer], kind: str
) -> None:
    texts = list_shared_documents(shared_data)
    assert sum(map(len, texts)) > 10_000_000
    if kind != "llama":  # the markup of the articles takes minutes in a vocabulary of 450
        texts = [text for text in texts if len(text) < 20_000]
    library = encode_by_library(load_kind(kind), texts)
    for memory in list_memories():
        tokenizer = use_memory(load_kind(kind), memory)
        for _ in range(2):
            ours = tokenizer.encode_bytes(texts, np.int32)
            assert [np.frombuffer(ids, np.int32).tolist() for ids in ours] == library


def test_long_texts_are_cut_where_no_id_changes(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module(type(tokenizer.find_word_cache(np.int32)).__module__)
    monkeypatch.setattr(module, "LONG_TEXT", 40)
    monkeypatch.setattr(module, "_BATCH_CHARACTERS", 8)
    monkeypatch.setattr("biomedllama_cli.models.sentencepiece_words._LONG_WORD", 8)
    draw = random.Random(1)
    assert_same_ids(tokenizer, ["".join(draw.choices(ATOMS, k=60)) for _ in range(300)])


def test_ids_do_not_depend_on_what_is_remembered(tokenizer: Tokenizer) -> None:
    cache: Any = tokenizer.find_word_cache(np.int32)
    forgetful = type(cache)(cache._codec, max_words=5)
    draw = random.Random(2)
    texts = ["".join(draw.choices(ATOMS, k=10)) for _ in range(500)]
    for start in range(0, 500, 7):
        part = texts[start : start + 7]
        assert forgetful.encode(part) == tokenizer.encode_bytes(part, np.int32)
    assert len(forgetful) <= 10


def test_words_in_use_survive_a_change_of_generation(load_kind: Callable[[str], Tokenizer]) -> None:
    shared: Any = load_kind("trained").find_word_cache(np.int32)
    cache = WordCache(shared._codec, max_words=100)
    for number in range(1000):
        cache.encode([f"patients with w{number}"])
    before = cache.missed
    cache.encode(["patients with"])
    assert cache.missed == before
    assert cache.missed < 1000 + 2 + 2 * 12
    assert len(cache) <= 200


def test_known_words_are_not_encoded_again(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    text = TEXTS[0]
    expected = tokenizer.encode_bytes([text], np.int32)
    cache: Any = tokenizer.find_word_cache(np.int32)

    def refuse(words: object) -> dict[str, bytes]:
        raise AssertionError("every word is known")

    monkeypatch.setattr(cache._codec, "encode_words", refuse)
    missed = cache.missed
    assert tokenizer.encode_bytes([text, text], np.int32) == expected * 2
    assert cache.missed == missed


def test_ids_come_in_the_type_asked_for(tokenizer: Tokenizer) -> None:
    for dtype in (np.uint16, np.int32):
        ids = [np.frombuffer(data, dtype).tolist() for data in tokenizer.encode_bytes(TEXTS, dtype)]
        assert ids == tokenizer.encode_batch(TEXTS)
    assert tokenizer.encode_bytes([], np.uint16) == []
    assert tokenizer.encode_bytes([""], np.uint16) == [b""]


def change_pieces(source: Path, target: Path, change: Callable[[Any], None]) -> Path:
    """Write a SentencePiece model with something changed."""
    from sentencepiece import sentencepiece_model_pb2 as protocol

    model = protocol.ModelProto()
    model.ParseFromString(source.read_bytes())
    change(model)
    target.write_bytes(model.SerializeToString())
    return target


def cross_words(model: Any) -> None:
    model.pieces[-1].piece = "s\u2581a"


def leave_out_bytes(model: Any) -> None:
    model.trainer_spec.byte_fallback = False
    for piece in model.pieces:
        if piece.type == piece.BYTE:
            piece.type = piece.NORMAL


def leave_out_a_piece(model: Any) -> None:
    model.pieces[-1].type = model.pieces[-1].UNUSED


@pytest.mark.parametrize("change", [cross_words, leave_out_bytes, leave_out_a_piece])
def test_vocabulary_without_the_property_is_left_to_sentencepiece(
    load_kind: Callable[[str], Tokenizer], tmp_path: Path, change: Callable[[Any], None]
) -> None:
    source = load_kind("trained")._model_path
    assert source is not None
    tokenizer = load_tokenizer(str(change_pieces(source, tmp_path / "x.model", change)))
    assert tokenizer.find_word_cache(np.int32) is None
    assert_same_ids(tokenizer, TEXTS)
    assert tokenizer.encode_bytes([], np.int32) == []


def test_newline_inside_a_piece_is_no_place_to_cut(
    load_kind: Callable[[str], Tokenizer], tmp_path: Path
) -> None:
    source = load_kind("trained")._model_path
    assert source is not None

    def join_lines(model: Any) -> None:
        model.pieces[-1].piece = "a\nb"
        model.pieces[-2].piece = "\n"
        model.pieces[-3].piece = "\nb"

    tokenizer = load_tokenizer(str(change_pieces(source, tmp_path / "x.model", join_lines)))
    assert tokenizer.find_word_cache(np.int32) is not None
    assert_same_ids(tokenizer, ["a\nb a\n\nb\n", "\n", "\t\n", *TEXTS])
    assert tokenizer.encode("x\nb")[-1] == len(tokenizer._backend) - 3


def metaspace(backend: Any) -> None:
    backend.pre_tokenizer = pre_tokenizers.Metaspace()


def space_in_front(backend: Any) -> None:
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)


def lower_case(backend: Any) -> None:
    backend.normalizer = normalizers.Lowercase()


def greedy_token(backend: Any) -> None:
    backend.add_tokens([AddedToken("<mask>", lstrip=True, special=False)])


def token_of_two_words(backend: Any) -> None:
    backend.add_tokens([AddedToken("two words", special=False)])


@pytest.mark.parametrize("change", [metaspace, space_in_front, lower_case, greedy_token, token_of_two_words])
def test_pipeline_without_the_property_is_left_to_tokenizers(
    byte_level: Any, tmp_path: Path, change: Callable[[Any], None]
) -> None:
    backend = byte_level.build_backend("llama3", TEXTS, 450)
    change(backend)
    tokenizer = load_tokenizer(str(byte_level.save_backend(backend, tmp_path)))
    assert tokenizer.find_word_cache(np.int32) is None
    assert_same_ids(tokenizer, [*TEXTS, "a <mask> two words"])


def test_unknown_expression_is_left_to_tokenizers(byte_level: Any, tmp_path: Path) -> None:
    backend = byte_level.build_backend("llama3", TEXTS, 450)
    backend.pre_tokenizer = byte_level.split_by(r"\w+ \w+|.")
    tokenizer = load_tokenizer(str(byte_level.save_backend(backend, tmp_path)))
    assert tokenizer.find_word_cache(np.int32) is None
    assert_same_ids(tokenizer, TEXTS)


@pytest.mark.parametrize(
    "error", [ImportError("No module named numba"), RuntimeError("no locator available")]
)
def test_without_working_numba_the_plain_memory_is_used(
    load_kind: Callable[[str], Tokenizer], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise error

    monkeypatch.setitem(sys.modules, "biomedllama_cli.models.word_table", Broken())
    tokenizer = dataclasses.replace(load_kind("trained"), _word_caches={})
    assert isinstance(tokenizer.find_word_cache(np.int32), WordCache)
    assert_same_ids(tokenizer, TEXTS)


def measure_seconds(tokenizer: Tokenizer, text: str) -> float:
    """Return the shortest of three runs, with nothing remembered."""
    cache: Any = tokenizer.find_word_cache(np.int32)
    seconds = []
    for _ in range(3):
        fresh = type(cache)(cache._codec)
        fresh.encode(["warm up"])
        start = time.process_time()
        fresh.encode([text])
        seconds.append(time.process_time() - start)
    return min(seconds)


@pytest.mark.parametrize("kind", ["trained", "llama3"])
@pytest.mark.parametrize("unit", ["ACGTTGCA", "iron deficiency. ", "a\n", "\u2003 "])
def test_time_is_linear_in_the_length(
    load_kind: Callable[[str], Tokenizer], memory: type[Any], kind: str, unit: str
) -> None:
    tokenizer = use_memory(load_kind(kind), memory)
    short, long = (unit * (size // len(unit)) for size in (100_000, 1_000_000))
    # Ten times the text; quadratic time would be a hundred times.
    assert measure_seconds(tokenizer, long) < 30 * max(0.002, measure_seconds(tokenizer, short))


GROWTH = """
import importlib, itertools, pathlib, sys
import numpy as np
from biomedllama_cli.corpus.encoding import encode_documents
from biomedllama_cli.models.tokenizer import load_tokenizer

tokenizer = load_tokenizer(sys.argv[1])
cache = tokenizer.find_word_cache(np.uint16)
module, name = sys.argv[3].rsplit(".", 1)
memory = getattr(importlib.import_module(module), name)
tokenizer._word_caches[np.dtype(np.uint16).str] = memory(cache._codec, max_words=20_000)
common = " ".join("patients with low serum iron had been given oral".split() * 5)
size, number = 0, itertools.count()
while size < int(sys.argv[2]):
    texts = [" ".join(f"{common} w{next(number):x}n" for _ in range(8)) for _ in range(200)]
    ids, rows = encode_documents(texts, tokenizer, adds_bos=True)
    size += int(rows["bytes"].sum())
# Not ru_maxrss, which a child takes over from the process that started it.
status = pathlib.Path("/proc/self/status").read_text()
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's account of memory")
def test_memory_does_not_grow_with_the_text(
    load_kind: Callable[[str], Tokenizer], memory: type[Any], tmp_path: Path
) -> None:
    name = f"{memory.__module__}.{memory.__name__}"
    load_kind("trained").save(tmp_path)
    peaks = [
        int(
            subprocess.run(
                [sys.executable, "-c", GROWTH, str(tmp_path), str(size), name],
                check=True, capture_output=True, text=True,
            ).stdout
        )
        for size in (20_000_000, 100_000_000)
    ]  # fmt: skip
    assert peaks[1] - peaks[0] < 20_000, f"KiB at 20 MB and at 100 MB: {peaks}"
    assert peaks[1] < 1 << 20
