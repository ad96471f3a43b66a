"""What a checkpoint will consist of: small files, and large ones of which every rank writes its own rows."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors.torch import load_file, save
from transformers import PreTrainedModel

from biomedllama_cli.engine.checkpoint_folder import PROGRESS_FILE, STATE, Progress
from biomedllama_cli.engine.checkpoint_state import OPTIMIZER_FILE, RANDOM_FILE, list_moments, list_weights
from biomedllama_cli.engine.own_rows import find_own_rows
from biomedllama_cli.models.tensor_files import FilePlan, TensorSpec, create_file, plan_file

WEIGHTS_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
_LARGEST_FILE = "50GB"  # that of transformers, so that one process and many name their files as it does


@dataclass(frozen=True)
class ModelFiles:
    """How transformers writes a model.

    Attributes:
        texts: its small files (config.json, generation_config.json) by name.
        names: the name in the file of each tensor by its name in the model; None where a file holds other tensors than
            the model (experts apart), so that only transformers can write it.
    """

    texts: Mapping[str, bytes]
    names: Mapping[str, str] | None


@dataclass(frozen=True)
class Piece:
    """Rows of a tensor, and where they belong.

    Attributes:
        file: by its place in the checkpoint.
        place: where the rows begin (in bytes from the file's start).
        rows: shares the memory of what is trained.
    """

    file: str
    place: int
    rows: torch.Tensor


@dataclass(frozen=True)
class Draft:
    """A checkpoint before it is written.

    Attributes:
        texts: whole small files, by their places.
        files: large files, by their places.
        pieces: what this rank writes into them.
    """

    texts: Mapping[str, bytes]
    files: Mapping[str, FilePlan]
    pieces: tuple[Piece, ...]

    def create(self, folder: Path) -> None:
        """Write the small files, and make the large ones.

        Raises:
            OSError: there is no room.
        """
        (folder / STATE).mkdir(exist_ok=True)
        for name, content in self.texts.items():
            (folder / name).write_bytes(content)
        for name, plan in self.files.items():
            create_file(folder / name, plan)


def describe_model_files(model: PreTrainedModel) -> ModelFiles:
    """Ask transformers how it would write a model, with a few numbers in place of each tensor."""
    marks = {
        name: _mark(number, tensor.ndim) for number, (name, tensor) in enumerate(list_weights(model).items())
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        try:
            model.save_pretrained(folder, state_dict=dict(marks))
            written = load_file(folder / WEIGHTS_FILE)
        except (RuntimeError, ValueError, IndexError, TypeError, KeyError):
            written = {}  # an operation for which these are too few numbers: more than a change of names
        texts = {path.name: path.read_bytes() for path in folder.glob("*.json")}
    return ModelFiles(texts, _match(marks, written))


def _mark(number: int, dimensions: int) -> torch.Tensor:
    """Return a tensor like no other; turned or cut apart it is another."""
    shape = range(2, 2 + dimensions)
    return number * 10_000 + torch.arange(math.prod(shape)).reshape(*shape)


def _match(
    marks: Mapping[str, torch.Tensor], written: Mapping[str, torch.Tensor]
) -> Mapping[str, str] | None:
    """Return under which name each mark was written, or None where anything but names was changed."""
    found = {_read_mark(mark): name for name, mark in written.items()}
    names = {name: found.get(_read_mark(mark)) for name, mark in marks.items()}
    known = {name: place for name, place in names.items() if place is not None}
    return known if len(known) == len(names) == len(written) else None


def _read_mark(mark: torch.Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(mark.shape), tuple(mark.flatten().tolist())


def build_draft(
    model: PreTrainedModel,
    optimizer: Any,
    progress: Progress,
    random_states: Mapping[str, torch.Tensor],
    model_files: ModelFiles | None,
) -> Draft:
    """Lay out a checkpoint; nothing is copied or sent.

    Args:
        model: prepared.
        optimizer: prepared.
        progress: how far the run is.
        random_states: of every rank.
        model_files: how the weights are written; None where another function has written them whole.
    """
    texts = {
        f"{STATE}/{PROGRESS_FILE}": json.dumps(asdict(progress), indent=2).encode(),
        RANDOM_FILE: save(dict(random_states)),
    }
    content = {OPTIMIZER_FILE: list_moments(model, optimizer)}
    if model_files is not None and model_files.names is not None:
        weights = {model_files.names[name]: tensor for name, tensor in list_weights(model).items()}
        split, index = split_weights(weights)
        texts |= {**model_files.texts, **index}
        content |= split
    plans = {
        file: plan_file({name: TensorSpec.of(tensor) for name, tensor in tensors.items()})
        for file, tensors in content.items()
    }
    pieces = []
    for file, tensors in content.items():
        for name, tensor in tensors.items():
            own, spec = find_own_rows(tensor), TensorSpec.of(tensor)
            if own.is_written_here:
                pieces.append(Piece(file, plans[file].starts[name] + own.start * spec.row_size, own.rows))
    return Draft(texts, plans, tuple(pieces))


def split_weights(
    weights: Mapping[str, torch.Tensor], largest_file: str = _LARGEST_FILE
) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, bytes]]:
    """Return the tensors of each file as transformers spreads them, and the index where there are several."""
    split = split_state_dict_into_shards_factory(
        dict(weights),
        get_storage_size=lambda tensor: TensorSpec.of(tensor).size,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=largest_file,
    )
    files = {
        file: {name: weights[name] for name in names} for file, names in split.filename_to_tensors.items()
    }
    if not split.is_sharded:
        return files, {}
    index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
    return files, {INDEX_FILE: (json.dumps(index, indent=2, sort_keys=True) + "\n").encode()}
