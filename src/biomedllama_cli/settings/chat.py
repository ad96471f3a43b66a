"""Settings of `biomedllama chat`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, field_validator, model_validator
from pydantic_core import PydanticCustomError

from biomedllama_cli.settings.base import Settings
from biomedllama_cli.settings.evaluate import ProfileName


def _check_unicode(text: str) -> str:
    """Refuse what a shell passes on of bytes that are no UTF-8: no tokenizer takes it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("broken_rule", "{rule}", {"rule": "must be UTF-8 text"}) from None
    return text


def _expand(path: Path | None) -> Path | None:
    """Return a path with the home folder in place of `~`, which a shell leaves in files and in the environment."""
    try:
        return None if path is None else path.expanduser()
    except RuntimeError:
        rule = {
            "rule": "must name a home folder that is known: ~ is yours, ~NAME that of a user of this machine"
        }
        raise PydanticCustomError("broken_rule", "{rule}", rule) from None


def _expand_file(path: Path | None) -> Path | None:
    """Return the path of a file that is to be written."""
    expanded = _expand(path)
    if expanded is not None and expanded.name in ("", ".."):  # `.` and `/`
        raise PydanticCustomError("broken_rule", "{rule}", {"rule": "must name a file, and is a folder"})
    return expanded


class QuestionSettings(Settings):
    """What is asked without a terminal (also: `echo question | biomedllama chat`), and where the answers go."""

    prompt: str | None = None
    """Ask this one question and print the answer."""
    mc: str | None = None
    """Put this one multiple-choice question (`Question? | option | option`, or FILE.jsonl:7) as `evaluate` does, and
    print what the model would answer."""
    file: Path | None = None
    """Ask every question of this .jsonl file (`question`, `prompt` or `messages`) in batches."""
    output: Path | None = None
    """File of the answers of --file, one JSON line each; a start that was stopped continues it."""
    batch_size: PositiveInt | None = None
    """Questions of --file answered at once (in rows) [default: 16 on the CPU, 64 on CUDA]."""

    @field_validator("prompt")
    @classmethod
    def _check_prompt(cls, prompt: str | None) -> str | None:
        return None if prompt is None else _check_unicode(prompt)

    _expand_read = field_validator("file")(_expand)
    _expand_written = field_validator("output")(_expand_file)


class StyleSettings(Settings):
    """How a conversation is written for the model."""

    template: Literal["auto", "chat", "instructed", "completion"] = "auto"
    """The model's own chat template, the prompts of `instruct`, or bare text for a base model to go on with; auto finds
    out."""
    system: str = ""
    """Said to the model before the conversation."""

    @field_validator("system")
    @classmethod
    def _check_system(cls, system: str) -> str:
        return _check_unicode(system)


class ReplySettings(Settings):
    """How a reply is generated."""

    max_new_tokens: PositiveInt = 512
    """Longest reply (in tokens)."""
    temperature: NonNegativeFloat = 0.7
    """Of the sampling; 0 always takes the likeliest token."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Probability mass sampled from (a fraction)."""
    repetition_penalty: Annotated[float, Field(ge=1, le=2)] = 1.0
    """Lowers the scores of tokens that the reply holds already (a factor); 1 changes nothing."""
    repetition_guard: bool = True
    """End a reply that says the same over and over."""
    stop: tuple[str, ...] = ()
    """Text a reply ends before; repeatable; the template's own are added."""

    @field_validator("stop")
    @classmethod
    def _check_stop(cls, stop: tuple[str, ...]) -> tuple[str, ...]:
        if "" in stop:  # every reply holds it, at its beginning
            raise PydanticCustomError(
                "broken_rule", "{rule}", {"rule": "must be texts with something in them"}
            )
        return tuple(map(_check_unicode, stop))


