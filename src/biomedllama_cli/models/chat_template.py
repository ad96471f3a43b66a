"""How a conversation is written for a model: by its own chat template, or as plain text.

Tuning, evaluation and chat all write with these, so that a model meets the tokens it was tuned on: the ids before a
target are those that `encode_prompt` gives for its prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from biomedllama_cli.errors import SettingsError
from biomedllama_cli.models.chat_rendering import ChatRenderer, RewritesHistory, TemplateRefusal, Turns
from biomedllama_cli.models.control_tokens import ControlText, list_control_tokens, name_special_tokens
from biomedllama_cli.models.pieces import Piece, build_piece_encoder
from biomedllama_cli.models.sentencepiece_export import read_object
from biomedllama_cli.models.tokenizer import Tokenizer

TEMPLATE_FILE = "chat_template.jinja"
TURN_SEPARATOR = "\n\n"
PLAIN_HEADING = "### Instruction:\n"
PLAIN_CUE = "\n\n### Response:\n"


@dataclass(frozen=True)
class Template:
    """How conversations become pieces of text and control tokens.

    Attributes:
        name: plain text, or the model's own chat template.
        source: the chat template in jinja; None for plain text.
        eos: text and id of the tokenizer's end-of-sequence token.
    """

    name: Literal["plain", "chat"]
    source: str | None
    eos: tuple[str, int]
    _renderer: ChatRenderer | None = field(default=None, repr=False, compare=False)

    def render(
        self, turns: Turns, *, add_generation_prompt: bool, exact: bool = False, thinking: bool = False
    ) -> str:
        """Return the text of a conversation, control tokens spelled out.

        Args:
            turns: (role, text): a system turn or none, then user and assistant in turn.
            add_generation_prompt: whether the beginning of the assistant's next turn follows.
            exact: whether the user's text is the whole prompt, to which plain text adds nothing.
            thinking: whether the model is to think aloud first, where its template knows such a thing.

        Raises:
            TemplateRefusal: the chat template does not take these turns.
        """
        if self._renderer is not None:
            return self._renderer.render(turns, generation=add_generation_prompt, thinking=thinking)
        text = "".join(piece.text for piece in self._write_plain(turns, exact=exact))
        if add_generation_prompt or exact or not turns or turns[-1][0] == "assistant":
            return text
        return text.removesuffix(PLAIN_CUE)

    def write(
        self, turns: Turns, *, exact: bool = False, keep_history: bool = False, thinking: bool = False
    ) -> list[Piece]:
        """Return the pieces of a conversation; each of the assistant's turns, its end included, carries its number.

        Where the last turn is not the assistant's, the beginning of its next turn ends the pieces.

        Args:
            turns: (role, text) of each.
            exact: whether the user's text is the whole prompt and the assistant's follows it to the character. A chat
                template tells the two apart by itself: there the blank between them is left out.
            keep_history: whether every turn of the assistant must stand as the model said it, as training on all
                turns needs; otherwise a template may rewrite or drop what was said earlier.
            thinking: whether the model is to think aloud in the turn that the pieces end before.

        Raises:
            TemplateRefusal: the chat template does not take these turns, or changes the last answer.
            SettingsError: it rewrites earlier turns, and `keep_history` forbids that.
        """
        if self._renderer is None:
            return self._write_plain(turns, exact=exact)
        if exact:
            turns = [(role, text.removeprefix(" ") if role == "assistant" else text) for role, text in turns]
        try:
            return self._renderer.write(turns, keep_history=keep_history, thinking=thinking)
        except RewritesHistory:
            raise SettingsError(
                "train_on: the model's chat template rewrites the assistant's earlier turns, or does not end them, "
                "so they cannot be trained as the model will meet them.",
                "Train the last turn only (--train-on last-turn), or write plain text (--template plain).",
            ) from None

    def encode_prompt(
        self,
        tokenizer: Tokenizer,
        turns: Turns,
        *,
        exact: bool = False,
        thinking: bool = False,
        begun: str = "",
    ) -> list[int]:
        """Return the ids of a prompt as inference feeds it: BOS first where the tokenizer's default has it, and once.

        Args:
            tokenizer: of the model.
            turns: (role, text) of each; the last is the user's.
            exact: see `write`.
            thinking: see `write`.
            begun: what of the answer stands already.

        Raises:
            TemplateRefusal: the chat template does not take these turns.
        """
        pieces = add_bos(self.write(turns, exact=exact, thinking=thinking), tokenizer)
        if begun:
            pieces.append(Piece(begun, None, len(turns)))
        return [int(i) for ids in build_piece_encoder(tokenizer).encode([pieces])[0] for i in ids]

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Return the ids that end the assistant's turns: where generation has to stop; EOS is among them."""
        end_id = self.eos[1]
        if self._renderer is not None:
            with suppress(TemplateRefusal):
                pieces = self._renderer.write([("user", "Hello"), ("assistant", "Hello")], keep_history=False)
                end_id = end_id if pieces[-1].token_id is None else pieces[-1].token_id
        return tuple(sorted({end_id, self.eos[1]}))

    def save(self, folder: Path) -> None:
        """Write the chat template into a model folder, where transformers looks for it; plain text has no file."""
        if self.source is not None:
            (folder / TEMPLATE_FILE).write_text(self.source, encoding="utf-8")

    def _write_plain(self, turns: Turns, *, exact: bool) -> list[Piece]:
        pieces: list[Piece] = []
        prompt = ""
        for number, (role, text) in enumerate(turns):
            if role == "assistant":
                pieces += [Piece(prompt)] * bool(prompt) + [Piece(text, None, number)] * bool(text)
                pieces.append(Piece(*self.eos, number))
                prompt = TURN_SEPARATOR if number + 1 < len(turns) else ""
            elif role == "user":
                prompt += text if exact else PLAIN_HEADING + text + PLAIN_CUE
            else:
                prompt += text + TURN_SEPARATOR
        return [*pieces, Piece(prompt)] if prompt else pieces


