"""A model's own chat template: conversations as text, and where in it the assistant speaks.

Templates trim contents, insert a system prompt, refuse one, or drop what was said earlier. So nothing is assumed about
them: the prompt of each of the assistant's turns is rendered as for inference, the conversation up to the turn's end
is rendered as it is remembered, and what the second has beyond the first is the target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from biomedllama_cli.errors import DataError, SettingsError
from biomedllama_cli.models.control_tokens import ControlText, Marks
from biomedllama_cli.models.pieces import Piece

Turns = Sequence[tuple[str, str]]
"""(role, text) of each turn."""

THINKING_END = "</think>"
_TODAY = "26 Jul 2024"
"""The date that LLaMA's templates write when they know none; a clock would make the same prompt differ by day."""
_CLOCK = "{%- macro strftime_now(format) -%}" + _TODAY + "{%- endmacro %}\n"
_PLAIN_HINT = "Write the conversations as plain text: --template plain."


class TemplateRefusal(DataError):
    """A template does not take a conversation."""


class ChangesAnswer(TemplateRefusal):
    """A template writes something else than the answer after its own prompt for generation."""


class RewritesHistory(Exception):
    """A template writes an earlier turn of the assistant in another way than the model said it."""


class ChatRenderer:
    """Renders conversations with a jinja template, in transformers' sandbox.

    Args:
        source: of the template.
        names: special tokens by the names that templates know them by.
        control: the tokens that the template may write.
        eos: text and id of the tokenizer's EOS, for templates that end no turn.
    """

    def __init__(
        self, source: str, names: Mapping[str, str], control: ControlText, eos: tuple[str, int]
    ) -> None:
        self._source = _CLOCK + source if "strftime_now" in source else source
        self._names = dict(names)
        self.control = control
        self._eos = eos
        self._folds_system: bool | None = None

    @property
    def folds_system(self) -> bool:
        """Whether the template has no place for a system turn, which then stands before the first user's words."""
        if self._folds_system is None:
            probe = "zqx system zqx"
            try:
                shown = self._run([("system", probe), ("user", "zqx user zqx")], generation=True)
                self._folds_system = probe not in shown
            except TemplateRefusal:
                self._folds_system = True
        return self._folds_system

    def render(self, turns: Turns, *, generation: bool, thinking: bool = False) -> str:
        """Return the text of a conversation.

        Args:
            turns: the conversation.
            generation: whether the beginning of the assistant's next turn follows.
            thinking: whether the model is to think aloud first, where the template knows such a thing.

        Raises:
            TemplateRefusal: the template does not take these turns.
        """
        if turns and turns[0][0] == "system" and self.folds_system:
            turns = _fold_system(turns)
        return self._run(turns, generation=generation, thinking=thinking)

    def write(self, turns: Turns, *, keep_history: bool, thinking: bool = False) -> list[Piece]:
        """Return the pieces of a conversation; those of each of the assistant's turns carry its number.

        Where the last turn is not the assistant's, the beginning of its next turn ends the pieces.

        Args:
            turns: the conversation.
            keep_history: whether every turn of the assistant must stand as the model said it; otherwise a template
                that rewrites earlier ones may, and only the last turn is told apart.
            thinking: whether the model is to think aloud in the turn that the pieces end before.

        Raises:
            TemplateRefusal: the template does not take these turns.
            RewritesHistory: it rewrites earlier turns, and `keep_history` forbids that.
            ChangesAnswer: it changes what the assistant says in the last turn, or begins that turn in a way of which
                its prompt for generation knows nothing.
        """
        marks = Marks.absent_from(text for _, text in turns)
        marked = [(role, self.control.mark(text, marks)) for role, text in turns]
        try:
            pieces = self._write(marked, marks, history=True, thinking=thinking)
        except RewritesHistory:
            if keep_history:
                raise
            pieces = self._write(marked, marks, history=False, thinking=thinking)
        return self.control.strip_beside(pieces)

    def _write(self, turns: Turns, marks: Marks, *, history: bool, thinking: bool) -> list[Piece]:
        pieces: list[Piece] = []
        done = ""
        last = len(turns) - 1
        for number, (role, text) in enumerate(turns):
            if role != "assistant" or (not history and number < last):
                continue
            try:
                prompt, target = self._read_turn(turns[: number + 1], marks)
            except ChangesAnswer:
                if number < last:
                    raise RewritesHistory from None
                raise
            pieces += self._continue(done, prompt, marks)
            said = _end_of_answer(target, text)
            end = self.control.find_first(target, marks, said)
            if end is None and number < last:
                raise RewritesHistory  # inference would feed no end of that turn, so none can be learnt there
            target = target[: said if end is None else end.end()]
            pieces += self.control.split(target, marks, turn=number)
            pieces += [Piece(*self._eos, number)] if end is None else []
            done = prompt + target
        if not turns or turns[-1][0] != "assistant":
            prompt = self.render(turns, generation=True, thinking=thinking)
            pieces += self._continue(done, prompt, marks)
        return pieces

    def _continue(self, done: str, text: str, marks: Marks) -> list[Piece]:
        if not text.startswith(done):
            raise RewritesHistory
        return self.control.split(text[len(done) :], marks)

    def _read_turn(self, turns: Turns, marks: Marks) -> tuple[str, str]:
        """Return the prompt of the last turn, and what the template writes from there to the conversation's end."""
        answer = turns[-1][1]
        whole = self.render(turns, generation=False)
        thinks = THINKING_END in answer
        prompt = ""
        for thinking in (True, False) if thinks else (False, True):
            prompt = self.render(turns[:-1], generation=True, thinking=thinking)
            target = whole[len(prompt) :]
            if whole.startswith(prompt) and _says(target, answer):
                return prompt, target
            if not thinks:
                # What is remembered of an answer may lack an empty thought that the prompt puts before it.
                behind = self._find_behind_thought(prompt, whole, answer)
                if behind is not None:
                    return prompt, behind
        shown = marks.remove(whole[-60:])
        raise ChangesAnswer(
            f"template: the model's chat template writes the assistant's turn as {shown!r}, which does not continue "
            f"its own prompt {marks.remove(prompt[-40:])!r} with the answer as it is.",
            _PLAIN_HINT,
        )

    def _find_behind_thought(self, prompt: str, whole: str, answer: str) -> str | None:
        """Return the target where the prompt has an empty thought at its end and the remembered turn has none."""
        head, opened, thought = prompt.rpartition("<think>")
        if not opened or thought.strip() != THINKING_END:
            return None
        target = whole[len(head) :]
        return target.lstrip() if whole.startswith(head) and _says(target, answer) else None

    def _run(self, turns: Turns, *, generation: bool, thinking: bool = False) -> str:
        from jinja2 import TemplateError, TemplateSyntaxError
        from transformers.utils.chat_template_utils import render_jinja_template

        messages: list[dict[str, Any]] = [{"role": role, "content": text} for role, text in turns]
        try:
            rendered, _ = render_jinja_template(
                [messages],
                chat_template=self._source,
                add_generation_prompt=generation,
                enable_thinking=thinking,
                date_string=_TODAY,
                **self._names,
            )
        except TemplateSyntaxError as error:
            raise SettingsError(
                f"template: the model's chat template is not valid jinja (line {error.lineno}): {error.message}.",
                _PLAIN_HINT,
            ) from None
        except TemplateError as error:
            raise _refuse(turns, str(error)) from None
        except (TypeError, ValueError, KeyError, IndexError, AttributeError, RecursionError) as error:
            # A template is somebody's program: it may fail in any of these ways on turns it was not made for.
            raise _refuse(turns, f"{type(error).__name__}: {error}") from None
        return str(rendered[0])


