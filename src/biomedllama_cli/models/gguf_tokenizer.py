"""The tokenizer inside a GGUF file, giving the ids the model was trained on.

transformers builds one from the file's vocabulary too, with other ids: words are split GPT-2's way where it does not
know the file's own ("1.  2" in SmolLM2), and a text that begins with a space gets none before it.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from biomedllama_cli.errors import ModelError, UserError
from biomedllama_cli.models.byte_level_words import LLAMA3_WORDS, QWEN2_WORDS
from biomedllama_cli.models.gguf import read_gguf
from biomedllama_cli.models.gguf_header import GgufHeader
from biomedllama_cli.models.sentencepiece_export import SPACE, build_definition

logger = logging.getLogger(__name__)

_DIGITS = frozenset({"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"})
"""Vocabularies that split digits apart before GPT-2's words, as llama.cpp lists them (src/llama-vocab.cpp)."""
_GPT2 = frozenset({"gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling"})
_LLAMA3 = frozenset({"llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral"})
_QWEN2 = frozenset({"qwen2", "deepseek-r1-qwen"})
_WHOLE_WORDS = _LLAMA3 | {"tekken"}
"""Vocabularies in which a word that is a token stays one, whatever the merges say; BOS goes first."""
_SPLITS = dict.fromkeys(_LLAMA3, LLAMA3_WORDS) | dict.fromkeys(_QWEN2, QWEN2_WORDS)
_SPLITS["tekken"] = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)
_HINT = "Give the model's transformers folder, which holds its own tokenizer."


def load_gguf_tokenizer(path: Path) -> Any:
    """Load the tokenizer of a GGUF file as one of transformers', which puts BOS first where the file wants it.

    Raises:
        ModelError: the file is malformed, or its vocabulary is of a kind that is not supported.
    """
    header = read_gguf(path)
    _check_vocabulary(path, header)
    says = header.metadata.get
    kind = says("tokenizer.ggml.model")
    if kind not in ("gpt2", "llama"):
        raise ModelError(
            f"tokenizer: {path} has a vocabulary of the kind {kind!r}; gpt2 or llama is needed.", _HINT
        )
    try:
        raw = _build_sentencepiece(header) if kind == "llama" else _build_byte_level(path, header)
        return _wrap(raw, header)
    except UserError:  # a signal is told by one
        raise
    except Exception as error:  # of many types: KeyError, ValueError, whatever `tokenizers` raises
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(
            f"tokenizer: {path} holds no vocabulary that can be read: {reason}", _HINT
        ) from error


def _wrap(raw: Any, header: GgufHeader) -> Any:
    """Add the tokens that steer a conversation, and the chat template, as transformers keeps them."""
    from tokenizers import AddedToken, processors
    from transformers import PreTrainedTokenizerFast

    says = header.metadata.get
    tokens = says("tokenizer.ggml.tokens", [])
    types = says("tokenizer.ggml.token_type") or [_NORMAL] * len(tokens)
    pairs = list(zip(tokens, types, strict=True))
    raw.add_special_tokens([AddedToken(text, normalized=False) for text, kind in pairs if kind == _CONTROL])
    raw.add_tokens([AddedToken(text, normalized=False) for text, kind in pairs if kind == _USER_DEFINED])
    special = {
        f"{short}_token": tokens[number]
        for short, name in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
        if (number := says(f"tokenizer.ggml.{name}_token_id")) is not None
    }
    if (bos := says("tokenizer.ggml.bos_token_id")) is not None and _adds_bos(header):
        # Under a name of its own: the token's text could mean something else in a template.
        raw.post_processor = processors.TemplateProcessing(
            single="BOS $A",
            pair="BOS $A BOS:1 $B:1",
            special_tokens=[{"id": "BOS", "ids": [bos], "tokens": [tokens[bos]]}],
        )
    backend = PreTrainedTokenizerFast(tokenizer_object=raw, clean_up_tokenization_spaces=False, **special)
    template = says("tokenizer.chat_template")
    backend.chat_template = template if isinstance(template, str) else None
    return backend