def add_bos(pieces: Sequence[Piece], tokenizer: Tokenizer) -> list[Piece]:
    """Return the pieces with BOS first where the tokenizer's default has it; one that a template wrote stays alone."""
    bos_id = tokenizer.bos_id
    if not tokenizer.adds_bos or bos_id is None or (pieces and pieces[0].token_id == bos_id):
        return list(pieces)
    return [Piece("", bos_id), *pieces]


def choose_template(tokenizer: Tokenizer, source: str, wanted: Literal["auto", "plain", "chat"]) -> Template:
    """Return how conversations are written for a model.

    Args:
        tokenizer: of the model.
        source: of the model: a folder or a hub id.
        wanted: the model's own chat template, plain text, or the first where there is one.

    Raises:
        SettingsError: a chat template is asked for and the model has none, or it is no template.
    """
    names = name_special_tokens(tokenizer)
    eos = (names.get("eos_token", ""), tokenizer.eos_id)
    if wanted == "plain":
        return Template("plain", None, eos)
    text = _find_source(tokenizer, source)
    if text is None and wanted == "auto":
        return Template("plain", None, eos)
    if text is None:
        raise SettingsError(
            f"template: the model {source!r} has no chat template.",
            "Write plain text (--template plain), or take a model whose folder has a chat_template.jinja.",
        )
    return Template("chat", text, eos, _build_renderer(tokenizer, text, eos))


def _build_renderer(tokenizer: Tokenizer, source: str, eos: tuple[str, int]) -> ChatRenderer:
    names = name_special_tokens(tokenizer)
    tokens = list_control_tokens(tokenizer)
    every = ControlText({text: token for text, (token, _) in tokens.items()})
    # A template may write tokens that are not marked as special; those steer the conversation just as well.
    try:
        probe = ChatRenderer(source, names, every, eos).render(
            [("user", "Hello"), ("assistant", "Hello"), ("user", "Hello")], generation=True, thinking=True
        )
    except TemplateRefusal:
        probe = ""
    held = {text: token for text, (token, special) in tokens.items() if special or text in probe}
    split = frozenset(text for text in held if not tokens[text][1])
    return ChatRenderer(source, names, ControlText(held, split), eos)


def _find_source(tokenizer: Tokenizer, source: str) -> str | None:
    """Return the chat template of a model's folder, or the one its tokenizer was loaded with."""
    folders = [Path(source).expanduser()] if source.strip() else []
    if tokenizer._model_path is not None:
        folders.append(tokenizer._model_path.parent)
    for folder in folders:
        if folder.is_dir() and (found := _read_folder(folder)) is not None:
            return found
    if tokenizer.kind == "huggingface":
        return _pick(tokenizer._backend.chat_template)
    return None


def _read_folder(folder: Path) -> str | None:
    try:
        return (folder / TEMPLATE_FILE).read_text(encoding="utf-8")
    except (OSError, ValueError):
        pass
    return _pick(read_object(folder / "tokenizer_config.json").get("chat_template"))


def _pick(found: object) -> str | None:
    """Return the default among named templates."""
    if isinstance(found, list):
        found = {one.get("name"): one.get("template") for one in found if isinstance(one, dict)}
    if isinstance(found, dict):
        found = found.get("default")
    return found if isinstance(found, str) and found.strip() else None