def _fold_system(turns: Turns) -> list[tuple[str, str]]:
    system, rest = turns[0][1], list(turns[1:])
    if not system.strip():
        return rest
    if not rest or rest[0][0] != "user":
        return [("user", system), *rest]
    return [("user", f"{system}\n\n{rest[0][1]}"), *rest[1:]]


def _refuse(turns: Turns, reason: str) -> TemplateRefusal:
    order = ", ".join(role for role, _ in turns[:8]) + (", ..." if len(turns) > 8 else "")
    # A template may put what somebody said into its message, and that must not steer a terminal.
    shown = "".join(c if c.isprintable() else " " for c in reason[:200])
    return TemplateRefusal(
        f"template: the model's chat template does not take the turns ({order}): {shown}", _PLAIN_HINT
    )


def _end_of_answer(target: str, answer: str) -> int:
    """Return where the answer ends in a target that says it."""
    body = answer.strip()
    start = len(target) - len(target.lstrip())
    if target.startswith(body, start):
        return start + len(body)
    said = answer.rpartition(THINKING_END)[2].strip()
    return target.index(said, target.rindex(THINKING_END)) + len(said)


def _says(target: str, answer: str) -> bool:
    """Tell whether a target is the answer: white space around it may differ, and around a thought in it."""
    if target.lstrip().startswith(answer.strip()):
        return True
    thought, end, said = answer.rpartition(THINKING_END)
    if not end:
        return False
    remembered, remembered_end, rest = target.rpartition(THINKING_END)
    if not remembered_end or remembered.split() != thought.split():
        return False
    return rest.lstrip().startswith(said.strip())
