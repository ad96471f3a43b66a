"""The harness gives what a plain transformers loop of our own gives, and follows the published protocol."""

from __future__ import annotations

import math
import re

import pyarrow.parquet as pq
import pytest
import sentencepiece
import yaml
from lm_eval.evaluator import evaluate as evaluate_plainly
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from transformers import AutoModelForCausalLM

from biomedllama_cli.errors import DataError, ModelError
from biomedllama_cli.evaluation import harness
from biomedllama_cli.evaluation.harness import TASK_FOLDER, ProtocolModel, harness_task_name, score_job
from biomedllama_cli.evaluation.jobs import QuestionJob, QuestionRow, TextJob, build_question_job
from biomedllama_cli.models.load import load_model
from biomedllama_cli.models.tokenizer import load_tokenizer, train_tokenizer
from biomedllama_cli.tasks.catalogue import TASKS, QuestionTask, load_questions
from biomedllama_cli.tasks.fewshot import draw_examples
from biomedllama_cli.tasks.question import Document
from biomedllama_cli.tasks.sample import SAMPLE_FILE

TOLERANCE = 1e-4


def build_scorer(tiny, *, context_length=512, batch_size=3) -> ProtocolModel:
    model = load_model(str(tiny.folder))
    tokenizer = load_tokenizer(str(tiny.folder))
    return ProtocolModel(model, tokenizer, context_length=context_length, batch_size=batch_size)


def sample_job(shots: int, items: int = 6) -> QuestionJob:
    task = TASKS["sample-questions"]
    assert isinstance(task, QuestionTask)
    loaded = load_questions(task, shots=shots)
    return build_question_job(task.name, task.prompt, draw_examples(loaded.items, None, shots, 42)[:items])


def assert_equals_own_loop(tiny, job, scores, context_length) -> None:
    for row, values in zip(job.rows, scores.log_likelihoods, strict=True):
        own = [
            tiny.score_option(row.prompt, job.option_prefix + option, context_length)
            for option in row.options
        ]
        assert values == pytest.approx(own, abs=TOLERANCE)


@pytest.mark.parametrize("shots", [0, 3])
@pytest.mark.parametrize("adds_bos", [False, True])
def test_log_likelihoods_equal_an_independent_loop(request, shots, adds_bos):
    tiny = request.getfixturevalue("tiny_model_with_bos" if adds_bos else "tiny_model")
    assert (tiny.tokenizer("a")["input_ids"][0] == 0) == adds_bos  # the fixture is what it says
    job = sample_job(shots)
    scores = score_job(build_scorer(tiny), job)
    assert scores.truncated == 0
    assert_equals_own_loop(tiny, job, scores, 512)


def test_bos_would_change_the_numbers(tiny_model_with_bos):
    # Without this the test above could not tell whether a BOS slipped in.
    tiny, row = tiny_model_with_bos, sample_job(0).rows[0]
    ids, start = tiny.encode(row.prompt + " " + row.options[0]), len(tiny.encode(row.prompt))
    assert abs(tiny.score_ids(ids, start) - tiny.score_ids([0, *ids], start + 1)) > 100 * TOLERANCE


def test_long_inputs_lose_their_left_end(tiny_model):
    job = sample_job(shots=3)
    scores = score_job(build_scorer(tiny_model, context_length=40), job)
    assert scores.truncated == sum(len(row.options) for row in job.rows)
    assert_equals_own_loop(tiny_model, job, scores, 40)
    whole = score_job(build_scorer(tiny_model), job)
    assert whole.log_likelihoods[0] != pytest.approx(scores.log_likelihoods[0], abs=0.01)


def test_options_of_many_tokens_equal_options_and_shared_beginnings(tiny_model):
    long_option = "a very long option, " * 12 + "of many tokens"
    rows = (
        QuestionRow("1", "Question: Which?\nAnswer:", ("x", long_option, "x", long_option + "s"), 0),
        QuestionRow("2", "Question: Which?\nAnswer:", ("Yes", "No", "Maybe", "5"), 1),
    )
    for prefix, task in ((" ", "medqa"), ("", "pubmedqa")):
        job = QuestionJob(task, prefix, rows)
        scores = score_job(build_scorer(tiny_model), job)
        assert_equals_own_loop(tiny_model, job, scores, 512)
    assert scores.log_likelihoods[0][0] == scores.log_likelihoods[0][2]


def test_trailing_spaces_of_the_context_move_to_the_option(tiny_model):
    job = QuestionJob("medqa", " ", (QuestionRow("1", "Question: Which?\nAnswer:  ", ("iron", "zinc"), 0),))
    (values,) = score_job(build_scorer(tiny_model), job).log_likelihoods
    own = [
        tiny_model.score_option("Question: Which?\nAnswer:", "   " + option, 512)
        for option in ("iron", "zinc")
    ]
    assert values == pytest.approx(own, abs=TOLERANCE)


