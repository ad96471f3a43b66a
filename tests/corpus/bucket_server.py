"""A bucket in the layout of PubMed Central's, served on loopback, that can misbehave in every way a test asks for."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from aiohttp import web

BUCKET = "pmc-oa-opendata"
DATE = "2026-11-20"
REPORTS = f"inventory-reports/{BUCKET}/metadata/"
JATS = """<?xml version="1.0"?>
<article article-type="research-article" xml:lang="en"><front><article-meta>
<article-id pub-id-type="pmc">{number}</article-id><title-group><article-title>Made-up paper {number}</article-title>
</title-group><permissions><license xlink:href="https://creativecommons.org/licenses/by/4.0/"
xmlns:xlink="http://www.w3.org/1999/xlink"><license-p>CC BY</license-p></license></permissions></article-meta></front>
<body><sec><title>Results</title><p>{text}</p></sec></body></article>
"""


@dataclass
class Paper:
    """One article version of a made-up bucket; `claims` overrides what its metadata say."""

    number: int
    version: int = 1
    licence: str | None = "CC BY"
    xml: bytes = b""
    claims: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        text = f"Enzyme {self.number} was measured again and again. " * 20
        self.xml = self.xml or JATS.format(number=self.number, text=text).encode()

    @property
    def name(self) -> str:
        return f"PMC{self.number}.{self.version}"

    @property
    def metadata(self) -> bytes:
        url = f"s3://{BUCKET}/{self.name}/{self.name}"
        facts = {
            "pmcid": f"PMC{self.number}",
            "version": self.version,
            "pmid": 10_000_000 + self.number,
            "doi": f"10.1234/Made.{self.number}",
            "title": f"Made-up paper {self.number}",
            "citation": "J Made Up. 2020; 1:1",
            "license_code": self.licence,
            "is_pmc_openaccess": True,
            "is_manuscript": False,
            "is_historical_ocr": False,
            "is_retracted": False,
            "xml_url": f"{url}.xml?md5={md5(self.xml)}",
            "text_url": f"{url}.txt?md5={md5(b'text')}",
            "pdf_url": None,
            "media_urls": [],
        }
        return json.dumps(facts | self.claims).encode()


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def build_objects(papers: Iterable[Paper], date: str = DATE, shards: int = 2) -> dict[str, bytes]:
    """Return all objects of a bucket: metadata, articles, and one day's inventory of the metadata."""
    objects = {}
    for paper in papers:
        objects[f"metadata/{paper.name}.json"] = paper.metadata
        objects[f"{paper.name}/{paper.name}.json"] = paper.metadata
        objects[f"{paper.name}/{paper.name}.xml"] = paper.xml
    return objects | build_inventory(objects, date, shards)


def build_inventory(objects: dict[str, bytes], date: str, shards: int = 2) -> dict[str, bytes]:
    """Return the objects of one day's inventory: manifest and gzipped CSV."""
    rows = [
        f'"{BUCKET}","{key}","2026-11-19T10:00:00.000Z","{md5(content)}"'
        for key, content in objects.items()
        if key.startswith("metadata/")
    ]
    return build_report(["\n".join(rows[number::shards]).encode() for number in range(shards)], date)


def build_report(parts: list[bytes], date: str, **claims: Any) -> dict[str, bytes]:
    """Return manifest and shards made of rows as they are."""
    objects, files = {}, []
    for number, part in enumerate(parts):
        key, content = f"{REPORTS}data/{date}-{number}.csv.gz", gzip.compress(part + b"\n", mtime=0)
        objects[key] = content
        files.append({"key": key, "size": len(content), "MD5checksum": md5(content)})
    manifest = {
        "sourceBucket": BUCKET,
        "destinationBucket": f"arn:aws:s3:::{BUCKET}",
        "version": "2016-11-30",
        "fileFormat": "CSV",
        "fileSchema": "Bucket, Key, LastModifiedDate, ETag",
        "files": files,
    }
    objects[f"{REPORTS}{date}T01-00Z/manifest.json"] = json.dumps(manifest | claims).encode()
    return objects


