"""Where things are in the bucket, and which addresses are refused: only one host and known names are ever asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from biomedllama_cli.errors import SettingsError

BUCKET = "pmc-oa-opendata"
"""Name of NLM's bucket; a copy elsewhere keeps it in its `s3://` addresses."""
INVENTORY_PREFIX = f"inventory-reports/{BUCKET}/metadata/"
_METADATA_KEY = re.compile(r"metadata/PMC([1-9][0-9]{0,8})\.([1-9][0-9]{0,3})\.json")
_SHARD_KEY = re.compile(
    r"inventory-reports/(?:[A-Za-z0-9_-][A-Za-z0-9_.-]*/)*[A-Za-z0-9_-][A-Za-z0-9_.-]*\.csv\.gz"
)
_MD5 = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Article:
    """One version of an article, as an inventory lists it.

    Attributes:
        pmcid: PubMed Central's number, without `PMC`.
        version: counted from 1.
        md5: of its metadata JSON, 16 bytes.
    """

    pmcid: int
    version: int
    md5: bytes

    @property
    def name(self) -> str:
        """Its folder in the bucket."""
        return f"PMC{self.pmcid}.{self.version}"

    @property
    def metadata_key(self) -> str:
        """Where its metadata is."""
        return f"metadata/{self.name}.json"

    @property
    def xml_key(self) -> str:
        """Where its JATS XML is."""
        return f"{self.name}/{self.name}.xml"


def check_bucket_url(url: str) -> str:
    """Return the address of the bucket without a slash at its end.

    >>> check_bucket_url("http://127.0.0.1:5000/pmc-oa-opendata/")
    'http://127.0.0.1:5000/pmc-oa-opendata'

    Raises:
        SettingsError: it is no plain http(s) address.
    """
    try:
        parts = urlsplit(url)
        plain = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        plain = False
    if not plain or parts.username or parts.password or parts.query or parts.fragment:
        raise SettingsError(
            f"bucket.bucket_url: {url!r} is not the address of a bucket.",
            "Give http(s)://HOST[:PORT][/FOLDER] without a user name or a query.",
        )
    return url.rstrip("/")


def build_url(base: str, key: str) -> str:
    """Return the address of an object.

    >>> build_url("https://example.org/copy", "metadata/PMC1.1.json")
    'https://example.org/copy/metadata/PMC1.1.json'
    """
    return f"{base}/{quote(key)}"


def parse_metadata_key(key: str) -> tuple[int, int] | None:
    """Return PMCID and version of a metadata object, or None for any other object.

    >>> parse_metadata_key("metadata/PMC17.2.json")
    (17, 2)
    >>> parse_metadata_key("metadata/../PMC17.2.json") is parse_metadata_key("metadata/PMC017.2.json") is None
    True
    """
    match = _METADATA_KEY.fullmatch(key)
    return (int(match[1]), int(match[2])) if match else None


def is_shard_key(key: object) -> bool:
    """Tell whether a manifest may name this object as a shard of the inventory.

    >>> is_shard_key("inventory-reports/pmc-oa-opendata/metadata/data/1f-2.csv.gz")
    True
    >>> is_shard_key("inventory-reports/../secret.csv.gz"), is_shard_key("http://elsewhere/x.csv.gz")
    (False, False)
    """
    return isinstance(key, str) and len(key) <= 512 and bool(_SHARD_KEY.fullmatch(key))


def parse_md5(text: object) -> bytes | None:
    """Return the 16 bytes of an MD5 in hexadecimal digits, quoted or not, or None.

    >>> parse_md5('"d41d8cd98f00b204e9800998ecf8427e"').hex()
    'd41d8cd98f00b204e9800998ecf8427e'
    >>> parse_md5("d41d8cd98f00b204e9800998ecf8427e-2"), parse_md5(None)
    (None, None)
    """
    if not isinstance(text, str):
        return None
    text = text.strip('"').lower()
    return bytes.fromhex(text) if _MD5.fullmatch(text) else None


def parse_xml_url(url: object, article: Article) -> bytes | None:
    """Return the MD5 that metadata states for an article's XML; None unless it is the XML of this very article.

    >>> article = Article(17, 2, bytes(16))
    >>> good = "s3://pmc-oa-opendata/PMC17.2/PMC17.2.xml?md5=d41d8cd98f00b204e9800998ecf8427e"
    >>> parse_xml_url(good, article).hex()
    'd41d8cd98f00b204e9800998ecf8427e'
    >>> parse_xml_url(good.replace("PMC17.2/", "../"), article) is None
    True
    """
    if not isinstance(url, str):
        return None
    address, _, query = url.partition("?")
    if address != f"s3://{BUCKET}/{article.xml_key}" or not query.startswith("md5="):
        return None
    return parse_md5(query.removeprefix("md5="))
