"""Text to token ids and back, for SentencePiece files and for Hugging Face folders.

Whatever tokenises the corpus has to be provably the tokenizer the model is used with, so every tokenizer
carries a fingerprint of its vocabulary, and a `tokenizer.model` is always read by SentencePiece itself.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from biomedllama_cli.errors import ModelError, UserError
from biomedllama_cli.models import sentencepiece_export
from biomedllama_cli.models.byte_level_words import build_byte_level_words
from biomedllama_cli.models.gguf import find_gguf
from biomedllama_cli.models.long_text import iter_cuts, merges_stay_in_words
from biomedllama_cli.models.names import is_path
from biomedllama_cli.models.sentencepiece_words import build_sentencepiece_words
from biomedllama_cli.models.tokenizer_fingerprint import vocabulary_fingerprint
from biomedllama_cli.models.tokenizer_hub import fetch_tokenizer_files
from biomedllama_cli.models.tokenizer_training import train_sentencepiece
from biomedllama_cli.models.word_cache import WordCodec, WordMemory, build_word_cache

MODEL_FILE = "tokenizer.model"
_LONG_TEXT = 1 << 18  # characters encoded in one go: about 13 MB of SentencePiece's memory


@dataclass(frozen=True)
class Tokenizer:
    """A loaded tokenizer.

    Attributes:
        kind: who turns text into ids: the SentencePiece library, or Hugging Face `tokenizers`.
        vocabulary_size: number of ids (one more than the largest).
        bos_id: id of the beginning-of-sequence token, or None.
        eos_id: id of the end-of-sequence token.
        adds_bos: whether the tokenizer's own default call puts BOS first.
        fingerprint: SHA-256 over the sorted (id, piece) pairs and the special ids, whatever the kind.
        digest: SHA-256 over the tokenizer's whole definition (merges and normalisation included).
        source: what it was loaded from, as given.
    """

    kind: Literal["sentencepiece", "huggingface"]
    vocabulary_size: int
    bos_id: int | None
    eos_id: int
    adds_bos: bool
    fingerprint: str
    digest: str
    source: str
    _backend: Any
    _model_path: Path | None = None
    _may_cut: bool = False
    threads: int = -1
    """Threads SentencePiece may use for one batch; -1 means one per core."""
    _word_caches: dict[str, WordMemory | None] = field(default_factory=dict, repr=False, compare=False)

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, without BOS or EOS; special tokens spelled in it stay text."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of every text, in order."""
        if self.kind == "sentencepiece":
            if self._may_cut and any(len(text) > _LONG_TEXT for text in texts):
                return [self._encode_long(text) for text in texts]
            return list(self._backend.encode(list(texts), num_threads=self.threads))
        ids = self._backend(
            list(texts),
            add_special_tokens=False,
            split_special_tokens=True,
            truncation=False,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        return list(ids["input_ids"])

    def encode_bytes(self, texts: Sequence[str], dtype: npt.DTypeLike) -> list[bytes]:
        """Return the ids of every text as bytes of `dtype`: those of `encode_batch`, several times faster.

        Words are remembered from call to call, in bounded memory, where the vocabulary is proved to allow that;
        otherwise texts go through the library. Not for several threads at once.

        Args:
            texts: any texts.
            dtype: an integer type that holds every id.
        """
        cache = self.find_word_cache(dtype)
        if cache is None:
            return [np.array(ids, dtype).tobytes() for ids in self.encode_batch(texts)] if texts else []
        return cache.encode(texts)

    def find_word_cache(self, dtype: npt.DTypeLike) -> WordMemory | None:
        """Return the memory of words behind `encode_bytes`, or None where the vocabulary allows none."""
        name = np.dtype(dtype).str
        if name not in self._word_caches:
            build = build_sentencepiece_words if self._model_path else build_byte_level_words
            codec: WordCodec | None = build(self._backend, dtype)
            self._word_caches[name] = build_word_cache(codec) if codec is not None else None
        return self._word_caches[name]

    def _encode_long(self, text: str) -> list[int]:
        ids: list[int] = []
        for part in iter_cuts(text, _LONG_TEXT):
            ids += self._backend.encode(part)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`; special tokens are left out."""
        if self.kind == "sentencepiece":
            return str(self._backend.decode([int(i) for i in ids]))
        return str(
            self._backend.decode(
                [int(i) for i in ids], skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )

    def save(self, folder: Path) -> None:
        """Write a folder that `transformers.AutoTokenizer` loads to the same vocabulary.

        A SentencePiece tokenizer keeps its `tokenizer.model` and gets a `tokenizer.json` whose merges are
        ranked by SentencePiece's own scores, so that both give the same ids.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if self.kind == "huggingface":
            self._backend.save_pretrained(folder)
            return
        assert self._model_path is not None
        target = folder / MODEL_FILE
        if not (target.exists() and target.samefile(self._model_path)):
            shutil.copyfile(self._model_path, target)
        sentencepiece_export.write_transformers_files(self._backend, folder, adds_bos=self.adds_bos)


def load_tokenizer(source: str, *, revision: str | None = None) -> Tokenizer:
    """Load a tokenizer from a folder, a SentencePiece `.model` file, a GGUF file or the hub.

    Args:
        source: path or hub id.
        revision: branch, tag or commit of the hub repository.

    Raises:
        ModelError: there is no usable tokenizer at `source`.
        UnavailableError: the hub cannot be reached and nothing is cached.
    """
    path = Path(source).expanduser()
    if (file := find_gguf(source)) is not None:
        from biomedllama_cli.models.gguf_tokenizer import load_gguf_tokenizer

        return _wrap_huggingface(load_gguf_tokenizer(file), source)
    if path.is_file():
        return _load_sentencepiece(path, adds_bos=True, source=source)
    if path.is_dir() and source.strip():
        return _load_folder(path, source)
    if is_path(source) or source.endswith(".model") or not source.strip():
        raise ModelError(
            f"tokenizer: {source!r} is neither a folder nor a file.",
            "Give a tokenizer folder, a SentencePiece .model file or a hub id such as huggyllama/llama-7b.",
        )
    return _load_folder(fetch_tokenizer_files(source, revision), source)


def train_tokenizer(texts: Iterable[str], vocabulary_size: int, folder: Path, seed: int) -> Tokenizer:
    """Train a LLaMA-like SentencePiece BPE vocabulary and save it into `folder`.

    Args:
        texts: documents.
        vocabulary_size: number of pieces, special ones and bytes included.
        folder: where the tokenizer is saved.
        seed: SentencePiece's random seed.

    Raises:
        SettingsError: the texts cannot give a vocabulary of that size.
    """
    path = train_sentencepiece(texts, vocabulary_size, folder, seed)
    tokenizer = _load_sentencepiece(path, adds_bos=True, source=str(folder))
    tokenizer.save(folder)
    return tokenizer


def _load_sentencepiece(path: Path, *, adds_bos: bool, source: str) -> Tokenizer:
    import sentencepiece

    try:
        processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError, ValueError):
        raise ModelError(
            f"tokenizer: {source!r} is not a SentencePiece model.",
            "Give a tokenizer.model file or a folder with a tokenizer.json.",
        ) from None
    problem = sentencepiece_export.find_obstacle(path, processor)
    if problem is not None:
        raise ModelError(
            f"tokenizer: the SentencePiece model {source!r} {problem}, which has no equal tokenizer.json.",
            "Give a tokenizer folder with its own tokenizer.json.",
        )
    eos_id = processor.eos_id()
    if eos_id < 0:
        raise ModelError(f"tokenizer: {source!r} has no end-of-sequence token.", _EOS_HINT)
    bos_id = processor.bos_id() if processor.bos_id() >= 0 else None
    pieces = [(i, processor.id_to_piece(i)) for i in range(processor.get_piece_size())]
    return Tokenizer(
        kind="sentencepiece",
        vocabulary_size=len(pieces),
        bos_id=bos_id,
        eos_id=eos_id,
        adds_bos=adds_bos and bos_id is not None,
        fingerprint=vocabulary_fingerprint(pieces, bos_id, eos_id),
        digest=hashlib.sha256(path.read_bytes()).hexdigest(),
        source=source,
        _backend=processor,
        _model_path=path,
        _may_cut=merges_stay_in_words(piece for _, piece in pieces),
    )


_EOS_HINT = "Documents are separated by it: set eos_token in tokenizer_config.json."


def _load_folder(folder: Path, source: str) -> Tokenizer:
    """Read a tokenizer folder: by SentencePiece where that is the same vocabulary, else by transformers."""
    model_file = folder / MODEL_FILE
    config = sentencepiece_export.read_object(folder / "tokenizer_config.json")
    if model_file.is_file() and sentencepiece_export.stands_alone(folder):
        adds_bos = bool(config.get("add_bos_token", True))
        return _load_sentencepiece(model_file, adds_bos=adds_bos, source=source)
    if not any((folder / name).is_file() for name in ("tokenizer.json", MODEL_FILE, "vocab.json")):
        raise ModelError(
            f"tokenizer: {source!r} holds no tokenizer.json, tokenizer.model or vocab.json.",
            "Give the folder that save_pretrained wrote the tokenizer into.",
        )
    return _load_huggingface(folder, source)


def _load_huggingface(folder: Path, source: str) -> Tokenizer:
    from transformers import AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    try:
        backend = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except UserError:  # a signal is told by one
        raise
    except Exception as error:
        # transformers raises nearly anything here, from KeyError to Rust panics in `tokenizers`.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"tokenizer: transformers cannot load {source!r}: {reason}",
            "Give a folder with tokenizer.json and tokenizer_config.json.",
        ) from None
    return _wrap_huggingface(backend, source)


def _wrap_huggingface(backend: Any, source: str) -> Tokenizer:
    if backend.eos_token_id is None:
        raise ModelError(f"tokenizer: {source!r} has no end-of-sequence token.", _EOS_HINT)
    vocabulary = backend.get_vocab()
    bos_id = backend.bos_token_id
    probe = list(backend("a")["input_ids"])
    definition = backend.backend_tokenizer.to_str() if getattr(backend, "is_fast", False) else str(vocabulary)
    return Tokenizer(
        kind="huggingface",
        vocabulary_size=max(vocabulary.values()) + 1,
        bos_id=bos_id,
        eos_id=int(backend.eos_token_id),
        adds_bos=bos_id is not None and bool(probe) and probe[0] == bos_id,
        fingerprint=vocabulary_fingerprint(
            ((i, piece) for piece, i in vocabulary.items()), bos_id, backend.eos_token_id
        ),
        digest=hashlib.sha256(definition.encode()).hexdigest(),
        source=source,
        _backend=backend,
    )
