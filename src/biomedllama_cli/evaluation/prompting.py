"""What a model is given to continue: prompts, as plain text or as a turn of its chat template, and their ids."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

from biomedllama_cli.errors import DataError, SettingsError
from biomedllama_cli.models.chat_template import Template
from biomedllama_cli.models.tokenizer import Tokenizer

_ROOM_HINT = "Take fewer new tokens or a longer context."


@dataclass(frozen=True, slots=True)
class Prompt:
    """A finished prompt.

    Attributes:
        id: of the item.
        text: what is asked.
        chain: numbers the samples drawn for one item.
        begun: what of the answer stands already.
    """

    id: str
    text: str
    chain: int = 0
    begun: str = ""


@dataclass(frozen=True, slots=True)
class GenerationRule:
    """How text is generated.

    Attributes:
        max_new_tokens: longest answer (in tokens).
        temperature: 0 takes the likeliest token; above 0 samples.
        top_p: smallest probability mass that is sampled from, in (0, 1].
        seed: with an item's id and the chain's number, of the sampling.
        stop: texts an answer ends before.
        adds_bos: whether the tokenizer's BOS id stands first; a prompt that is cut keeps it. A template decides for
            itself.
        template: what a prompt is wrapped in, as the user's only turn; None is plain text.
        end_ids: ids that end an answer beside the model's own.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 42
    stop: tuple[str, ...] = ()
    adds_bos: bool = False
    template: Template | None = field(default=None, repr=False)
    end_ids: tuple[int, ...] = ()

    def show(self, prompt: Prompt) -> str:
        """Return a prompt as text, whatever wraps it included."""
        if self.template is None:
            return prompt.text + prompt.begun
        return self.template.render([("user", prompt.text)], add_generation_prompt=True) + prompt.begun


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """A prompt as the ids that are fed; `number` is its place among the prompts."""

    number: int
    id: str
    chain: int
    token_ids: tuple[int, ...]
    truncated: bool


def encode_prompts(
    tokenizer: Tokenizer, prompts: Sequence[Prompt], rule: GenerationRule, context_length: int
) -> list[EncodedPrompt]:
    """Return the ids that are fed for each prompt: exactly those of its text, after BOS where the rule says so.

    A prompt that leaves no room for `max_new_tokens` loses its left end (never BOS, or what a template puts around it)
    and is marked.

    Raises:
        SettingsError: the context has no room for a prompt.
        DataError: a prompt has no tokens at all.
    """
    if rule.template is not None:
        return _encode_turns(tokenizer, prompts, rule, rule.template, context_length)
    prefix = (tokenizer.bos_id,) if rule.adds_bos and tokenizer.bos_id is not None else ()
    room = context_length - rule.max_new_tokens - len(prefix)
    if room < 1:
        raise SettingsError(
            f"max_new_tokens is {rule.max_new_tokens}, which leaves a context of {context_length} tokens no prompt.",
            _ROOM_HINT,
        )
    texts = list(dict.fromkeys(prompt.text + prompt.begun for prompt in prompts))
    ids_of = dict(zip(texts, tokenizer.encode_batch(texts) if texts else [], strict=True))
    encoded = []
    for number, prompt in enumerate(prompts):
        ids = ids_of[prompt.text + prompt.begun]
        if not (prefix or ids):
            raise DataError(f"{prompt.id}: the prompt is empty, and no BOS stands before it")
        fed = (*prefix, *ids[-room:])
        encoded.append(EncodedPrompt(number, prompt.id, prompt.chain, fed, len(ids) > room))
    return encoded


def find_truncated(encoded: Sequence[EncodedPrompt]) -> tuple[int, ...]:
    """Return the numbers of the prompts that lost their left end."""
    return tuple(prompt.number for prompt in encoded if prompt.truncated)


def _encode_turns(
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    rule: GenerationRule,
    template: Template,
    context_length: int,
) -> list[EncodedPrompt]:
    """Encode every prompt as the user's turn, what its answer has begun with behind the assistant's heading."""
    room = context_length - rule.max_new_tokens
    known: dict[tuple[str, str], list[int]] = {}

    def ids_of(text: str, begun: str) -> list[int]:
        if (text, begun) not in known:  # the chains of one item share their prompt
            known[text, begun] = template.encode_prompt(tokenizer, [("user", text)], begun=begun)
        return known[text, begun]

    encoded = []
    for number, prompt in enumerate(prompts):
        text, begun = prompt.text, prompt.begun
        if len(ids_of("", begun)) >= room:
            raise SettingsError(
                f"max_new_tokens is {rule.max_new_tokens}, which leaves a context of {context_length} tokens no "
                "prompt in the model's chat template.",
                _ROOM_HINT,
            )
        if truncated := len(ids_of(text, begun)) > room:
            starts = range(len(text))
            text = text[
                bisect_left(starts, True, key=lambda start: len(ids_of(text[start:], begun)) <= room) :
            ]
        fed = tuple(ids_of(text, begun))
        encoded.append(EncodedPrompt(number, prompt.id, prompt.chain, fed, truncated))
    return encoded
