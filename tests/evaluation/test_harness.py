"""lm-eval's requests get the numbers that lm-eval's own rows give, whatever is shared on the way."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace

import lm_eval
import pytest
import sentencepiece
import torch
import yaml
from harness_tools import TOLERANCE, assert_equal_samples, build_pair, load_harness_rows
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM

from biomedllama_cli.errors import DataError
from biomedllama_cli.evaluation.harness import SharedPrefixLM, wrap_model
from biomedllama_cli.evaluation.harness_quiet import quiet_harness
from biomedllama_cli.evaluation.likelihoods import Ranks
from biomedllama_cli.models.load import load_model
from biomedllama_cli.models.tokenizer import load_tokenizer, train_tokenizer
from biomedllama_cli.tasks.sample import SAMPLE_FILE

rows = load_harness_rows()

QUESTION = "Question: Which metal carries oxygen in the blood?\nAnswer:"
LONG = "a very long option, " * 12 + "of many tokens"
LITERAL = (
    rows.Row("texts", QUESTION, (" iron", " zinc oxide", " a salt of copper"), 0),
    rows.Row("letters", QUESTION + " A, B or C?", (" A", " B", " C"), 1),
    rows.Row("equal options", QUESTION, (" iron", " iron", " tin"), 2),
    rows.Row("shared beginnings", QUESTION, (" " + LONG, " " + LONG + "s", " a very", " a very long"), 0),
    rows.Row("trailing spaces", QUESTION + "  ", ("iron", "zinc"), 0),
    rows.Row("no space between", "Is iron a metal?\nAnswer:", ("Yes", "No", "Maybe"), 0),
    rows.Row("nothing before", "", (" iron", " zinc oxide"), 0),
    rows.Row("the prefix token's text", "", ("</s> iron", "<s> zinc"), 0),
    rows.Row("unicode", "Welches Metall trägt Sauerstoff — µg/dl, 血?", (" Eisen", " 鉄", " fer 🩸"), 0),
    rows.Row("long context", "Iron and zinc. " * 60 + QUESTION, (" iron", " zinc oxide"), 0),
)


def ask(*pairs: tuple[str, ...], kind: str = "loglikelihood") -> list[Instance]:
    return [Instance(kind, {}, pair, 0, metadata=("made-up", number, 1)) for number, pair in enumerate(pairs)]


@pytest.mark.parametrize("fixture", ["tiny_model", "tiny_model_with_bos"])
@pytest.mark.parametrize("context_length", [512, 48])
@pytest.mark.parametrize("add_bos_token", [None, False])
def test_literal_texts_get_the_numbers_of_plain_lm_eval(request, fixture, context_length, add_bos_token):
    tiny = request.getfixturevalue(fixture)
    plain, ours = build_pair(tiny.folder, max_length=context_length, add_bos_token=add_bos_token)
    fitting = [row for row in LITERAL if context_length > 400 or "shared" not in row.id]
    for metrics in (("acc", "acc_norm"), ("acc_mutual_info",)):
        asked = [rows.build_choice_task("literal", fitting, metrics) for _ in range(2)]
        (mine,), (other,) = (
            rows.run_tasks(lm, task).values() for lm, task in zip((ours, plain), asked, strict=True)
        )
        assert_equal_samples(mine, other)


def test_bos_of_the_tokenizer_is_kept_and_can_be_left_out(tiny_model_with_bos):
    # Without this the test above could not tell whether a BOS is there at all.
    _, with_bos = build_pair(tiny_model_with_bos.folder)
    _, without = build_pair(tiny_model_with_bos.folder, add_bos_token=False)
    pair = ask((QUESTION, " zinc oxide"))
    (a, _), (b, _) = with_bos.loglikelihood(pair)[0], without.loglikelihood(pair)[0]
    assert abs(a - b) > 100 * TOLERANCE
    assert b == pytest.approx(tiny_model_with_bos.score_option(QUESTION, " zinc oxide", 512), abs=TOLERANCE)


def test_greedy_continuations_are_flagged_and_no_others(tiny_model):
    plain, ours = build_pair(tiny_model.folder)
    context = tiny_model.encode(QUESTION)
    greedy = list(context)
    for _ in range(3):
        with torch.no_grad():
            greedy.append(int(tiny_model.model(torch.tensor([greedy])).logits[0, -1].argmax()))
    best = greedy[len(context) :]
    asked = [
        ((QUESTION, str(number)), context, ids)
        for number, ids in enumerate(
            (best, best[:1], [*best[:2], (best[2] + 1) % 384], [(best[0] + 1) % 384])
        )
    ]
    flags = [flag for _, flag in ours._loglikelihood_tokens(asked, disable_tqdm=True)]
    assert flags == [True, True, False, False]
    assert flags == [flag for _, flag in plain._loglikelihood_tokens(asked, disable_tqdm=True)]


@pytest.mark.parametrize("fixture", ["tiny_model", "tiny_model_with_bos"])
@pytest.mark.parametrize("prefix_token_id", [None, 1])
def test_running_text_longer_than_the_window_gets_the_numbers_of_plain_lm_eval(
    request, fixture, prefix_token_id
):
    tiny = request.getfixturevalue(fixture)
    plain, ours = build_pair(tiny.folder, max_length=64, prefix_token_id=prefix_token_id)
    texts = [" ".join(row.context for row in LITERAL), "Iron.", "Zinc and tin. " * 20, "µ"]
    mine, other = (rows.run_tasks(lm, rows.build_text_task("text", texts))["text"] for lm in (ours, plain))
    assert_equal_samples(mine, other)
    assert len(tiny.encode(texts[0])) > 3 * 64


def test_running_text_without_a_token_has_probability_one(tiny_model):
    _, ours = build_pair(tiny_model.folder)
    assert ours.loglikelihood_rolling(ask(("",), ("Iron.",), kind="loglikelihood_rolling"))[0] == 0.0


def test_answers_keep_the_order_of_the_requests_and_reach_lm_evals_cache(tiny_model):
    plain, ours = build_pair(tiny_model.folder)
    pairs = [
        (QUESTION, " iron"),
        ("Another context:", " zinc"),
        (QUESTION, " iron"),
        (QUESTION, " tin"),
        ("", " iron"),
    ]
    texts = [("Iron and zinc.",), ("Tin.",)]
    kept = {}
    for lm in (plain, ours):
        seen = kept[lm] = {}

        class Hook:
            def add_partial(self, kind, request, answer, seen=seen):
                seen[kind, tuple(request)] = answer

        lm.set_cache_hook(Hook())
        answers = lm.loglikelihood(ask(*pairs), disable_tqdm=True)
        rolled = lm.loglikelihood_rolling(ask(*texts, kind="loglikelihood_rolling"), disable_tqdm=True)
        assert [seen["loglikelihood", pair] for pair in pairs] == answers
        assert [seen["loglikelihood_rolling", text] for text in texts] == rolled
    assert kept[ours].keys() == kept[plain].keys()
    assert answers[0] == answers[2] != answers[3]


@pytest.mark.parametrize("adds_bos", [False, True])
def test_wrapped_model_scores_with_its_own_tokenizer(request, adds_bos):
    tiny = request.getfixturevalue("tiny_model_with_bos" if adds_bos else "tiny_model")
    plain, _ = build_pair(tiny.folder)
    ours = wrap_model(load_model(str(tiny.folder)), load_tokenizer(str(tiny.folder)), context_length=512)
    assert ours.add_bos_token == adds_bos
    # Spelled-out special tokens stay text with our tokenizer, and become ids with transformers'.
    fitting = [row for row in LITERAL if "</s>" not in row.continuations[0]]
    mine, other = (
        rows.run_tasks(lm, rows.build_choice_task("literal", fitting))["literal"] for lm in (ours, plain)
    )
    assert_equal_samples(mine, other)
    texts = ["Iron and zinc. " * 9, "Tin."]
    mine, other = (rows.run_tasks(lm, rows.build_text_task("text", texts))["text"] for lm in (ours, plain))
    assert_equal_samples(mine, other)


def test_generation_is_that_of_plain_lm_eval(tiny_model_with_bos):
    folder = str(tiny_model_with_bos.folder)
    plain, by_name = build_pair(folder)
    wrapped = wrap_model(load_model(folder), load_tokenizer(folder), context_length=512, batch_size=2)
    asked = [
        (text, {"until": ["\n"], "max_gen_toks": 12, "do_sample": False})
        for text in (QUESTION, "Zinc", "Iron " * 200)
    ]
    written = [lm.generate_until(ask(*asked, kind="generate_until")) for lm in (plain, by_name, wrapped)]
    assert written[0] == written[1] == written[2]
    assert any(written[0])


def test_folder_with_tokenizer_model_is_encoded_by_sentencepiece(tmp_path, tiny_model):
    tokenizer = train_tokenizer(SAMPLE_FILE.read_text(encoding="utf-8").splitlines(), 400, tmp_path, seed=0)
    model = load_model("scratch:tiny", vocabulary_size=400, bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id)
    model.save_pretrained(tmp_path)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))

    class WithSentencePiece(type(tiny_model)):  # type: ignore[misc]
        def encode(self, text):
            return processor.encode(text)

    own = WithSentencePiece(tmp_path, AutoModelForCausalLM.from_pretrained(tmp_path).eval(), None)
    loaded = replace(load_tokenizer(str(tmp_path)), adds_bos=False)
    assert loaded.kind == "sentencepiece"
    ours = wrap_model(load_model(str(tmp_path)), loaded, context_length=512)
    context = "Question:  Which  metal?\nAnswer:"
    for option in ("   iron", " zinc oxide"):
        ((value, _),) = ours.loglikelihood(ask((context, option)), disable_tqdm=True)
        assert value == pytest.approx(own.score_option(context, option, 512), abs=TOLERANCE)


class MemoryJournal:
    def __init__(self):
        self.kept = {}

    def find(self, key):
        return self.kept.get(key)

    def append(self, key, task, item, value):
        self.kept[key] = json.loads(json.dumps(value))


def test_interrupted_run_takes_what_its_journal_holds_and_scores_the_rest(tiny_model, monkeypatch):
    pairs = ask(*((f"Question {n}:", option) for n in range(5) for option in (" iron", " zinc oxide")))
    journal, told = MemoryJournal(), []
    _, first = build_pair(tiny_model.folder, only_ours={"journal": journal, "on_group": told.append})
    whole = first.loglikelihood(pairs)
    assert told == [False] * 5
    for key in list(journal.kept)[::2]:
        del journal.kept[key]
    scored = []
    _, second = build_pair(tiny_model.folder, only_ours={"journal": journal, "on_group": scored.append})
    assert second.loglikelihood(pairs) == whole
    assert sorted(scored) == [False] * 3 + [True] * 2


def test_ranks_share_the_groups_and_all_get_every_answer(tiny_model):
    pairs = ask(*((f"Question {n}:", option) for n in range(5) for option in (" iron", " zinc oxide")))
    _, alone = build_pair(tiny_model.folder)
    shares = []

    class Kept(Exception):
        pass

    def keep(found):
        shares.append(dict(found))
        raise Kept

    for rank in range(2):
        _, one = build_pair(tiny_model.folder, only_ours={"ranks": Ranks(rank, 2, keep)})
        with pytest.raises(Kept):
            one.loglikelihood(pairs, disable_tqdm=True)
    assert sorted([*shares[0], *shares[1]]) == list(range(5))
    _, last = build_pair(
        tiny_model.folder, only_ours={"ranks": Ranks(0, 2, lambda found: {**found, **shares[1]})}
    )
    assert last.loglikelihood(pairs, disable_tqdm=True) == alone.loglikelihood(pairs, disable_tqdm=True)


def test_record_holds_tokens_and_truncation_of_each_request(tiny_model):
    _, ours = build_pair(tiny_model.folder, max_length=32)
    ours.record = {}
    short, long = ("Metal:", " zinc oxide"), ("Iron and zinc. " * 20, " iron")
    ours.loglikelihood(ask(short, long), disable_tqdm=True)
    assert ours.record[short].tokens == len(tiny_model.encode("Metal: zinc oxide")) - len(
        tiny_model.encode("Metal:")
    )
    assert [ours.record[pair].truncated for pair in (short, long)] == [False, True]


@pytest.mark.parametrize(("continuation", "length"), [("", 512), (" iron" * 40, 16)])
def test_continuation_of_no_token_or_too_many_is_refused(tiny_model, continuation, length):
    _, ours = build_pair(tiny_model.folder, max_length=length)
    with pytest.raises(DataError, match="context_length"):
        ours.loglikelihood(ask((QUESTION, continuation)), disable_tqdm=True)


def test_adapter_is_scored_as_plain_lm_eval_scores_it(tmp_path, tiny_model):
    peft = pytest.importorskip("peft")
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_pretrained(tiny_model.folder)
    config = peft.LoraConfig(target_modules=["q_proj", "v_proj"], r=2, init_lora_weights=False)
    peft.get_peft_model(model, config).save_pretrained(tmp_path)
    plain, ours = build_pair(tiny_model.folder, peft=str(tmp_path))
    _, bare = build_pair(tiny_model.folder)
    asked = ask((QUESTION, " iron"), (QUESTION, " zinc oxide"))
    mine, other, without = (
        [value for value, _ in lm.loglikelihood(asked, disable_tqdm=True)] for lm in (ours, plain, bare)
    )
    assert mine == pytest.approx(other, abs=TOLERANCE)
    assert mine != pytest.approx(without, abs=0.01)


def test_name_is_known_to_lm_eval_after_the_import(tiny_model):
    assert get_model("biomedllama") is SharedPrefixLM
    with quiet_harness():
        outcome = lm_eval.simple_evaluate(
            model="biomedllama",
            model_args=f"pretrained={tiny_model.folder},dtype=float32,max_length=256,sharing=off",
            device="cpu",
            tasks=[rows.build_choice_task("literal", LITERAL[:2])],
            task_manager=TaskManager(include_defaults=False),
            bootstrap_iters=0,
        )
    assert outcome["n-samples"]["literal"]["effective"] == 2
    assert math.isfinite(outcome["results"]["literal"]["acc,none"])


@pytest.mark.slow
def test_module_run_is_lm_evals_command_line_with_our_model(tmp_path, tiny_model):
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({"q": f"Question {n}:", "a": n % 2}) + "\n" for n in range(3))
    )
    task = {
        "task": "made_up",
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {"test": str(tmp_path / "rows.jsonl")},
            "cache_dir": str(tmp_path / "c"),
        },
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "q",
        "doc_to_choice": ["iron", "zinc oxide"],
        "doc_to_target": "a",
    }
    (tmp_path / "made_up.yaml").write_text(yaml.safe_dump(task))
    command = [sys.executable, "-m", "biomedllama_cli.evaluation.harness", "run", "--model", "biomedllama"]
    command += ["--model_args", f"pretrained={tiny_model.folder},dtype=float32", "--device", "cpu"]
    command += ["--include_path", str(tmp_path), "--tasks", "made_up", "--output_path", str(tmp_path / "out")]
    finished = subprocess.run([*command, "--log_samples"], capture_output=True, text=True, check=True)
    assert "|made_up|" in finished.stdout
    (file,) = (tmp_path / "out").rglob("samples_made_up_*.jsonl")
    with quiet_harness():
        plain = HFLM(pretrained=str(tiny_model.folder), device="cpu", dtype="float32")
    for sample in map(json.loads, file.open(encoding="utf-8")):
        pairs = [(arguments["arg_0"], arguments["arg_1"]) for arguments in sample["arguments"].values()]
        own = [value for value, _ in plain.loglikelihood(ask(*pairs), disable_tqdm=True)]
        assert [float(one[0][0]) for one in sample["resps"]] == pytest.approx(own, abs=TOLERANCE)
