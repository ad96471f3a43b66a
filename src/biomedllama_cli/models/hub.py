"""Whether the hub answers, asked once and quickly."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from huggingface_hub import constants, get_session

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 5.0
"""How long the hub may take for its first answer (in seconds)."""


@cache
def is_hub_reachable() -> bool:
    """Return whether the hub answers, by one request; False in offline mode.

    Without a network the hub client retries every file five times (23 s for a model). Loading from the cache
    alone, when this is False, tells the user at once what is missing.
    """
    if constants.is_offline_mode():
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=ANSWER_SECONDS)
    except (
        Exception
    ) as error:  # name resolution, refusal, time-out, certificates: the client has a type for each
        logger.debug("hub: %r", error)
        return False
    return True


@contextmanager
def offline_where_unreachable() -> Iterator[None]:
    """Be in offline mode for a while where the hub does not answer: the cache is read, and nothing is tried again."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not is_hub_reachable()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