def test_batch_size_does_not_change_the_numbers(tiny_model, monkeypatch):
    job = sample_job(shots=1)
    one = score_job(build_scorer(tiny_model, batch_size=1), job).log_likelihoods
    for values, other in zip(
        score_job(build_scorer(tiny_model, batch_size=16), job).log_likelihoods, one, strict=True
    ):
        assert values == pytest.approx(other, abs=TOLERANCE)
    monkeypatch.setattr(harness, "LOGITS_BUDGET_BYTES", 1)
    scorer = build_scorer(tiny_model, batch_size=16)
    score_job(scorer, job)
    assert scorer.batch_size == 1


@pytest.mark.parametrize("fixture", ["tiny_model", "tiny_model_with_bos"])
def test_rolling_text_is_conditioned_on_eos_and_equals_an_independent_loop(request, fixture):
    tiny = request.getfixturevalue(fixture)
    text = " ".join(row.prompt for row in sample_job(0, items=12).rows)
    documents = (Document("0", text), Document("1", "Iron."), Document("2", text[:700]))
    length, eos = 64, 1
    scores = score_job(build_scorer(tiny, context_length=length), TextJob("pubmed-abstracts", documents))
    for document, (value,) in zip(documents, scores.log_likelihoods, strict=True):
        ids = tiny.encode(document.text)
        own, done = 0.0, 0
        while done < len(ids):
            end = min(done + length, len(ids))
            # The window's input is as long as the context allows: EOS is only in front of the first token.
            begin = max(0, end - length - 1)
            window = ids[begin:end] if done else [eos, *ids[:end]]
            own += tiny.score_ids(window, len(window) - (end - done))
            done = end
        assert value == pytest.approx(own, abs=TOLERANCE * len(ids))
        assert value / len(ids) == pytest.approx(own / len(ids), abs=TOLERANCE)


def test_windows_of_a_document_of_5000_tokens():
    windows = [
        make_disjoint_window(window)
        for window in get_rolling_token_windows(list(range(5000)), -1, max_seq_len=2048, context_len=1)
    ]
    assert [len(scored) for _, scored in windows] == [2048, 2048, 904]
    assert [len(context) for context, _ in windows] == [1, 1, 1145]
    assert windows[0][0] == [-1]
    assert windows[2][0][-1] == 4095


def test_every_task_has_yaml_of_its_own_name_that_shadows_no_stock_task():
    files = {path.stem for path in TASK_FOLDER.glob("*.yaml")}
    assert files == {harness_task_name(name) for name in TASKS}
    for path in TASK_FOLDER.glob("*.yaml"):
        task = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert task["task"] == path.stem
        prefix = None
        for name, known in TASKS.items():
            if harness_task_name(name) == path.stem and isinstance(known, QuestionTask):
                prefix = known.prompt.option_prefix
                metrics = [entry["metric"] for entry in task["metric_list"]]
                assert ("acc_norm" in metrics) == known.prompt.normalizes_by_length
        assert task.get("target_delimiter") == prefix


def test_the_harness_own_metrics_agree_with_ours(tiny_model, monkeypatch):
    kept = {}

    def spy(*arguments, **options):
        kept.update(run(*arguments, **options))
        return kept

    run = harness.run_harness
    monkeypatch.setattr(harness, "run_harness", spy)
    from biomedllama_cli.evaluation.results import score_documents, score_questions

    task = TASKS["sample-questions"]
    drawn = draw_examples(load_questions(task, shots=0).items, None, 0, 42)
    scores = score_job(build_scorer(tiny_model), build_question_job(task.name, task.prompt, drawn))
    metrics, samples = score_questions(drawn, 40, task.prompt, scores.log_likelihoods, scores.truncated)
    theirs = kept["results"]["biomedllama_sample_questions"]
    assert metrics.acc.value == pytest.approx(theirs["acc,none"])
    assert metrics.acc_norm.value == pytest.approx(theirs["acc_norm,none"])
    assert [sample["prediction"] for sample in samples] != [sample["prediction_norm"] for sample in samples]

    documents = [
        Document(str(row), f"{item.question}\n\n{item.answer} µg ") for row, (item, _) in enumerate(drawn)
    ]
    scorer = build_scorer(tiny_model)
    values = [
        value for (value,) in score_job(scorer, TextJob("pubmed-central", tuple(documents))).log_likelihoods
    ]
    tokens = [len(scorer.tok_encode(document.text)) for document in documents]
    text, _ = score_documents(documents, 40, tokens, values, seed=0)
    theirs = kept["results"]["biomedllama_pubmed_central"]
    words = sum(len(re.split(r"\s+", document.text)) for document in documents)
    assert text.word_perplexity.value == pytest.approx(math.exp(-sum(values) / words))
    assert text.byte_perplexity.value == pytest.approx(theirs["byte_perplexity,none"])
    assert text.bits_per_byte.value == pytest.approx(theirs["bits_per_byte,none"])
    assert text.words == sum(len(re.split(r"\s+", document.text)) for document in documents)
    assert text.token_perplexity.value == pytest.approx(math.exp(-sum(values) / sum(tokens)))


