"""A SentencePiece vocabulary trained on text."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from biomedllama_cli.errors import SettingsError


def train_sentencepiece(texts: Iterable[str], vocabulary_size: int, folder: Path, seed: int) -> Path:
    """Train a LLaMA-like BPE vocabulary with byte fallback and return its `tokenizer.model` in `folder`.

    Ids 0, 1, 2 are `<unk>`, `<s>`, `</s>`, then 256 bytes; digits are split and text is not normalised, as
    in LLaMA's own `tokenizer.model`. The result depends on the texts alone as long as no sampling is needed.

    Args:
        texts: documents; each line is one SentencePiece sentence.
        vocabulary_size: number of pieces, special ones and bytes included.
        folder: where the tokenizer is saved.
        seed: SentencePiece's random seed.

    Raises:
        SettingsError: the texts cannot give a vocabulary of that size.
    """
    import sentencepiece

    folder.mkdir(parents=True, exist_ok=True)
    # No newline is ever inside a piece (it is one of the 256 bytes), so lines are independent sentences.
    sentences = (line for text in texts for line in text.split("\n") if line.strip())
    sentencepiece.set_random_generator_seed(seed)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=sentences,
            model_prefix=str(folder / "tokenizer"),
            vocab_size=vocabulary_size,
            model_type="bpe",
            byte_fallback=True,
            # LLaMA's 0.99995, less where a small vocabulary could not hold so many characters.
            character_coverage=0.99995 if vocabulary_size >= 4096 else 0.9995,
            split_digits=True,
            allow_whitespace_only_pieces=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            max_sentence_length=1 << 24,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=-1,
            num_threads=1,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        reason = str(error).rpartition("] ")[2].strip() or "SentencePiece gives no reason."
        raise SettingsError(
            f"tokenization.vocabulary_size = {vocabulary_size} cannot be trained on this text: {reason}",
            "Take a number between 300 and what the text can carry; 1024 suits the bundled sample.",
        ) from None
    (folder / "tokenizer.vocab").unlink(missing_ok=True)
    return folder / "tokenizer.model"
