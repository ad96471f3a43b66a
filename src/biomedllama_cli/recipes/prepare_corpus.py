"""The second half of `prepare`: finished tasks become a corpus folder that says what it is."""

from __future__ import annotations

import datetime
import hashlib
import logging
import shutil
from pathlib import Path
from typing import Any

import orjson

from biomedllama_cli.corpus.assembly import DOCUMENT_TABLE_FILE, Assembled, Assembly
from biomedllama_cli.corpus.card import CardFacts, Example, write_card
from biomedllama_cli.corpus.card_counts import CardCounter
from biomedllama_cli.corpus.decisions import Decisions, decide
from biomedllama_cli.corpus.decontamination.index import BenchmarkIndex
from biomedllama_cli.corpus.decontamination.report import write_report
from biomedllama_cli.corpus.document_table import PlacedTableWriter
from biomedllama_cli.corpus.job import list_versions
from biomedllama_cli.corpus.manifest import (
    MANIFEST_FILE,
    TOKENIZER_FOLDER,
    CorpusManifest,
    FileEntry,
    InputEntry,
    TokenizerIdentity,
)
from biomedllama_cli.corpus.shard_set import ShardSet
from biomedllama_cli.corpus.shards import choose_dtype
from biomedllama_cli.corpus.source import REPLAY, Source
from biomedllama_cli.corpus.task_writer import (
    CONTAMINATION_FILE,
    TOKENS_FILE,
    read_summary,
    task_folder,
)
from biomedllama_cli.corpus.work_folder import WorkFolder
from biomedllama_cli.errors import DataError
from biomedllama_cli.models.tokenizer import Tokenizer
from biomedllama_cli.recipes.command_line import show_command_line
from biomedllama_cli.recipes.prepare_job import TRAINED, decide_bos
from biomedllama_cli.recipes.prepare_source import build_rules, decontamination_mode, find_replay
from biomedllama_cli.report.progress import Progress
from biomedllama_cli.settings.prepare import PrepareSettings

logger = logging.getLogger(__name__)

_MAX_INPUTS_IN_MANIFEST = 1000
_INPUTS_FILE = "inputs.jsonl"
_FEWEST_HELD_OUT = 10


