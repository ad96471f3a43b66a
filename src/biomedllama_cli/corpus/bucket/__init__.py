"""PubMed Central's public bucket: what one day's inventory lists, fetched into bundles on disk."""

from __future__ import annotations

from biomedllama_cli.corpus.bucket.download import FetchProgress
from biomedllama_cli.corpus.bucket.fetch import FetchResult, fetch_articles
from biomedllama_cli.corpus.bucket.refused import BucketReader

__all__ = ["BucketReader", "FetchProgress", "FetchResult", "fetch_articles"]