class ChatComputeSettings(Settings):
    """How it is computed."""

    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of the model; auto is bf16 on CUDA (fp16 where it lacks that) and fp32 on the CPU."""
    quantize: Literal["none", "int8", "nf4"] = "none"
    """Load the weights in 8 or 4 bits by bitsandbytes (the extra `qlora`)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to run on; auto takes CUDA where it is there."""
    attention: Literal["auto", "xformers", "sdpa", "eager"] = "auto"
    """Attention implementation."""
    context_length: PositiveInt | None = None
    """Longest conversation with its reply (in tokens) [default: the model's own limit, at most 8,192]."""


class SourceSettings(Settings):
    """Passages of one's own corpus that a reply may rest on."""

    corpus: Path | None = None
    """Corpus made by `prepare`: each question is looked up in its documents, and the best passages go into the
    prompt."""
    passages: PositiveInt = 3
    """Passages per question (in passages)."""
    passage_words: Annotated[int, Field(ge=20, le=2000)] = 300
    """Longest passage (in words); nearly every abstract is one of 300."""
    rebuild_index: bool = False
    """Build the index of the corpus anew."""

    _expand_read = field_validator("corpus")(_expand)


class TranscriptSettings(Settings):
    """What is written down; nothing is, unless it is asked for."""

    save: Path | None = None
    """Write the conversation into this .jsonl file after every reply (readable by its owner alone)."""
    load: Path | None = None
    """Go on with the last conversation of this file."""
    history_file: Path | None = None
    """Keep what is typed for the arrow keys of later chats in this file (readable by its owner alone)."""

    _expand_read = field_validator("load")(_expand)
    _expand_written = field_validator("save", "history_file")(_expand_file)


class ExamSettings(Settings):
    """How `/mc` asks a multiple-choice question."""

    profile: ProfileName = "paper"
    """Protocol of `evaluate` whose prompt and scores are shown."""


class ChatSettings(Settings):
    """Talk to a model, see what it would answer in the exam and why, with sources from one's own corpus."""

    workspace: Path = Path(".")
    """Folder that holds `corpora/` and `runs/`."""
    model: str = ""
    """Hub id, model folder, checkpoint, adapter or .gguf file [default: the newest result of `instruct` in the
    workspace, else its newest checkpoint]."""
    compare: str | None = None
    """A second model that answers side by side, from the same seed."""
    seed: NonNegativeInt = 0
    """Seed of the sampling."""
    overwrite: bool = False
    """Replace an output file that holds the answers of another run."""
    questions: QuestionSettings = QuestionSettings()
    style: StyleSettings = StyleSettings()
    reply: ReplySettings = ReplySettings()
    sources: SourceSettings = SourceSettings()
    exam: ExamSettings = ExamSettings()
    transcript: TranscriptSettings = TranscriptSettings()
    compute: ChatComputeSettings = ChatComputeSettings()

    @field_validator("model", "compare")
    @classmethod
    def _check_home(cls, name: str | None) -> str | None:
        """Leave the name as it is given: reports and transcripts tell it."""
        _expand(None if name is None else Path(name))
        return name

    @model_validator(mode="after")
    def _check_questions(self) -> Self:
        asked = self.questions
        given = [name for name in ("prompt", "mc", "file") if getattr(asked, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are given at once: give one of them")
        if asked.mc is not None and (self.transcript.save or self.transcript.load):
            raise ValueError("mc asks as evaluate does, outside of any conversation: leave save and load out")
        if (asked.file is None) != (asked.output is None):
            raise ValueError("file and output belong together: give both or neither")
        if asked.prompt is not None and not asked.prompt.strip():
            raise ValueError("prompt is blank: give a question")
        if asked.file is not None and (self.transcript.save or self.transcript.load):
            raise ValueError("save and load are for conversations: the answers of file go to output")
        return self

    @model_validator(mode="after")
    def _check_files(self) -> Self:
        kept = self.transcript.history_file
        for name, path in (("save", self.transcript.save), ("load", self.transcript.load)):
            if kept is not None and path is not None and os.path.realpath(kept) == os.path.realpath(path):
                raise ValueError(f"{name} and history_file are the same file, {path}: give two")
        if self.sources.rebuild_index and self.sources.corpus is None:
            raise ValueError("rebuild_index is given without corpus, whose index it builds: give both")
        return self