def build_corpus(
    settings: PrepareSettings,
    source: Source,
    work: WorkFolder,
    tokenizer: Tokenizer,
    *,
    index: BenchmarkIndex | None,
    job: str,
    inventory: dict[str, Any] | None,
) -> CorpusManifest:
    """Put the corpus together in the work folder, and return its manifest.

    Raises:
        DataError: no document is left.
    """
    tasks = [task_folder(work.tasks, rank) for rank in range(source.count_tasks(settings.executor.tasks))]
    weights = [part.weight for part in source.parts]
    rules = build_rules(settings, source)
    logger.info("deciding what is replaced, withdrawn or repeated")
    decisions = decide(tasks, work.path / "scratch", rules, weights, find_replay(source))
    counter = CardCounter()
    assembled = _assemble(settings, source, work, tokenizer, (tasks, decisions, counter))
    _check_something_is_left(settings, source, work, assembled)
    _warn_of_other_share(settings, assembled)
    inputs = _list_inputs(tasks, work.corpus)
    summary = _report_contamination(settings, index, tasks, work.corpus)
    manifest = CorpusManifest(
        name=work.output.name,
        job=job,
        documents=assembled.documents,
        tokens=assembled.tokens,
        bytes=assembled.bytes,
        adds_bos=decide_bos(settings, tokenizer),
        bos_id=tokenizer.bos_id,
        eos_id=tokenizer.eos_id,
        vocabulary_size=tokenizer.vocabulary_size,
        tokenizer=_identify_tokenizer(settings, tokenizer),
        shards=assembled.shards,
        sources=assembled.sources,
        files=(),
        decontamination=summary,
        inventory=inventory,
        inputs=inputs,
        settings=settings.model_dump(mode="json"),
        versions=list_versions(),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=show_command_line(),
    )
    examples = {
        reason: tuple(map(Example.model_validate, found)) for reason, found in assembled.examples.items()
    }
    write_card(work.corpus, CardFacts(manifest=manifest, counts=counter.finish(), examples=examples))
    manifest = manifest.model_copy(update={"files": _list_files(work.corpus, manifest)})
    shutil.copytree(work.path / TOKENIZER_FOLDER, work.corpus / TOKENIZER_FOLDER)
    (work.corpus / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return manifest


def _assemble(
    settings: PrepareSettings,
    source: Source,
    work: WorkFolder,
    tokenizer: Tokenizer,
    decided: tuple[list[Path], Decisions, CardCounter],
) -> Assembled:
    tasks, decisions, counter = decided
    dtype = choose_dtype(tokenizer.vocabulary_size)
    total = sum((task / TOKENS_FILE).stat().st_size for task in tasks) / dtype.itemsize / 1e6
    shards = ShardSet(work.corpus, dtype, tokenizer.vocabulary_size, settings.output.shard_tokens)
    with Progress("writing shards", total, "million tokens") as progress:
        assembly = Assembly(
            source,
            decisions,
            shards,
            PlacedTableWriter(work.corpus / DOCUMENT_TABLE_FILE),
            decode=tokenizer.decode,
            on_documents=counter.add,
            on_progress=lambda tokens: progress.advance(tokens / 1e6),
        )
        return assembly.run(tasks, dtype)


def _report_contamination(
    settings: PrepareSettings, index: BenchmarkIndex | None, tasks: list[Path], folder: Path
) -> dict[str, Any]:
    mode = decontamination_mode(settings)
    if index is None or mode == "off":
        return {"mode": "off"}
    summary = write_report(index, [task / CONTAMINATION_FILE for task in tasks], folder, mode=mode)
    return summary.model_dump(mode="json")


def _check_something_is_left(
    settings: PrepareSettings, source: Source, work: WorkFolder, assembled: Assembled
) -> None:
    documents = assembled.documents
    if documents.kept == 0:
        work.forget_tasks()  # or the command with other settings would be refused for their sake
        dropped = ", ".join(f"{count} {reason}" for reason, count in documents.dropped.items()) or "none"
        raise DataError(
            f"No document is left of {documents.read:,} record{'' if documents.read == 1 else 's'} read "
            f"(dropped: {dropped}).",
            _explain_drops(documents.dropped),
        )
    if assembled.tokens.validation == 0 and settings.output.validation_fraction > 0:
        logger.warning("the corpus has one document only: nothing is held out for validation")
    elif 0 < documents.validation < _FEWEST_HELD_OUT:
        logger.warning(
            "held out for validation: %s, too few to measure on; raise --validation-fraction",
            "1 document" if documents.validation == 1 else f"{documents.validation} documents",
        )
    if any(
        entry.name == "pubmed"
        and entry.documents.kept == 0
        and "abstract_without_licence" in entry.documents.dropped
        for entry in assembled.sources
    ):
        logger.warning(
            "no abstract was kept: without --accept-abstract-copyright one stays only where its article is under a "
            "permitted licence and not kept itself (docs/licences.md)"
        )
    if decontamination_mode(settings) == "off" and any(
        part.name in ("pubmed", "pmc", "text") for part in source.parts
    ):
        logger.warning(
            "benchmark questions were not looked for; --benchmark pubmedqa=FILE (and others) keeps them out"
        )


def _warn_of_other_share(settings: PrepareSettings, assembled: Assembled) -> None:
    replayed = [source for source in assembled.sources if source.name == REPLAY]
    if not replayed:
        return
    everything = sum(source.train_tokens * source.weight for source in assembled.sources)
    share = replayed[0].train_tokens * replayed[0].weight / everything
    if share < settings.replay.replay_fraction:
        logger.warning(
            "replay: the general text is only %.4f of the training tokens, %g was asked for; give more of it",
            share,
            settings.replay.replay_fraction,
        )
    elif share > 2 * settings.replay.replay_fraction:
        logger.warning(
            "replay: the general text is %.4f of the training tokens, %g was asked for: one document of it is longer "
            "than that",
            share,
            settings.replay.replay_fraction,
        )


def _explain_drops(dropped: dict[str, int]) -> str:
    if not dropped:
        return "Check --input."
    most = max(dropped, key=lambda reason: dropped[reason])
    hints = {
        "abstract_without_licence": "No licence covers most PubMed abstracts: read docs/licences.md, then decide on "
        "--accept-abstract-copyright.",
        "no_licence": "The articles state no licence that permits training; --licences all has no gate.",
        "noncommercial_licence": "Take --licences noncommercial if that is your purpose.",
        "other_subset": "Check --subset: it keeps records by their meta.pile_set_name.",
        "no_subset_named": "Check --subset: it keeps records by their meta.pile_set_name.",
    }
    return hints.get(most, "Check --input and the options that select documents.")


def _identify_tokenizer(settings: PrepareSettings, tokenizer: Tokenizer) -> TokenizerIdentity:
    trained = settings.tokenization.vocabulary_size is not None
    return TokenizerIdentity(
        source=TRAINED if trained else tokenizer.source,
        kind=tokenizer.kind,
        fingerprint=tokenizer.fingerprint,
        digest=tokenizer.digest,
        adds_bos=tokenizer.adds_bos,
    )


def _list_inputs(tasks: list[Path], corpus: Path) -> tuple[InputEntry, ...]:
    """Return the inputs; more than a manifest should hold are listed in a file of their own."""
    files = (file for task in tasks for file in read_summary(task)["files"])
    entries: list[InputEntry] = []
    path = corpus / _INPUTS_FILE
    with path.open("wb") as listing:
        for file in files:
            listing.write(orjson.dumps(file) + b"\n")
            if len(entries) <= _MAX_INPUTS_IN_MANIFEST:
                entries.append(InputEntry(**file))
    if len(entries) <= _MAX_INPUTS_IN_MANIFEST:
        path.unlink()
        return tuple(entries)
    return (InputEntry(path=_INPUTS_FILE, size=path.stat().st_size, sha256=_hash(path)),)


def _list_files(corpus: Path, manifest: CorpusManifest) -> tuple[FileEntry, ...]:
    shards = {f"{entry.file}{suffix}" for entry in manifest.shards for suffix in (".bin", ".idx")}
    names = sorted(path.name for path in corpus.iterdir() if path.is_file() and path.name not in shards)
    return tuple(FileEntry(file=name, sha256=_hash(corpus / name)) for name in names)


def _hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