Fault = Callable[[web.Request, bytes], "web.StreamResponse | asyncio.Future[web.StreamResponse]"]


class BucketServer:
    """Serves objects over HTTP on 127.0.0.1 from a thread of its own; `with BucketServer(objects) as server`.

    Attributes:
        objects: what it serves; may be changed while it runs.
        requests: how often each path was asked for; listings under `?`.
        faults: for a key, the names of `_misbehave` that its next answers are to be, in order.
        latency: pause before each answer, in seconds.
        page_size: common prefixes on a page of a listing.
        peak: most requests that were answered at the same time.
    """

    def __init__(self, objects: dict[str, bytes], latency: float = 0.0, port: int = 0) -> None:
        self.objects = objects
        self.requests: Counter[str] = Counter()
        self.faults: defaultdict[str, list[str]] = defaultdict(list)
        self.latency = latency
        self.page_size = 1000
        self.peak = self._running = 0
        self._port = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._ready = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> BucketServer:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        application = web.Application()
        application.router.add_get("/{key:.*}", self._answer)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        self._loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", self._port)
        self._loop.run_until_complete(site.start())
        self._port = runner.addresses[0][1]
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        key = request.match_info["key"]
        self.requests[key or "?"] += 1
        self._running += 1
        self.peak = max(self.peak, self._running)
        try:
            if self.latency:
                await asyncio.sleep(self.latency)
            if not key and request.query.get("list-type") == "2":
                return self._list(request)
            faults = self.faults.get(key) or self.faults.get("*")
            if faults:
                return await self._misbehave(faults.pop(0), request)
            content = self.objects.get(key)
            if content is None:
                return web.Response(status=404, text="<Error><Code>NoSuchKey</Code></Error>")
            return web.Response(body=content, headers={"ETag": f'"{md5(content)}"'})
        finally:
            self._running -= 1

    def _list(self, request: web.Request) -> web.Response:
        prefix, start = request.query["prefix"], request.query.get("continuation-token", "")
        below = (key.removeprefix(prefix) for key in self.objects if key.startswith(prefix))
        prefixes = sorted({f"{prefix}{rest.split('/')[0]}/" for rest in below if "/" in rest})
        page = [name for name in prefixes if name > start][: self.page_size]
        more = bool(page) and page[-1] != prefixes[-1]
        token = f"<NextContinuationToken>{page[-1]}</NextContinuationToken>" if more else ""
        names = "".join(f"<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>" for name in page)
        text = f'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{token}{names}</ListBucketResult>'
        return web.Response(text=text, content_type="application/xml")

    async def _misbehave(self, fault: str, request: web.Request) -> web.StreamResponse:
        key = request.match_info["key"]
        content = self.objects.get(key, b"")
        etag = {"ETag": f'"{md5(content)}"'}
        transport = request.transport
        assert transport is not None
        if fault.isdigit():
            return web.Response(status=int(fault), text="<Error/>")
        if fault.startswith("retry-after"):
            return web.Response(status=503, headers={"Retry-After": fault.split()[1]})
        if fault == "reset":
            transport.abort()
            return web.Response()
        if fault == "damaged":  # on its way: the ETag is right
            return web.Response(body=b"#" + content[1:], headers=etag)
        if fault == "damaged without etag":
            return web.Response(body=b"#" + content[1:])
        if fault.startswith("redirect"):
            return web.Response(status=302, headers={"Location": fault.split()[1]})
        if fault == "endless":
            return await _stream_without_end(request)
        answer = web.StreamResponse(headers=etag | {"Content-Length": str(len(content))})
        await answer.prepare(request)
        await answer.write(content[: len(content) // 2])
        if fault == "stall":
            await asyncio.sleep(30)
        assert fault in ("cut", "stall"), fault
        transport.abort()
        return answer


async def _stream_without_end(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse()
    answer.enable_chunked_encoding()
    await answer.prepare(request)
    while True:
        await answer.write(b"x" * 65536)