def test_empty_option_is_refused(tiny_model):
    job = QuestionJob("pubmedqa", "", (QuestionRow("17", "Question:", ("", "x"), 0),))
    with pytest.raises(DataError, match="item 17 has an empty option"):
        score_job(build_scorer(tiny_model), job)


def test_option_that_melts_into_its_question_is_refused(tiny_model, monkeypatch):
    scorer = build_scorer(tiny_model)
    monkeypatch.setattr(scorer, "tok_encode", lambda *_, **__: [5])
    job = QuestionJob("medqa", " ", (QuestionRow("1", "Question:", ("y", "x"), 0),))
    with pytest.raises(DataError, match="has 0 tokens of its own"):
        score_job(scorer, job)


def test_progress_counts_every_scored_input(tiny_model):
    counted = []
    job = sample_job(0, items=5)
    score_job(build_scorer(tiny_model), job, counted.append)
    assert 15 <= sum(counted) <= 20  # options that share all but their last token are one input
    assert max(counted) <= 3


def test_option_longer_than_the_context_is_refused(tiny_model):
    job = QuestionJob("medqa", " ", (QuestionRow("1", "Question:", ("zq" * 40, "x"), 0),))
    with pytest.raises(DataError, match="context_length"):
        score_job(build_scorer(tiny_model, context_length=16), job)


def test_numbers_that_are_not_finite_are_refused(tiny_model):
    scorer = build_scorer(tiny_model)
    scorer.model.lm_head.weight.data.fill_(math.nan)
    with pytest.raises(ModelError, match="finite"):
        score_job(scorer, sample_job(0, items=1))


def test_scoring_keeps_stdout_and_the_log_clean(tiny_model, capfd, caplog):
    score_job(build_scorer(tiny_model), sample_job(0, items=2))
    score_job(build_scorer(tiny_model), TextJob("pubmed-central", (Document("0", "Some text."),)))
    assert capfd.readouterr().out == ""
    assert caplog.text == ""


def test_dates_in_options_stay_text(tiny_model):
    # A JSON file between us and the harness would take columns of ISO dates for timestamps.
    row = QuestionRow("2020-01-01", "2020-01-02", ("2020-01-03", "2020-01-04"), 0)
    assert_equals_own_loop(
        tiny_model,
        QuestionJob("medqa", " ", (row,)),
        score_job(build_scorer(tiny_model), QuestionJob("medqa", " ", (row,))),
        512,
    )


def test_written_task_can_be_run_by_plain_lm_eval(tmp_path):
    harness.write_harness_task(sample_job(2), tmp_path)
    rows = pq.read_table(tmp_path / "biomedllama_sample_questions.parquet").to_pylist()
    assert rows[0]["prompt"].count("Question: ") == 3
    assert set(rows[0]) == {"id", "prompt", "options", "answer_index"}


def test_plain_lm_eval_gives_our_log_likelihoods_on_our_yaml(tmp_path, tiny_model):
    """The harness's own model class on the written task, with the protocol's flags, scores what we score."""
    job = sample_job(2)
    job = QuestionJob(job.task, job.option_prefix, job.rows[:3])
    harness.write_harness_task(job, tmp_path)
    name = harness_task_name(job.task)
    plain = HFLM(pretrained=str(tiny_model.folder), device="cpu", dtype="float32", batch_size=2)
    plain.add_bos_token, plain.custom_prefix_token_id = False, 1
    loaded = TaskManager(include_path=str(tmp_path), include_defaults=False).load([name])
    samples = evaluate_plainly(plain, loaded, bootstrap_iters=0, log_samples=True)["samples"][name]
    theirs = [[float(response[0]) for (response,) in sample["resps"]] for sample in samples]
    ours = score_job(build_scorer(tiny_model), job).log_likelihoods
    for mine, other in zip(ours, theirs, strict=True):
        assert list(mine) == pytest.approx(other, abs=1e-4)


def test_folder_with_tokenizer_model_is_encoded_by_sentencepiece(tmp_path, tiny_model):
    tokenizer = train_tokenizer(SAMPLE_FILE.read_text(encoding="utf-8").splitlines(), 400, tmp_path, seed=0)
    model = load_model("scratch:tiny", vocabulary_size=400, bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id)
    model.save_pretrained(tmp_path)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))

    class WithSentencePiece(type(tiny_model)):  # type: ignore[misc]
        def encode(self, text):
            return processor.encode(text)

    own = WithSentencePiece(tmp_path, AutoModelForCausalLM.from_pretrained(tmp_path).eval(), None)
    loaded = load_tokenizer(str(tmp_path))
    assert loaded.kind == "sentencepiece"
    job = QuestionJob(
        "medqa", " ", (QuestionRow("1", "Question:  Which  metal?\nAnswer:", ("  iron", "zinc oxide"), 0),)
    )
    scores = score_job(build_scorer(own), job)
    assert_equals_own_loop(own, job, scores, 512)