def _adds_bos(header: GgufHeader) -> bool:
    """Tell whether BOS goes first: what the file says, else what is usual for its kind of vocabulary."""
    says = header.metadata.get
    usual = says("tokenizer.ggml.model") == "llama" or str(says("tokenizer.ggml.pre")) in _WHOLE_WORDS
    return bool(says("tokenizer.ggml.add_bos_token", usual))


def _check_vocabulary(path: Path, header: GgufHeader) -> None:
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens or not isinstance(tokens[0], str):
        raise ModelError(f"tokenizer: {path} holds no vocabulary.", _HINT)
    if len(set(tokens)) < len(tokens):  # `tokenizers` panics at some of them
        raise ModelError(f"tokenizer: {path} holds a token twice.", _HINT)
    for name in ("bos", "eos", "unknown", "padding"):
        number = header.metadata.get(f"tokenizer.ggml.{name}_token_id", 0)
        if not isinstance(number, int) or not 0 <= number < len(tokens):
            raise ModelError(
                f"tokenizer: {path} has the {name} token {number}, outside its vocabulary.", _HINT
            )
    for name in ("scores", "token_type"):
        numbers = header.metadata.get(f"tokenizer.ggml.{name}", tokens)
        if not isinstance(numbers, list) or len(numbers) != len(tokens):
            raise ModelError(f"tokenizer: {path} has {name} for another number of tokens.", _HINT)


def _build_byte_level(path: Path, header: GgufHeader) -> Any:
    """Build a byte-level BPE of the file's tokens and merges."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    says = header.metadata
    name = str(says.get("tokenizer.ggml.pre", ""))
    merges = [
        (left, right) for left, _, right in (merge.partition(" ") for merge in says["tokenizer.ggml.merges"])
    ]
    vocabulary = {token: number for number, token in enumerate(says["tokenizer.ggml.tokens"])}
    raw = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=name in _WHOLE_WORDS))
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if name in _SPLITS:
        split = pre_tokenizers.Split(Regex(_SPLITS[name]), behavior="isolated")
        raw.pre_tokenizer = pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    elif name in _DIGITS:
        raw.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), plain])
    else:
        raw.pre_tokenizer = plain
    if name not in _GPT2 and name not in _DIGITS and name not in _SPLITS:
        logger.warning(
            "tokenizer: how %s splits words (%s) is not known here: GPT-2's way is taken, and some ids may not be "
            "those the model was trained on; the model's transformers folder has its own tokenizer",
            path,
            name or "it does not say",
        )
    if name in _QWEN2:
        raw.normalizer = normalizers.NFC()
    raw.decoder = decoders.ByteLevel()
    return raw


def _build_sentencepiece(header: GgufHeader) -> Any:
    """Build the tokenizer.json of the SentencePiece model that the file's pieces make up."""
    from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2
    from tokenizers import Tokenizer

    says = header.metadata.get
    tokens, unknown = says("tokenizer.ggml.tokens", []), says("tokenizer.ggml.unknown_token_id")
    types = says("tokenizer.ggml.token_type") or [_NORMAL] * len(tokens)
    if unknown is None:  # SentencePiece cannot be without one; llama.cpp takes 0
        unknown = types.index(_UNKNOWN) if _UNKNOWN in types else 0
    scores = says("tokenizer.ggml.scores") or [0.0] * len(tokens)
    ends = {name: says(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos")}
    model = sentencepiece_model_pb2.ModelProto()
    spec = model.trainer_spec
    spec.model_type, spec.byte_fallback = spec.BPE, _BYTE in types
    spec.bos_piece, spec.eos_piece = ("" if number is None else tokens[number] for number in ends.values())
    spec.unk_piece = tokens[unknown]
    model.normalizer_spec.name = "identity"
    for number, (text, score, kind) in enumerate(zip(tokens, scores, types, strict=True)):
        piece = _UNKNOWN if number == unknown else _NORMAL if kind == _UNKNOWN else kind
        model.pieces.add(piece=text, score=score, type=piece)
    definition = build_definition(
        SentencePieceProcessor(model_proto=model.SerializeToString()), adds_bos=False
    )
    if not says("tokenizer.ggml.add_space_prefix", True):
        definition["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
        definition["decoder"]["decoders"].pop()
    return Tokenizer.from_str(json.dumps(definition))
