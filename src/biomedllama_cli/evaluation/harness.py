"""Score any task of lm-evaluation-harness with shared prefixes: its transformers model around this project's scorer.

In a script, importing this module makes the model known to lm-eval under the name `biomedllama`:

    import biomedllama_cli.evaluation.harness
    lm_eval.simple_evaluate(model="biomedllama", model_args="pretrained=FOLDER", tasks=["medqa_4options"])

On the command line the module stands where lm-eval's own would:

    python -m biomedllama_cli.evaluation.harness run --model biomedllama --model_args pretrained=FOLDER --tasks ...
"""

from __future__ import annotations

import importlib
import itertools
import tempfile
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, cast

import torch
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm
from transformers import AutoTokenizer, PreTrainedModel

from biomedllama_cli.evaluation.continuation import pad_left
from biomedllama_cli.evaluation.harness_journal import Journal, NoJournal
from biomedllama_cli.evaluation.harness_quiet import quiet_harness
from biomedllama_cli.evaluation.harness_requests import Request, group_requests
from biomedllama_cli.evaluation.jobs import Likelihood
from biomedllama_cli.evaluation.journal import Journal as RunJournal
from biomedllama_cli.evaluation.likelihoods import Pass, Ranks, run_pass
from biomedllama_cli.evaluation.scorer import Group, SharedPrefixScorer
from biomedllama_cli.models.tokenizer import Tokenizer

MODEL_NAME = "biomedllama"
"""What lm-eval calls this model."""

_REMEMBERED_TEXTS = 8  # the context of a question is encoded by lm-eval once per option


