"""Objects of the bucket over HTTP: many at a time, tried again, bounded in size and checked against their MD5."""

from __future__ import annotations

import asyncio
import email.utils
import hashlib
import io
import logging
import random
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar
from urllib.parse import urlsplit

from biomedllama_cli import __version__
from biomedllama_cli.corpus.bucket.address import build_url, parse_md5
from biomedllama_cli.errors import Resumable

if TYPE_CHECKING:
    import aiohttp

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_CHUNK = 1 << 16
_RETRY_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
_SLOWEST_PACE = 32 << 10  # bytes per second; whatever is slower is cut and tried again
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Patience:
    """How long to put up with a bucket that does not answer.

    Attributes:
        attempts: requests for one object at most.
        first_delay: pause before the second request (in seconds); each further one is twice as long, and each is
            drawn between half and all of that, so that connections do not come back in step.
        longest_delay: pause at most, also where the bucket names one itself (in seconds).
        connect_timeout: for a connection (in seconds).
        read_timeout: for the next bytes of an answer (in seconds).
        base_timeout: for a whole answer, beside what its size needs at 32 KiB per second (in seconds).
    """

    attempts: int = 8
    first_delay: float = 0.5
    longest_delay: float = 60.0
    connect_timeout: float = 5.0
    read_timeout: float = 30.0
    base_timeout: float = 60.0

    def draw_delay(self, attempt: int, asked: float | None) -> float:
        """Return the pause after failed request `attempt`, counted from 0 (in seconds)."""
        if asked is not None:
            return min(max(asked, 0.0), self.longest_delay)
        return min(self.first_delay * 2.0**attempt, self.longest_delay) * random.uniform(0.5, 1.0)


DEFAULT_PATIENCE = Patience()
"""A minute to a minute and a half of trying."""


class GoneError(Exception):
    """The bucket has no such object."""


class ChangedError(Exception):
    """The bucket holds another object under that name than the inventory or the metadata says."""


class FailedError(Exception):
    """An object cannot be fetched; its text is the end of a sentence."""


class _PassingError(Exception):
    """A failure that another request may mend."""

    def __init__(self, problem: str, wait: float | None = None) -> None:
        super().__init__(problem)
        self.wait = wait


@dataclass(frozen=True)
class BucketClient:
    """A connection to the bucket.

    Attributes:
        session: the open HTTP session.
        base: address of the bucket.
        patience: when to give up.
    """

    session: aiohttp.ClientSession
    base: str
    patience: Patience

    async def read(self, key: str, limit: int, md5: bytes | None = None) -> bytes:
        """Return an object of at most `limit` bytes; checked against its ETag where `md5` is None.

        Raises:
            GoneError: it does not exist.
            ChangedError: it is whole but not the one that `md5` stands for.
            FailedError: it cannot be fetched, after all attempts.
        """
        sink = io.BytesIO()
        await self._fetch(build_url(self.base, key), sink, limit, md5)
        return sink.getvalue()

    async def ask(self, query: str, limit: int) -> bytes:
        """Return the bucket's answer to a query such as `list-type=2`; raises as `read` does."""
        sink = io.BytesIO()
        await self._fetch(f"{self.base}/?{query}", sink, limit, None)
        return sink.getvalue()

    async def save(self, key: str, path: Path, limit: int, md5: bytes) -> int:
        """Fetch an object into a file, which is there whole or not at all; return its bytes. Raises as `read` does."""
        part = path.with_name(f"{path.name}.new")
        try:
            with part.open("wb") as sink:
                await self._fetch(build_url(self.base, key), sink, limit, md5)
                size = sink.tell()
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        return size

    async def _fetch(self, url: str, sink: BinaryIO, limit: int, md5: bytes | None) -> None:
        import aiohttp

        problem = ""
        for attempt in range(self.patience.attempts):
            wait = None
            sink.seek(0)
            sink.truncate()
            try:
                return await self._try(url, sink, limit, md5)
            except _PassingError as error:
                problem, wait = str(error), error.wait
            except TimeoutError:
                problem = "it does not answer in time"
            except (aiohttp.ClientError, ConnectionError) as error:
                problem = str(error) or type(error).__name__
            if attempt + 1 < self.patience.attempts:
                logger.debug("%s: %s; trying again", url, problem)
                await asyncio.sleep(self.patience.draw_delay(attempt, wait))
        raise FailedError(problem)

    async def _try(self, url: str, sink: BinaryIO, limit: int, md5: bytes | None) -> None:
        from yarl import URL

        digest = hashlib.md5(usedforsecurity=False)
        loop = asyncio.get_running_loop()
        async with (
            asyncio.timeout(self.patience.base_timeout) as deadline,
            self.session.get(URL(url, encoded=True), allow_redirects=False) as answer,
        ):
            _check_status(answer)
            size = limit if answer.content_length is None else answer.content_length
            if size > limit:
                raise FailedError(f"it has {size} bytes, and {limit} are allowed")
            deadline.reschedule(loop.time() + self.patience.base_timeout + size / _SLOWEST_PACE)
            got = 0
            async for chunk in answer.content.iter_chunked(_CHUNK):
                got += len(chunk)
                if got > limit:
                    raise FailedError(f"it has more than the {limit} bytes allowed")
                digest.update(chunk)
                sink.write(chunk)
            etag = parse_md5(answer.headers.get("ETag"))
        found = digest.digest()
        if found == (md5 or etag or found):
            return
        if etag == found:
            raise ChangedError
        raise _PassingError("what arrives does not have the MD5 it should have")


