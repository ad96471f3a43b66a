"""How a conversation is written for a model: its own chat template, the prompts of `instruct`, or bare text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from biomedllama_cli.errors import SettingsError
from biomedllama_cli.instructions.manifest import MIXTURE_FILE
from biomedllama_cli.models.chat_rendering import TemplateRefusal, Turns
from biomedllama_cli.models.chat_template import TURN_SEPARATOR, Template, add_bos, choose_template
from biomedllama_cli.models.identity import locate_model
from biomedllama_cli.models.pieces import Piece, build_piece_encoder
from biomedllama_cli.models.tokenizer import Tokenizer
from biomedllama_cli.models.tuning_facts import read_tuning_facts

StyleName = Literal["chat", "instructed", "completion"]
Wanted = Literal["auto", "chat", "instructed", "completion"]

INSTRUCTED_STOP = ("\n\n### Instruction:", "\n### Instruction:", "### Instruction:")
"""A model that writes this asks itself the next question, be it at once."""

_ONE_EXAM = (
    "`finetune` taught this model the questions of an exam and nothing after, so it answers those (/mc) and is no "
    "partner for a conversation"
)
"""Of a model whose folder tells of its tuning and holds no mixture, which `instruct` always writes."""
_OTHER_WAYS = "Write the conversation in another way: --template instructed or --template completion."


@dataclass(frozen=True)
class Style:
    """How a conversation is written.

    Attributes:
        name: by the model's own chat template, as the prompts of `instruct`, or as text to go on with.
        reason: why, in a sentence for people.
        stop: texts that end a reply before them.
        end_ids: ids that end a reply.
    """

    name: StyleName
    reason: str
    stop: tuple[str, ...]
    end_ids: tuple[int, ...]
    _template: Template | None = field(default=None, repr=False)

    def encode(
        self,
        tokenizer: Tokenizer,
        turns: Turns,
        *,
        said: Mapping[str, Sequence[int]] | None = None,
    ) -> list[int]:
        """Return the ids of a prompt as inference feeds it: BOS first where the tokenizer's default has it.

        Args:
            tokenizer: of the model.
            turns: (role, text) of each; the last is the user's.
            said: ids that replies of this text were generated with, where they are to stand as they were.

        Raises:
            SettingsError: the chat template does not take these turns.
        """
        pieces = add_bos(self._write(turns), tokenizer)
        ids: list[int] = []
        for piece, piece_ids in zip(pieces, build_piece_encoder(tokenizer).encode([pieces])[0], strict=True):
            own = said.get(piece.text) if said and piece.turn is not None and piece.token_id is None else None
            ids += piece_ids.tolist() if own is None else own
        return ids

    def _write(self, turns: Turns) -> list[Piece]:
        if self._template is None:
            return _write_bare(turns)
        try:
            pieces = self._template.write(turns)
        except TemplateRefusal as refusal:
            raise SettingsError(
                refusal.message,
                f"Change or leave out the system message (--system). {_OTHER_WAYS}",
            ) from None
        if not any(piece.text for piece in pieces):
            raise SettingsError(
                "template: the model's chat template writes nothing of this conversation.", _OTHER_WAYS
            )
        return pieces

    @property
    def digest(self) -> str:
        """SHA-256 of all that replies follow from: name, source of the chat template, and what ends a reply."""
        source = None if self._template is None else self._template.source
        written = json.dumps([self.name, source, self.end_ids, self.stop])
        return hashlib.sha256(written.encode()).hexdigest()


def choose_style(tokenizer: Tokenizer, source: str, wanted: Wanted) -> Style:
    """Return how conversations are written for a model.

    Args:
        tokenizer: of the model.
        source: of the model, which has been loaded: a folder, a file or a hub id.
        wanted: as in the settings; `auto` goes by what the model's folder, or its snapshot of the hub, says of its
            tuning, then by whether the model has a chat template of its own.

    Raises:
        SettingsError: a chat template is asked for and the model has none, or it is no template.
    """
    if wanted == "completion":
        return _complete(tokenizer, "bare text to go on with, as asked for")
    if wanted == "instructed":
        return _instruct(tokenizer, source, "the prompts of `instruct`, as asked for")
    if wanted == "chat":
        return _chat(_read_template(tokenizer, source, "chat"), "the model's own chat template, as asked for")
    folder = locate_model(source, None)
    facts = None if folder is None else read_tuning_facts(str(folder))
    if folder is not None and facts is not None:
        by_instruct = (folder / MIXTURE_FILE).exists()
        if facts.template == "plain":
            why = ": it was tuned with them" if by_instruct else f", the nearest there is: {_ONE_EXAM}"
            return _instruct(tokenizer, source, f"the prompts of `instruct`{why}")
        why = "" if by_instruct else f"; but {_ONE_EXAM}"
        template = _read_template(tokenizer, source, "chat")
        return _chat(template, f"the model's own chat template: it was tuned with it{why}")
    template = _read_template(tokenizer, source, "auto")
    if template.name == "chat":
        return _chat(template, "the model's own chat template")
    return _complete(
        tokenizer,
        "bare text, since the model has no chat template, and no tuning.json beside it says that `instruct` tuned it "
        "(if it did: --template instructed): a base model goes on with the text; it was not taught to answer",
    )


def _read_template(tokenizer: Tokenizer, source: str, wanted: Literal["auto", "chat"]) -> Template:
    try:
        return choose_template(tokenizer, source, wanted)
    except SettingsError as error:
        raise SettingsError(error.message, _OTHER_WAYS) from None


def _chat(template: Template, reason: str) -> Style:
    return Style("chat", reason, (), template.end_ids, template)


def _instruct(tokenizer: Tokenizer, source: str, reason: str) -> Style:
    template = choose_template(tokenizer, source, "plain")
    return Style("instructed", reason, INSTRUCTED_STOP, template.end_ids, template)


def _complete(tokenizer: Tokenizer, reason: str) -> Style:
    return Style("completion", reason, (), (tokenizer.eos_id,))


def _write_bare(turns: Turns) -> list[Piece]:
    """Return the turns as paragraphs; only the assistant's go on where the one before ends."""
    pieces: list[Piece] = []
    pending = ""
    for number, (role, text) in enumerate(turns):
        if role == "assistant":
            pieces += [Piece(pending)] * bool(pending) + [Piece(text, None, number)] * bool(text)
            pending = ""
        else:
            pending += (TURN_SEPARATOR if number else "") + text
    return [*pieces, Piece(pending)] if pending else pieces
