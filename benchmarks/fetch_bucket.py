"""Fetching from a bucket: ours against loops of urllib and requests, and what freezing an inventory costs.

A server on loopback in a process of its own serves made-up articles in the layout of PubMed Central's bucket and
answers each request after a fixed latency, as a bucket across a network does. All fetch the same objects, metadata and
XML, and check each MD5. Run: python benchmarks/fetch_bucket.py [--articles 1000] [--latency-ms 30] [--rows 2000000]
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import multiprocessing
import random
import resource
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from report import write_result

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "corpus"))
from bucket_server import DATE, BucketServer, Paper, build_objects

WORDS = ["".join(random.Random(i).choices("abcdefghilmnoprstuv", k=6)) for i in range(5000)]
PEER_ARTICLES = 100
"""Articles the sequential peers fetch: their rate does not depend on how many there are."""


def make_papers(count: int, xml_bytes: int) -> list[Paper]:
    """Return articles whose XML is as large as that of PubMed Central's is on average."""
    papers = []
    for number in range(1, count + 1):
        words = random.Random(number).choices(WORDS, k=xml_bytes // 7)
        papers.append(Paper(number, xml=f"<article><body><p>{' '.join(words)}</p></body></article>".encode()))
    return papers


@contextmanager
def serve(count: int, xml_bytes: int, latency: float) -> Iterator[str]:
    """Serve the articles from another process; yield the address."""
    context = multiprocessing.get_context("spawn")
    queue: Any = context.Queue()
    process = context.Process(target=run_server, args=(count, xml_bytes, latency, queue), daemon=True)
    process.start()
    try:
        yield queue.get(timeout=300)
    finally:
        process.terminate()
        process.join()


def run_server(count: int, xml_bytes: int, latency: float, queue: Any) -> None:
    """Serve until this process is ended."""
    with BucketServer(build_objects(make_papers(count, xml_bytes)), latency) as server:
        queue.put(server.url)
        while True:
            time.sleep(60)


def fetch_ours(url: str, connections: int) -> tuple[int, float]:
    """Return the articles fetched from an empty folder, and the seconds it took."""
    from biomedllama_cli.corpus.bucket import fetch_articles
    from biomedllama_cli.settings.prepare import BucketSettings, SelectionSettings

    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        settings = BucketSettings(inventory=DATE, bucket_url=url, connections=connections)
        result = fetch_articles(settings, SelectionSettings(), Path(folder))
        return result.kept, time.perf_counter() - begin


def fetch_one_by_one(read: Callable[[str], bytes], url: str, count: int) -> tuple[int, float]:
    """Return the articles fetched by a plain loop, and the seconds it took."""
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        for number in range(1, count + 1):
            facts = json.loads(read(f"{url}/metadata/PMC{number}.1.json"))
            key, _, digest = facts["xml_url"].removeprefix("s3://pmc-oa-opendata/").partition("?md5=")
            xml = read(f"{url}/{key}")
            assert hashlib.md5(xml, usedforsecurity=False).hexdigest() == digest
            (Path(folder) / f"PMC{number}.xml").write_bytes(xml)
        return count, time.perf_counter() - begin


def read_urllib(url: str) -> bytes:
    """Read a URL over a connection of its own, as urllib does."""
    with urllib.request.urlopen(url) as answer:
        content: bytes = answer.read()
    return content


def build_requests_reader() -> Callable[[str], bytes]:
    """Return a function that reads URLs over one connection that is kept open."""
    import requests

    session = requests.Session()
    session.trust_env = False

    def read(url: str) -> bytes:
        answer = session.get(url)
        answer.raise_for_status()
        return answer.content

    return read


def freeze(rows: int, queue: Any) -> None:
    """Freeze an inventory of so many rows; put seconds and bytes of memory per row into the queue."""
    from biomedllama_cli.corpus.bucket.inventory import build_shard_path, freeze_inventory

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = (
            f'"pmc-oa-opendata","metadata/PMC{n * 7919 % rows + 1}.1.json","2026-11-19T10:00:00.000Z","{n:032x}"\n'
            for n in range(rows)
        )
        with gzip.open(build_shard_path(folder, 0), "wt", compresslevel=1) as file:
            file.writelines(lines)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        begin = time.perf_counter()
        frozen = freeze_inventory(folder, DATE, ("Bucket", "Key", "LastModifiedDate", "ETag"), ["shard"])
        seconds = time.perf_counter() - begin
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
        queue.put((len(frozen.articles), seconds, grown / rows))


def measure_freezing(rows: int) -> tuple[int, float, float]:
    """Return articles, seconds and bytes of memory per row of `freeze`, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    queue: Any = context.Queue()
    process = context.Process(target=freeze, args=(rows, queue))
    process.start()
    result: tuple[int, float, float] = queue.get(timeout=3600)
    process.join()
    return result


def main() -> None:
    """Run both parts and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--articles", type=int, default=1000)
    parser.add_argument("--xml-kb", type=int, default=100)
    parser.add_argument("--latency-ms", type=float, default=30)
    parser.add_argument("--connections", type=int, nargs="*", default=[1, 8, 32, 128])
    parser.add_argument("--rows", type=int, default=2_000_000)
    choices = parser.parse_args()
    rates: dict[str, float] = {}
    with serve(choices.articles, choices.xml_kb * 1000, choices.latency_ms / 1000) as url:
        peers = (("urllib", read_urllib), ("requests.Session", build_requests_reader()))
        for name, read in peers:
            count, seconds = fetch_one_by_one(read, url, min(PEER_ARTICLES, choices.articles))
            rates[f"{name}, one after another"] = count / seconds
        best_peer = max(rates.values())
        for connections in choices.connections:
            count, seconds = fetch_ours(url, connections)
            assert count == choices.articles
            rates[f"ours, {connections} connections"] = count / seconds
    lines = [
        f"{choices.articles} articles of about {choices.xml_kb} kB (metadata and XML, each MD5 checked), every answer "
        f"after {choices.latency_ms:g} ms, server in a process of its own on the same machine.",
        "",
        "| fetched with | articles/s | MB/s of XML | against the best peer |",
        "|---|---|---|---|",
    ]
    for name, rate in rates.items():
        lines.append(
            f"| {name} | {rate:.1f} | {rate * choices.xml_kb / 1000:.2f} | {rate / best_peer:.1f}x |"
        )
    articles, seconds, grown = measure_freezing(choices.rows)
    lines += [
        "",
        f"Freezing an inventory of {articles} articles: {seconds:.1f} s, memory {grown:.0f} bytes a row at most.",
    ]
    facts = {
        "settings": vars(choices),
        "articles_per_second": rates,
        "freezing": {"articles": articles, "seconds": seconds, "bytes_per_row": grown},
    }
    write_result("fetch_bucket", lines, facts)


if __name__ == "__main__":
    main()
