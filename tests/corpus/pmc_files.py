"""Articles of PubMed Central made up for tests: JATS, metadata JSON, and archives of them."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

LINKS = {
    "CC BY": "https://creativecommons.org/licenses/by/4.0/",
    "CC BY-NC": "https://creativecommons.org/licenses/by-nc/4.0/",
    "CC0": "https://creativecommons.org/publicdomain/zero/1.0/",
}


def make_jats(
    pmcid: int | None = 1,
    *,
    pmid: int | None = None,
    licence: str | None = "CC BY",
    text: str = "Serum ferritin rose.",
) -> bytes:
    """Return an article; `text` is XML."""
    ids = f'<article-id pub-id-type="pmc">PMC{pmcid}</article-id>' if pmcid else ""
    ids += f'<article-id pub-id-type="pmid">{pmid}</article-id>' if pmid else ""
    link = f'<license xlink:href="{LINKS[licence]}"><license-p>Open.</license-p></license>' if licence else ""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<article xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'article-type="research-article"><front><article-meta>{ids}<title-group><article-title>Title {pmcid}'
        "</article-title></title-group><pub-date><year>2021</year></pub-date>"
        f"<permissions>{link}</permissions></article-meta></front>"
        f"<body><sec><title>Results</title><p>{text}</p></sec></body></article>"
    ).encode()


def make_metadata(pmcid: int, xml: bytes, version: int = 1, /, **changes: Any) -> bytes:
    """Return NLM's metadata JSON of an article, with other values where said."""
    name = f"PMC{pmcid}.{version}"
    md5 = hashlib.md5(xml).hexdigest()
    values = {
        "pmcid": f"PMC{pmcid}",
        "version": version,
        "pmid": None,
        "doi": None,
        "title": f"Title {pmcid}",
        "citation": "J Tests. 2021;1:1",
        "license_code": "CC BY",
        "is_pmc_openaccess": True,
        "is_manuscript": False,
        "is_historical_ocr": False,
        "is_retracted": False,
        "xml_url": f"s3://pmc-oa-opendata/{name}/{name}.xml?md5={md5}",
        "text_url": None,
        "pdf_url": None,
        "media_urls": [],
    }
    return json.dumps(values | changes).encode()


def write_tar(path: Path, members: Iterable[tuple[str | tarfile.TarInfo, bytes]], **options: Any) -> Path:
    """Write an archive, compressed as its ending says, with the members in the order given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mode: Any = "w:gz" if path.name.endswith(("gz",)) else "w"
    with tarfile.open(path, mode, **options) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            if info.isreg():
                info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path