class SharedPrefixLM(HFLM):  # type: ignore[misc]
    """lm-eval's transformers model whose log-likelihoods come from `SharedPrefixScorer`.

    Everything else, generation included, is lm-eval's own.

    Args:
        pretrained: folder or hub id, or a loaded model on its device.
        own_tokenizer: this project's tokenizer, used for all ids in place of transformers' conversion.
        sharing: `auto`, or `off` for one row per continuation.
        row_tokens: of the scorer: tokens per row.
        journal: keeps finished groups and gives them back.
        ranks: the processes that share the scoring; each holds all requests and gets all answers.
        on_group: told after each group whether the journal had it; silences lm-eval's bars.
        options: of `lm_eval.models.huggingface.HFLM`; `add_bos_token` defaults to the tokenizer's own way.

    Attributes:
        record: set it to a dict, and each request's (context, continuation) gets its Likelihood there.
    """

    def __init__(
        self,
        pretrained: str | PreTrainedModel,
        *,
        own_tokenizer: Tokenizer | None = None,
        sharing: Literal["auto", "off"] = "auto",
        row_tokens: int | None = None,
        journal: Journal | None = None,
        ranks: Ranks | None = None,
        on_group: Callable[[bool], None] | None = None,
        **options: Any,
    ) -> None:
        self._own_tokenizer = own_tokenizer
        self._sharing = sharing
        self._row_tokens = row_tokens
        self._journal: Journal = journal or NoJournal()
        self._ranks = ranks or Ranks()
        self._on_group = on_group
        self._scorer: SharedPrefixScorer | None = None
        self._remembered = lru_cache(maxsize=_REMEMBERED_TEXTS)(self._encode)
        self.record: dict[tuple[str, str], Likelihood] | None = None
        if own_tokenizer is not None:
            options.setdefault("add_bos_token", own_tokenizer.adds_bos)
        super().__init__(pretrained, **options)

    @property
    def scorer(self) -> SharedPrefixScorer:
        """The scorer of this model, made at its first use."""
        if self._scorer is None:
            batch_size = self.batch_size if isinstance(self.batch_size, int) else 1
            # An adapter's layers sit inside the base model, whose attention takes the masks.
            model = self.model.get_base_model() if self.peft else self.model
            self._scorer = SharedPrefixScorer(
                model,
                context_length=self.max_length,
                row_tokens=self._row_tokens,
                batch_size=batch_size,
                sharing=self._sharing,
            )
        return self._scorer

    def _create_tokenizer(self, *positional: Any, **options: Any) -> None:
        if self._own_tokenizer is None:
            super()._create_tokenizer(*positional, **options)
            return
        # A copy for what generation needs of transformers: padding, stop sequences, decoding.
        with tempfile.TemporaryDirectory(prefix="biomedllama-tokenizer-") as folder:
            self._own_tokenizer.save(Path(folder))
            self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)

    def tok_encode(
        self,
        string: str,
        add_special_tokens: bool | None = None,
        left_truncate_len: int | None = None,
        **_: Any,
    ) -> list[int]:
        """Return the ids of a text; the last few texts are remembered."""
        ids = self._remembered(string, add_special_tokens)
        return list(ids[-left_truncate_len:] if left_truncate_len else ids)

    def _encode(self, string: str, add_special_tokens: bool | None) -> tuple[int, ...]:
        own = self._own_tokenizer
        if own is None:
            return tuple(super().tok_encode(string, add_special_tokens=add_special_tokens))
        with_bos = self.add_bos_token if add_special_tokens is None else add_special_tokens
        ids = own.encode(string)
        return (own.bos_id, *ids) if with_bos and own.bos_id is not None else tuple(ids)

    def tok_batch_encode(
        self,
        strings: list[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ids and mask of prompts to continue, padded on the left."""
        if self._own_tokenizer is None:
            encoded: tuple[torch.Tensor, torch.Tensor] = super().tok_batch_encode(
                strings, padding_side, left_truncate_len, truncation
            )
            return encoded
        rows = [self.tok_encode(string, left_truncate_len=left_truncate_len) for string in strings]
        return pad_left(rows, self.tokenizer.pad_token_id, torch.device("cpu"))

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
        """Score continuations of contexts."""
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm or self._on_group is not None)

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """Score running text: all windows of all documents in one pass."""
        if self._must_score_plainly():
            totals: list[float] = super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm)
            return totals
        windows: list[Request] = []
        counts = []
        for (text,) in (request.args for request in requests):
            cut = get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            before = len(windows)
            windows += [(None, *make_disjoint_window(window)) for window in cut]
            counts.append(len(windows) - before)
        values = iter(self._loglikelihood_tokens(windows, disable_tqdm=disable_tqdm))
        totals = [sum(value for value, _ in itertools.islice(values, count)) for count in counts]
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def _loglikelihood_tokens(
        self, requests: Sequence[Request], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        if self._must_score_plainly():
            plain: list[tuple[float, bool]] = super()._loglikelihood_tokens(
                requests, disable_tqdm=disable_tqdm, override_bs=override_bs
            )
            return plain
        groups, places = group_requests(requests, self.max_length)
        with tqdm(
            total=len(groups),
            desc="Running loglikelihood requests",
            disable=disable_tqdm or self.rank != 0 or self._on_group is not None,
        ) as bar:

            def advance(found: bool) -> None:
                bar.update(1)
                if self._on_group is not None:
                    self._on_group(found)

            found = self._score(groups, advance)
        answers = []
        for (texts, _, _), (group, place) in zip(requests, places, strict=True):
            likelihood = found[group][place]
            answer = (likelihood.value, likelihood.greedy)
            answers.append(answer)
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, answer)
                if self.record is not None:
                    self.record[texts] = likelihood
        return answers

    def _score(
        self, groups: Sequence[Group], on_group: Callable[[bool], None]
    ) -> dict[int, tuple[Likelihood, ...]]:
        work = Pass(tuple(groups), tuple(map(str, range(len(groups)))), {})
        with torch.autocast(
            device_type=self.device.type,
            dtype=self.mixed_precision_dtype,
            enabled=self.mixed_precision_dtype is not None,
        ):
            return run_pass(
                self.scorer,
                work,
                "lm-eval",
                journal=cast(RunJournal, self._journal),
                ranks=self._ranks,
                on_group=on_group,
                context_length=self.max_length,
            )

    def _must_score_plainly(self) -> bool:
        """Tell whether lm-eval's own rows are needed: encoder-decoders, and prompts that are trained vectors."""
        adapters = getattr(self.model, "peft_config", {}) if self.peft else {}
        return self.backend != "causal" or any(one.is_prompt_learning for one in adapters.values())


def wrap_model(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    *,
    context_length: int,
    batch_size: int = 1,
    journal: Journal | None = None,
    ranks: Ranks | None = None,
    on_group: Callable[[bool], None] | None = None,
) -> SharedPrefixLM:
    """Return lm-eval's view of a loaded model: BOS and the prefix of running text as its tokenizer has them.

    Args:
        model: on its device.
        tokenizer: of that model.
        context_length: longest input (in tokens).
        batch_size: rows scored, or texts generated, at once.
        journal: keeps finished groups and gives them back.
        ranks: the processes that share the scoring.
        on_group: told after each group whether the journal had it; silences lm-eval's bars.
    """
    with quiet_harness():
        return SharedPrefixLM(
            model,
            own_tokenizer=tokenizer,
            backend="causal",
            max_length=context_length,
            batch_size=batch_size,
            journal=journal,
            ranks=ranks,
            on_group=on_group,
        )


def main() -> None:
    """Run lm-eval's command line, to which this model is known by its name."""
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    # Under its full name, so that lm-eval knows one class only, whoever imports it.
    importlib.import_module("biomedllama_cli.evaluation.harness").main()
else:
    register_model(MODEL_NAME)(SharedPrefixLM)