def _check_status(answer: aiohttp.ClientResponse) -> None:
    if answer.status == 200:
        return
    if answer.status in (404, 410):
        raise GoneError
    if answer.status in _RETRY_STATUSES:
        raise _PassingError(
            f"it answers {answer.status}", parse_retry_after(answer.headers.get("Retry-After"))
        )
    if 300 <= answer.status < 400:
        where = answer.headers.get("Location", "elsewhere")[:200]
        raise FailedError(f"it redirects to {where!r}, which is not followed")
    raise FailedError(f"it answers {answer.status}")


def parse_retry_after(value: str | None, now: float | None = None) -> float | None:
    """Return the seconds a Retry-After header asks for, or None.

    >>> parse_retry_after("7"), parse_retry_after("soon"), parse_retry_after(None)
    (7.0, None, None)
    >>> parse_retry_after("Thu, 01 Jan 1970 00:01:00 GMT", now=50.0)
    10.0
    """
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        moment = email.utils.parsedate_to_datetime(value).timestamp()
    except ValueError:
        return None
    return max(moment - (time.time() if now is None else now), 0.0)


def run_with_client(
    base: str, connections: int, patience: Patience, work: Callable[[BucketClient], Awaitable[_T]]
) -> _T:
    """Run `work` with a client of the bucket, so that a signal stops it at once."""
    import aiohttp

    async def run() -> _T:
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=patience.connect_timeout, sock_read=patience.read_timeout
        )
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections, ttl_dns_cache=300),
            timeout=timeout,
            headers={"User-Agent": f"biomedllama-cli/{__version__}", "Accept-Encoding": "identity"},
            auto_decompress=False,  # the MD5 is that of the bytes stored, and nothing can swell
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=urlsplit(base).hostname not in _LOOPBACK,
        ) as session:
            return await work(BucketClient(session, base, patience))

    return run_interruptibly(run())


def run_interruptibly(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine; a signal cancels it and is then handed to the handler that was there before.

    A handler that raises would raise inside whatever callback happens to run, where the event loop logs
    exceptions and forgets them.

    Raises:
        Resumable: a signal came whose handler does not raise anything itself.
    """
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        before = {n: handler for n, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}
    received: list[int] = []

    async def guard() -> _T:
        task = asyncio.current_task()
        assert task is not None

        def stop(number: int) -> None:
            received.append(number)
            task.cancel()

        for number in before:
            asyncio.get_running_loop().add_signal_handler(number, stop, number)
        return await work

    try:
        result = asyncio.run(guard())
    except asyncio.CancelledError:
        if not received:
            raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if not received:
        return result
    signal.raise_signal(received[0])
    raise Resumable(f"Stopped by {signal.Signals(received[0]).name}.", "Run the same command again to go on.")


async def work_through(items: Iterator[_T], work: Callable[[_T], Awaitable[None]], workers: int) -> None:
    """Do `work` on all items, `workers` of them at the same time, taking them up in order.

    Raises:
        Exception: the first one that `work` raised; the rest is cancelled.
    """

    async def serve() -> None:
        for item in items:
            await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(serve())
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
