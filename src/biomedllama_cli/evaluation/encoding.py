"""From texts to the token sequences that are scored, as lm-evaluation-harness does it.

Context and continuation are encoded together and split at the length of the encoded context; spaces at the end of
the context move to the continuation; running text is cut into windows that each condition on what came before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from biomedllama_cli.errors import DataError, ModelError
from biomedllama_cli.evaluation.scorer import TokenSequence
from biomedllama_cli.models.tokenizer import Tokenizer

_DROP_HINT = "Leave items with defects out: --drop-defective."


def encode_continuations(
    tokenizer: Tokenizer, context: str, continuations: Sequence[str], *, bos: bool
) -> list[TokenSequence]:
    """Return one token sequence per continuation of a context.

    Args:
        tokenizer: of the model.
        context: the whole prompt; an empty one is replaced by EOS.
        continuations: what is scored after it.
        bos: whether the tokenizer's BOS id stands first.

    Raises:
        DataError: a continuation is empty or has no token of its own.
        ModelError: BOS is asked for and the tokenizer has none.
    """
    prefix: list[int] = []
    if bos:
        if tokenizer.bos_id is None:
            raise ModelError("the protocol puts BOS first, and this model's tokenizer has no BOS")
        prefix = [tokenizer.bos_id]
    if "" in continuations:
        raise DataError(
            f"the question {_shorten(context)} has an empty option; every option must be text", _DROP_HINT
        )
    bare = context.rstrip()
    moved = context[len(bare) :]
    context_ids, *whole_ids = tokenizer.encode_batch([bare, *(context + text for text in continuations)])
    if not bare:
        # lm-eval's way: the prefix token stands for the context, the spaces belong to the continuation.
        prefix = prefix or [tokenizer.eos_id]
    sequences = []
    for text, ids in zip(continuations, whole_ids, strict=True):
        scored = len(ids) - len(context_ids)
        if scored <= 0:
            raise DataError(
                f"option {moved + text!r} has no token of its own after its question {_shorten(context)}",
                _DROP_HINT,
            )
        # As lm-eval reads it: where a token spans the boundary, the context's own tokens stand before the rest.
        sequences.append(TokenSequence((*prefix, *context_ids, *ids[len(context_ids) :]), scored))
    return sequences


def iter_windows(token_ids: Sequence[int], *, prefix_id: int, context_length: int) -> Iterator[TokenSequence]:
    """Yield the windows of a document: every token is scored once, the first after the prefix.

    The second window on, a window is conditioned on one token; the last, shorter one keeps the tokens before it
    so that its input is `context_length` long. Source: lm-evaluation-harness, `get_rolling_token_windows`.

    Args:
        token_ids: of the document.
        prefix_id: what the first token is conditioned on.
        context_length: longest input (in tokens).

    >>> [(len(w.token_ids), w.scored) for w in iter_windows(range(5000), prefix_id=9, context_length=2048)]
    [(2049, 2048), (2049, 2048), (2049, 904)]
    >>> [(w.token_ids, w.scored) for w in iter_windows([5, 6], prefix_id=9, context_length=2048)]
    [((9, 5, 6), 2)]
    """
    first = token_ids[:context_length]
    if first:
        yield TokenSequence((prefix_id, *first), len(first))
    for start in range(context_length, len(token_ids), context_length):
        end = min(start + context_length, len(token_ids))
        yield TokenSequence(tuple(token_ids[end - context_length - 1 : end]), end - start)


def _shorten(text: str) -> str:
    return repr(text if len(text) <= 60 else "..." + text[-60:])
