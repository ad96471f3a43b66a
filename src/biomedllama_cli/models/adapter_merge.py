"""An adapter and its base as one plain transformers folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from biomedllama_cli.errors import ModelError, OutputError
from biomedllama_cli.models.adapter_folder import find_adapter, find_tokenizer_source
from biomedllama_cli.models.load import load_model
from biomedllama_cli.models.permissions import share_as_umask_says
from biomedllama_cli.models.tokenizer import load_tokenizer


def merge_adapter(adapter: Path | str, folder: Path) -> Path:
    """Write an adapter and its base as one plain transformers folder (fp32), with the tokenizer.

    It is written beside its place and renamed, so that the folder is whole or absent.

    Args:
        adapter: folder of an adapter, such as a checkpoint.
        folder: to write; a model that is there already is replaced.

    Raises:
        ModelError: `adapter` is no adapter, or does not fit its base.
        OutputError: the folder holds something that is no model.
    """
    source = str(adapter)
    if find_adapter(source) is None:
        raise ModelError(
            f"model: {source} is no adapter that could be merged.",
            hint="Give a folder with adapter_config.json, such as a checkpoint of --method lora.",
        )
    is_taken = folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))
    if is_taken and not (folder / "config.json").is_file():
        raise OutputError(f"{folder} holds something that is no model.", hint="Give another folder.")
    temporary, old = (folder.with_name(f".{folder.name}.{end}") for end in ("tmp", "old"))
    for leftover in (temporary, old):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir(parents=True)
    load_model(source).save_pretrained(temporary)
    load_tokenizer(find_tokenizer_source(source)).save(temporary)
    share_as_umask_says(temporary)
    if folder.exists():
        folder.rename(old)
    temporary.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
    return folder
