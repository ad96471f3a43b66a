"""A SentencePiece BPE model written as the `tokenizer.json` that gives the same ids.

transformers' own conversion ranks merges by id and drops a leading space, so runs of spaces and texts that
start with one come out differently ("a  b" gives other ids). Ranking by SentencePiece's scores and prepending
the dummy space in the normaliser keeps the two equal.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SPACE = "\u2581"


def find_obstacle(path: Path, processor: Any) -> str | None:
    """Say why the model cannot be written as an equal tokenizer.json, or return None when it can."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError:
        return "cannot be parsed"
    if model.trainer_spec.model_type != sentencepiece_model_pb2.TrainerSpec.BPE:
        return "is not a BPE model"
    if model.normalizer_spec.precompiled_charsmap or model.normalizer_spec.remove_extra_whitespaces:
        return "normalises its text"
    if not model.normalizer_spec.add_dummy_prefix or model.trainer_spec.treat_whitespace_as_suffix:
        return "does not put a space before the text"
    if any(piece.type == piece.USER_DEFINED for piece in model.pieces):
        return "has user-defined pieces"
    return None


def stands_alone(folder: Path) -> bool:
    """Tell whether the folder's tokenizer.model stands for the whole tokenizer (no tokens added beside it)."""
    import sentencepiece

    try:
        processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    except (RuntimeError, OSError, ValueError):
        return False
    if find_obstacle(folder / "tokenizer.model", processor) is not None:
        return False
    definition = read_object(folder / "tokenizer.json")
    if not definition:
        return not read_object(folder / "added_tokens.json")
    vocabulary = dict(definition.get("model", {}).get("vocab", {}))
    vocabulary.update({token["content"]: token["id"] for token in definition.get("added_tokens", [])})
    return vocabulary == {processor.id_to_piece(i): i for i in range(processor.get_piece_size())}


def read_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; an empty one where there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def list_merges(pieces: dict[str, tuple[int, float]]) -> list[tuple[str, str]]:
    """Return the merges of a BPE vocabulary, best first.

    Args:
        pieces: piece -> (id, score); byte and control pieces left out.

    SentencePiece joins the pair whose result scores highest, the leftmost among equals. Runs of spaces all
    score the same in LLaMA's vocabulary and so grow from the left: the longest left part goes first.

    >>> list_merges({"a": (0, -3.0), "b": (1, -4.0), "ab": (2, -1.0), "aba": (3, -2.0)})
    [('a', 'b'), ('ab', 'a')]
    """
    ranked = []
    for piece, (token_id, score) in pieces.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in pieces and right in pieces:
                ranked.append(
                    (-score, -len(left) if piece.strip(SPACE) == "" else token_id, cut, left, right)
                )
    return [(left, right) for *_, left, right in sorted(ranked)]


def build_definition(processor: Any, *, adds_bos: bool) -> dict[str, Any]:
    """Return the tokenizer.json of a SentencePiece processor as a dictionary."""
    size = processor.get_piece_size()
    vocabulary = {processor.id_to_piece(i): i for i in range(size)}
    special = [i for i in range(size) if processor.is_control(i) or processor.is_unknown(i)]
    plain = {
        processor.id_to_piece(i): (i, processor.get_score(i))
        for i in range(size)
        if not (processor.is_control(i) or processor.is_unknown(i) or processor.is_byte(i))
        and not processor.is_unused(i)
    }
    has_bytes = any(processor.is_byte(i) for i in range(size))
    bos = processor.id_to_piece(processor.bos_id()) if processor.bos_id() >= 0 else None
    template: list[dict[str, Any]] = [{"Sequence": {"id": "A", "type_id": 0}}]
    pair: list[dict[str, Any]] = [*template, {"Sequence": {"id": "B", "type_id": 1}}]
    tokens: dict[str, Any] = {}
    if adds_bos and bos is not None:
        template = [{"SpecialToken": {"id": bos, "type_id": 0}}, *template]
        pair = [*template, {"SpecialToken": {"id": bos, "type_id": 1}}, pair[-1]]
        tokens = {bos: {"id": bos, "ids": [processor.bos_id()], "tokens": [bos]}}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": processor.id_to_piece(i), **flags} for i in special],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": SPACE},
                {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": template,
            "pair": pair,
            "special_tokens": tokens,
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": processor.id_to_piece(processor.unk_id()),
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": has_bytes,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": [list(pair) for pair in list_merges(plain)],
        },
    }


def write_transformers_files(processor: Any, folder: Path, *, adds_bos: bool) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json` beside the `tokenizer.model` in `folder`."""
    definition = build_definition(processor, adds_bos=adds_bos)
    (folder / "tokenizer.json").write_text(json.dumps(definition, ensure_ascii=False), encoding="utf-8")
    configuration = {
        # The generic class takes tokenizer.json as it is; LlamaTokenizer would rebuild it its own way.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": adds_bos,
        "add_eos_token": False,
        "bos_token": processor.id_to_piece(processor.bos_id()) if processor.bos_id() >= 0 else None,
        "eos_token": processor.id_to_piece(processor.eos_id()),
        "unk_token": processor.id_to_piece(processor.unk_id()),
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1000000000000000019884624838656,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(configuration, indent=2) + "\n", "utf-8")
