"""Text that a model writes after a prompt, by vLLM: an extra, for CUDA devices."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch

from biomedllama_cli.errors import UnavailableError
from biomedllama_cli.evaluation.answer_text import decode_answer
from biomedllama_cli.evaluation.generation import plan_batches
from biomedllama_cli.evaluation.prompting import GenerationRule, Prompt, encode_prompts
from biomedllama_cli.evaluation.sampling import chain_seed
from biomedllama_cli.models.tokenizer import Tokenizer

_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


class VllmGenerator:
    """Continues prompts with vLLM, which batches as the device allows.

    Each chain is a request of its own with a seed of its own, so that an interrupted run continues with the same
    chains; vLLM's prefix cache reads what chains of one item share once. Sampled texts differ from those of
    `HuggingFaceGenerator`, whose noise is another, and vLLM does not promise the same text in every batch.

    Args:
        source: folder or hub id of the model.
        tokenizer: its tokenizer; vLLM is given ids, and only its answer's ids are read.
        context_length: longest prompt and answer together (in tokens).
        dtype: of the weights: `fp32`, `fp16`, `bf16`, or vLLM's own name.
        revision: branch, tag or commit of the hub repository.
        devices: GPUs that share the model.
        batch_size: requests handed over at once; texts come back, and can be saved, after each such slice.

    Raises:
        UnavailableError: there is no CUDA device, or vLLM is not installed.
    """

    def __init__(
        self,
        source: str,
        tokenizer: Tokenizer,
        *,
        context_length: int,
        dtype: str = "auto",
        revision: str | None = None,
        devices: int = 1,
        batch_size: int = 512,
    ) -> None:
        self._vllm = import_vllm()
        self.tokenizer = tokenizer
        self.context_length = context_length
        self.batch_size = batch_size
        self._model = self._vllm.LLM(
            model=source,
            revision=revision,
            dtype=_DTYPES.get(dtype, dtype),
            max_model_len=context_length,
            tensor_parallel_size=devices,
            trust_remote_code=False,
            enable_prefix_caching=True,
        )

    def generate(
        self,
        prompts: Sequence[Prompt],
        rule: GenerationRule,
        finished: Collection[int] = frozenset(),
        *,
        rank: int = 0,
        ranks: int = 1,
    ) -> Iterator[tuple[int, str]]:
        """Yield the number of a prompt and the text after it, slice by slice: see `Generator`."""
        encoded = encode_prompts(self.tokenizer, prompts, rule, self.context_length)
        for batch in plan_batches(encoded, finished, self.batch_size, rank=rank, ranks=ranks):
            outputs: Sequence[Any] = self._model.generate(
                [{"prompt_token_ids": list(prompt.token_ids)} for prompt in batch],
                sampling_params=[self._sampling(rule, prompt.id, prompt.chain) for prompt in batch],
                use_tqdm=False,
            )
            for prompt, output in zip(batch, outputs, strict=True):
                new_ids = list(output.outputs[0].token_ids)
                if new_ids and new_ids[-1] in (self.tokenizer.eos_id, *rule.end_ids):
                    new_ids.pop()
                if prompt.number not in finished:
                    yield prompt.number, decode_answer(self.tokenizer, prompt.token_ids, new_ids, rule.stop)

    def _sampling(self, rule: GenerationRule, item_id: str, chain: int) -> Any:
        sampled = rule.temperature > 0
        return self._vllm.SamplingParams(
            n=1,
            max_tokens=rule.max_new_tokens,
            temperature=rule.temperature,
            top_p=rule.top_p if sampled else 1.0,
            seed=chain_seed(rule.seed, item_id, chain) if sampled else None,
            stop=list(rule.stop) or None,
            stop_token_ids=[self.tokenizer.eos_id, *rule.end_ids],
        )


def import_vllm() -> Any:
    """Return the library.

    Raises:
        UnavailableError: there is no CUDA device, or it is not installed.
    """
    if not torch.cuda.is_available():
        raise UnavailableError(
            "backend: vllm needs a CUDA device, and there is none here.",
            "Use --backend hf, or a machine with a GPU.",
        )
    try:
        import vllm
    except ImportError as error:
        raise UnavailableError(
            f"backend: vllm cannot be imported: {error}.",
            "Install it: pip install 'biomedllama-cli[vllm]'. Or use --backend hf.",
        ) from error
    return vllm
