"""Did you mean ...?"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_ALIASES = {
    **dict.fromkeys(("lr", "learning_rate", "max_lr"), "peak_learning_rate"),
    **dict.fromkeys(("bs", "batch", "batch_size", "train_batch_size"), "global_batch_size"),
    **dict.fromkeys(("epoch", "num_epochs", "num_train_epochs"), "epochs"),
    **dict.fromkeys(("steps", "num_steps"), "max_steps"),
    **dict.fromkeys(("max_length", "max_seq_length", "seq_len", "seq_length"), "sequence_length"),
    **dict.fromkeys(("warmup", "warmup_ratio"), "warmup_fraction"),
    **dict.fromkeys(("r", "lora_r", "lora_rank"), "rank"),
    **dict.fromkeys(("out", "output", "out_dir", "output_folder"), "output_dir"),
    **dict.fromkeys(("dtype", "mixed_precision"), "precision"),
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "wd": "weight_decay",
}
"""What other programs call these settings."""


def suggest(word: str, candidates: Iterable[str]) -> str:
    """Return a hint naming the nearest candidate, or an empty string.

    A candidate whose last part is the word itself (a setting named without its section) comes first, then
    one that other programs call by the word.

    >>> suggest("sede", ["seed", "optimizer.weight_decay"])
    'Did you mean seed?'
    >>> suggest("weight_decay", ["seed", "optimizer.weight_decay"])
    'Did you mean optimizer.weight_decay?'
    >>> suggest("xyz", ["seed"])
    ''
    >>> suggest("--lr", ["--seed", "--peak-learning-rate"])
    'Did you mean --peak-learning-rate?'
    """
    known = list(candidates)
    last = {candidate: _last_part(candidate) for candidate in known}
    same = [candidate for candidate in known if last[candidate] == _last_part(word)]
    near = same or difflib.get_close_matches(word, known, n=1, cutoff=0.7)
    if not same and (meant := _ALIASES.get(_normalise(word))):
        near = [candidate for candidate in known if _normalise(candidate) == meant] or near
    if not near:
        nearest = difflib.get_close_matches(_last_part(word), list(last.values()), n=1, cutoff=0.6)
        near = [candidate for candidate in known if last[candidate] in nearest]
    return f"Did you mean {near[0]}?" if near else ""


def _last_part(name: str) -> str:
    return re.split(r"\.|__", name)[-1]


def _normalise(word: str) -> str:
    return _last_part(word.lstrip("-")).replace("-", "_").lower()
