"""The bucket as another implementation of S3 serves it: moto's server, asked anonymously by path-style addresses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from bucket_server import BUCKET, DATE, Paper, build_objects

from biomedllama_cli.corpus.bucket import fetch_articles
from biomedllama_cli.settings.prepare import BucketSettings, SelectionSettings

pytest.importorskip("moto.server", reason="needs moto[server] (the interchange extra)")
boto3 = pytest.importorskip("boto3")

OPEN_TO_ALL = (
    '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": "*", "Action": ["s3:GetObject", '
    f'"s3:ListBucket"], "Resource": ["arn:aws:s3:::{BUCKET}", "arn:aws:s3:::{BUCKET}/*"]}}]}}'
)


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return the address of an S3 server of our own on loopback."""
    from moto.server import ThreadedMotoServer

    for name, value in (("AWS_ACCESS_KEY_ID", "testing"), ("AWS_SECRET_ACCESS_KEY", "testing")):
        monkeypatch.setenv(name, value)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def test_an_s3_server_lists_inventories_and_serves_articles(endpoint: str, tmp_path: Path) -> None:
    papers = [Paper(n) for n in range(1, 8)] + [Paper(9, licence="CC BY-NC"), Paper(3, 2)]
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    client.create_bucket(Bucket=BUCKET)
    client.put_bucket_policy(Bucket=BUCKET, Policy=OPEN_TO_ALL)
    objects = build_objects(papers) | build_objects(papers[:2], date="2026-11-19")
    for key, content in objects.items():
        client.put_object(Bucket=BUCKET, Key=key, Body=content)
    settings = BucketSettings(inventory="latest", bucket_url=f"{endpoint}/{BUCKET}", connections=4)
    result = fetch_articles(settings, SelectionSettings(), tmp_path)
    assert result.date == DATE
    assert (result.kept, result.dropped) == (7, {"noncommercial_licence": 1, "superseded_version": 1})
