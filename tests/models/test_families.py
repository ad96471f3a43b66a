"""Models of today: prepare -> pretrain -> evaluate -> plain transformers, for one tiny model of every kind."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from biomedllama_cli.corpus.shards import load_shard
from biomedllama_cli.recipes.evaluate import evaluate
from biomedllama_cli.recipes.prepare import prepare
from biomedllama_cli.recipes.pretrain import pretrain
from biomedllama_cli.settings.evaluate import ComputeSettings, EvaluateSettings, ProtocolSettings
from biomedllama_cli.settings.prepare import (
    OutputSettings,
    PrepareSettings,
    SourceSettings,
    TokenizerSettings,
)
from biomedllama_cli.settings.pretrain import (
    BatchSettings,
    DurationSettings,
    NumericsSettings,
    OptimizerSettings,
    PretrainParallelSettings,
    PretrainSettings,
)

EXPECTED = {
    # family: architecture in the end, documents start with BOS, bytes per stored token
    "llama": ("LlamaForCausalLM", True, 2),
    "llama3": ("LlamaForCausalLM", True, 4),
    "qwen3": ("Qwen3ForCausalLM", False, 2),
    "gemma3": ("Gemma3ForCausalLM", True, 2),
    "gemma3-wrapper": ("Gemma3ForCausalLM", True, 2),
    "mistral": ("MistralForCausalLM", True, 2),
}


@pytest.fixture(scope="session")
def documents(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of 60 short Pile records: every ordered choice of three of the five sentences."""
    path: Path = tmp_path_factory.mktemp("documents") / "records.jsonl"
    texts = [" ".join(chosen) for chosen in itertools.permutations(tiny.TEXT, 3)]
    records = [{"text": text, "meta": {"pile_set_name": "PubMed Abstracts"}} for text in texts]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize("family", EXPECTED)
def test_a_family_goes_all_the_way(
    family: str, tiny_folder: Callable[[str], Path], documents: Path, tmp_path: Path
) -> None:
    architecture, adds_bos, token_bytes = EXPECTED[family]
    source = tiny_folder(family)

    corpus = tmp_path / "corpus"
    manifest = prepare(
        PrepareSettings(
            output_dir=corpus,
            source=SourceSettings(input=(str(documents),), subset="pubmed-abstracts"),
            tokenization=TokenizerSettings(tokenizer=str(source)),
            output=OutputSettings(validation_fraction=0.2),
        )
    ).manifest
    assert manifest is not None
    assert manifest.documents.kept == 60
    assert manifest.adds_bos == adds_bos
    (shard_file,) = (shard.file for shard in manifest.shards if shard.split == "train")
    tokens = load_shard((corpus / shard_file).with_suffix("")).token_ids
    assert tokens.dtype.itemsize == token_bytes
    assert (int(tokens.max()) > 65_535) == (family == "llama3")
    assert int(tokens[0] == manifest.bos_id) == adds_bos

    trained = pretrain(
        PretrainSettings(
            corpus=corpus,
            model=str(source),
            output_dir=tmp_path / "run",
            batch=BatchSettings(sequence_length=64, micro_batch_size=2, global_batch_size=2),
            duration=DurationSettings(max_steps=8),
            optimizer=OptimizerSettings(peak_learning_rate=1e-2),
            numerics=NumericsSettings(precision="fp32"),
            parallel=PretrainParallelSettings(device="cpu"),
        )
    )
    assert trained.checkpoint is not None
    assert trained.bits_per_byte_after < 0.95 * trained.bits_per_byte_before

    report = evaluate(
        EvaluateSettings(
            model=(str(trained.checkpoint),),
            output_dir=tmp_path / "results",
            protocol=ProtocolSettings(
                task=("pubmed-abstracts", "sample-questions"),
                data=(f"pubmed-abstracts={documents}",),
                limit=3,
                context_length=512,
            ),
            compute=ComputeSettings(device="cpu", dtype="fp32"),
        )
    )
    (evaluation,) = report.evaluations
    (question_cell,), (text_cell,) = evaluation.results.questions, evaluation.results.texts
    assert question_cell.metrics.n == 3

    model, loading = AutoModelForCausalLM.from_pretrained(trained.checkpoint, output_loading_info=True)
    assert not any(loading[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(model).__name__ == architecture
    tokenizer = AutoTokenizer.from_pretrained(trained.checkpoint)
    samples = Path(evaluation.output_dir) / text_cell.samples_file
    scored = [json.loads(line) for line in samples.read_text().splitlines()]
    assert len(scored) == 3
    texts = [json.loads(line)["text"] for line in documents.read_text().splitlines()]
    by_id = {str(number): text for number, text in enumerate(texts)}
    expected = sum(_log_likelihood(model, tokenizer, by_id[str(sample["id"])]) for sample in scored)
    assert text_cell.metrics.log_likelihood == pytest.approx(expected, abs=1e-2)


@torch.no_grad()
def _log_likelihood(model: Any, tokenizer: Any, text: str) -> float:
    """Score a document shorter than the context by plain transformers: no BOS, the first token after EOS."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    rows = model(torch.tensor([[tokenizer.eos_token_id, *ids[:-1]]])).logits.log_softmax(-1)[0]
    return float(rows[torch.arange(len(ids)), torch.tensor(ids)].sum())
