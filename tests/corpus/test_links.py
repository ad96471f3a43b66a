"""Records decide about each other: versions, deletions, retractions, licences and full texts of twins."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biomedllama_cli.corpus import links, reasons
from biomedllama_cli.corpus.document import Deletion, Dropped, Item, Metadata, Record
from biomedllama_cli.corpus.links import LINK, LinkWriter, apply_links
from biomedllama_cli.corpus.links_rows import WITHDRAWAL

STRICT = {
    "accept_abstract_copyright": False,
    "gate_abstracts": True,
    "drop_retracted": True,
    "drop_contaminated_twins": True,
}
OPEN = {**STRICT, "gate_abstracts": False}


class Entry:
    """An item as a task meets it."""

    def __init__(
        self, item: Item, source: str = "pubmed", *, permitted: bool = False, contaminated: bool = False
    ) -> None:
        self.item, self.source = item, source
        self.permitted, self.contaminated = permitted, contaminated


def citation(pmid: int, *, kept: bool = True, contaminated: bool = False, **metadata: Any) -> Entry:
    return Entry(make_item(kept, pmid=pmid, **metadata), contaminated=contaminated)


def article(
    pmcid: int, *, kept: bool = True, permitted: bool = True, contaminated: bool = False, **metadata: Any
) -> Entry:
    item = make_item(kept, pmcid=pmcid, **metadata)
    return Entry(item, "pmc", permitted=permitted, contaminated=contaminated)


def deletion(pmid: int) -> Entry:
    return Entry(Deletion(pmid, "here"))


def make_item(kept: bool, **metadata: Any) -> Item:
    facts = Metadata(**metadata)
    return Record("text", None, "here", facts) if kept else Dropped("no_abstract", "here", metadata=facts)


def decide(folder: Path, tasks: Sequence[Sequence[Entry]], rules: dict[str, bool]) -> list[str]:
    """Return the reason of each kept document of the tasks, in order; "" for one that stays."""
    folder.mkdir(parents=True, exist_ok=True)
    files, counts = [], []
    for number, entries in enumerate(tasks):
        writer = LinkWriter()
        document = 0
        for position, entry in enumerate(entries):
            kept = isinstance(entry.item, Record)
            writer.add(
                entry.item,
                document if kept else -1,
                position,
                permitted=entry.permitted,
                contaminated=entry.contaminated,
                source=entry.source,
            )
            document += kept
        files.append(folder / f"links-{number}")
        files[-1].write_bytes(writer.to_bytes())
        counts.append(document)
    flags = np.zeros(sum(counts), np.uint8)
    apply_links(files, counts, flags, folder / "scratch", **rules)
    assert list((folder / "scratch").iterdir()) == []
    return [reasons.NAMES.get(int(flag), "") for flag in flags]


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        # the newest record of a PMID wins, later in the input being newer
        ([citation(1), citation(2), citation(1)], ["superseded_version", "", ""]),
        # a higher version wins over a lower one that comes later
        ([citation(1, version=2), citation(1, version=1)], ["", "superseded_version"]),
        # a record that was left out still replaces
        ([citation(1), citation(1, kept=False)], ["superseded_version"]),
        # a deletion counts for what came before it, of any version
        ([citation(1, version=3), deletion(1), citation(2)], ["deleted_citation", ""]),
        ([citation(1, version=3), deletion(1), citation(1)], ["deleted_citation", ""]),
        ([deletion(1), citation(1)], [""]),
        # versions of an article; records of one PMID in PubMed and PMC are no versions of each other
        ([article(7, version=2), article(7, version=1)], ["", "superseded_version"]),
        ([article(7), article(7), article(8)], ["superseded_version", "", ""]),
        ([article(7, pmid=1), article(8, pmid=1)], ["", ""]),
        # sources without versions keep all
        ([Entry(make_item(True, pmid=1), "text"), Entry(make_item(True, pmid=1), "text")], ["", ""]),
    ],
)
def test_newest_record_stays(tmp_path: Path, entries: list[Entry], expected: list[str]) -> None:
    assert decide(tmp_path, [entries], OPEN) == expected


@pytest.mark.parametrize("target", ["pmid:1", "pmcid:7", "doi:https://doi.org/10.1/ABC", "doi:10.1/abc"])
@pytest.mark.parametrize("notice_first", [True, False])
def test_notice_retracts_document_and_its_twin(tmp_path: Path, target: str, notice_first: bool) -> None:
    notice = citation(99, kept=False, retracts=("pmid:12345", target))
    documents = [
        citation(1, pmcid=7, doi="10.1/abc"),
        article(7, doi="10.1/abc"),
        citation(2, pmcid=8, doi="10.1/xyz"),
    ]
    entries = [notice, *documents] if notice_first else [*documents, notice]
    assert decide(tmp_path / "drop", [entries], OPEN) == ["retracted", "retracted", ""]
    kept = decide(tmp_path / "keep", [entries], {**OPEN, "drop_retracted": False})
    assert kept == ["full_text_kept", "", ""]


def test_notice_that_is_replaced_or_deleted_retracts_nothing(tmp_path: Path) -> None:
    notice = citation(99, kept=False, retracts=("pmid:1",))
    corrected = citation(99, kept=False)
    assert decide(tmp_path / "replaced", [[citation(1), notice, corrected]], OPEN) == [""]
    assert decide(tmp_path / "deleted", [[citation(1), notice, deletion(99)]], OPEN) == [""]
    assert decide(tmp_path / "stands", [[citation(1), corrected, notice]], OPEN) == ["retracted"]


@pytest.mark.parametrize("link", [{"pmid": 1}, {}])
def test_retracted_flag_reaches_the_twin_from_the_newest_record_only(
    tmp_path: Path, link: dict[str, int]
) -> None:
    flagged = citation(1, kept=False, pmcid=None if link else 7, flags=frozenset({"retracted"}))
    cleared = citation(1, kept=False, pmcid=None if link else 7)
    twin = article(7, **link)
    assert decide(tmp_path / "flagged", [[cleared, twin, flagged]], OPEN) == ["retracted"]
    assert decide(tmp_path / "cleared", [[flagged, twin, cleared]], OPEN) == [""]
    from_article = [article(7, kept=False, flags=frozenset({"retracted"}), **link)]
    entries = [citation(1, pmcid=None if link else 7), *from_article]
    assert decide(tmp_path / "article", [entries], OPEN) == ["retracted"]


@pytest.mark.parametrize(
    ("twins", "expected"),
    [
        ([], "abstract_without_licence"),
        ([article(7, pmid=1, kept=False)], ""),
        ([article(7, kept=False)], ""),
        ([article(7, pmid=1, kept=False, permitted=False)], "abstract_without_licence"),
        ([article(8, pmid=2, kept=False)], "abstract_without_licence"),
        # of an article's versions the newest says what it may be used for
        (
            [article(7, kept=False), article(7, kept=False, version=2, permitted=False)],
            "abstract_without_licence",
        ),
        ([article(7, kept=False, permitted=False), article(7, kept=False, version=2)], ""),
        # one permitted copy is enough
        ([article(7, kept=False, permitted=False), article(8, pmid=1, kept=False)], ""),
    ],
)
def test_abstract_needs_a_twin_whose_licence_permits(
    tmp_path: Path, twins: list[Entry], expected: str
) -> None:
    entries = [citation(1, pmcid=7), *twins]
    assert decide(tmp_path / "strict", [entries], STRICT) == [expected]
    accepted = {**STRICT, "accept_abstract_copyright": True}
    assert decide(tmp_path / "accepted", [entries], accepted) == [""]
    assert decide(tmp_path / "open", [entries], OPEN) == [""]


def test_permission_goes_from_an_article_to_its_own_abstract_only(tmp_path: Path) -> None:
    # Citation 2 names the article of another: its own (8) is not permitted, and 1 cannot lend it one.
    entries = [
        article(7, pmid=1, kept=False),
        citation(1, pmcid=8),
        article(8, kept=False, permitted=False),
        citation(2, pmcid=8),
    ]
    assert decide(tmp_path, [entries], STRICT) == ["", "abstract_without_licence"]


def test_abstract_goes_when_its_full_text_stays(tmp_path: Path) -> None:
    assert decide(tmp_path / "a", [[citation(1), article(7, pmid=1)]], STRICT) == ["full_text_kept", ""]
    assert decide(tmp_path / "b", [[citation(1, pmcid=7), article(7)]], STRICT) == ["full_text_kept", ""]
    # a full text that was left out leaves its abstract
    assert decide(tmp_path / "c", [[citation(1), article(7, pmid=1, kept=False)]], STRICT) == [""]
    replaced = [citation(1), article(7, pmid=1), article(7, pmid=1, version=2, kept=False)]
    assert decide(tmp_path / "d", [replaced], STRICT) == ["", "superseded_version"]


def test_twin_of_a_contaminated_document_goes(tmp_path: Path) -> None:
    entries = [citation(1, kept=False, contaminated=True), article(7, pmid=1), article(8, pmid=2)]
    assert decide(tmp_path / "drop", [entries], STRICT) == ["contaminated_twin", ""]
    report = {**STRICT, "drop_contaminated_twins": False}
    assert decide(tmp_path / "report", [entries], report) == ["", ""]
    reverse = [citation(1, pmcid=7), article(7, kept=False, contaminated=True)]
    assert decide(tmp_path / "reverse", [reverse], OPEN) == ["contaminated_twin"]


def test_first_reason_stays(tmp_path: Path) -> None:
    flagged = frozenset({"retracted"})
    entries = [
        citation(1, flags=flagged),
        citation(1, flags=flagged, contaminated=True),
        citation(2, contaminated=True),
        article(7, pmid=3, contaminated=True),
        citation(3),
    ]
    assert decide(tmp_path, [entries], STRICT) == [
        "superseded_version",
        "retracted",
        "abstract_without_licence",
        "contaminated_twin",
        "contaminated_twin",
    ]


def test_reason_given_before_stays(tmp_path: Path) -> None:
    writer = LinkWriter()
    for position in range(2):
        writer.add(citation(1).item, position, position, permitted=False, contaminated=False, source="pubmed")
    (tmp_path / "links").write_bytes(writer.to_bytes())
    flags = np.array([reasons.REPLAY_SURPLUS, reasons.ALIVE], np.uint8)
    apply_links([tmp_path / "links"], [2], flags, tmp_path / "scratch", **OPEN)
    assert flags.tolist() == [reasons.REPLAY_SURPLUS, reasons.ALIVE]


def test_writer_packs_rows_and_forgets_them(tmp_path: Path) -> None:
    writer = LinkWriter()
    strange = ("pmid:-1", "pmid:x", "pmcid:", "doi: ", "isbn:5", "pmid:²", f"pmid:{2**64}", "pmid:5")
    notice = make_item(True, pmid=-3, pmcid=2**70, version=2**40, retracts=strange)
    writer.add(notice, 0, 4, permitted=False, contaminated=True, source="pubmed")
    bare = Record("text", None, "here")
    writer.add(bare, 1, 5, permitted=True, contaminated=True, source="pile")
    rows = np.frombuffer(writer.to_bytes(), LINK)
    assert rows["position"].tolist() == [4, 4]
    assert (rows["pmid"][0], rows["pmcid"][0]) == (0, 0)  # no identifiers: not in the range of one
    assert (rows["kind"][1], rows["pmid"][1], rows["document"][1]) == (WITHDRAWAL, 5, -1)
    assert writer.to_bytes() == b""


def draw_entry(rng: random.Random) -> Entry:
    pmid, pmcid = rng.randint(1, 6), rng.randint(1, 6)
    facts: dict[str, Any] = {
        "version": rng.choice([1, 1, 1, 2]),
        "doi": rng.choice([None, f"10.1/{rng.randint(1, 6)}"]),
        "flags": frozenset({"retracted"} if rng.random() < 0.1 else ()),
        "retracts": tuple(
            f"{rng.choice(['pmid:', 'pmcid:', 'doi:10.1/'])}{rng.randint(1, 6)}"
            for _ in range(rng.choice([0] * 8 + [1, 2]))
        ),
    }
    kept, contaminated = rng.random() < 0.7, rng.random() < 0.1
    draw = rng.random()
    if draw < 0.1:
        return deletion(pmid)
    if draw < 0.55:
        pmcid_or_none = rng.choice([None, pmcid])
        return citation(pmid, kept=kept, contaminated=contaminated, pmcid=pmcid_or_none, **facts)
    pmid_or_none = rng.choice([None, pmid])
    permitted = rng.random() < 0.5
    return article(
        pmcid, kept=kept, permitted=permitted, contaminated=contaminated, pmid=pmid_or_none, **facts
    )


def decide_in_memory(entries: Sequence[Entry]) -> list[str]:
    """Say the rules again, record by record: versions, then notices, then twins, then full texts."""
    reason = {i: "" for i, entry in enumerate(entries) if isinstance(entry.item, Record)}
    current = []
    for i, entry in enumerate(entries):
        if isinstance(entry.item, Deletion):
            continue
        facts = entry.item.metadata
        name = "pmid" if entry.source == "pubmed" else "pmcid"
        key = getattr(facts, name)
        later = entries[i + 1 :]
        rivals = [e for e in entries if e.source == entry.source and not isinstance(e.item, Deletion)]
        rivals = [e for e in rivals if getattr(e.item.metadata, name) == key]
        deletions = [j for j, e in enumerate(entries) if isinstance(e.item, Deletion) and e.item.pmid == key]
        last = max(deletions, default=-1) if entry.source == "pubmed" else -1
        rivals = [e for e in rivals if entries.index(e) > last]
        newer = [
            e
            for e in rivals
            if e.item.metadata.version > facts.version
            or (e.item.metadata.version == facts.version and e in later)
        ]
        if i < last:
            reason[i] = "deleted_citation" if i in reason else ""
        elif newer:
            reason[i] = "superseded_version" if i in reason else ""
        else:
            current.append(i)
    facts_of = {i: entries[i].item.metadata for i in current}

    def twins(i: int) -> list[int]:
        return [
            j
            for j in current
            if j != i
            and any(
                getattr(facts_of[i], name) is not None
                and getattr(facts_of[i], name) == getattr(facts_of[j], name)
                for name in ("pmid", "pmcid")
            )
        ]

    targets = {target for i in current for target in facts_of[i].retracts}
    retracted = {
        i
        for i in current
        if "retracted" in facts_of[i].flags
        or {f"pmid:{facts_of[i].pmid}", f"pmcid:{facts_of[i].pmcid}", f"doi:{facts_of[i].doi}"} & targets
    }
    contaminated = {i for i in current if entries[i].contaminated}
    retracted = spread(retracted, current, facts_of)
    contaminated = spread(contaminated, current, facts_of)
    for i in current:
        permitted = any(entries[j].permitted for j in twins(i) if entries[j].source == "pmc")
        if reason.get(i) == "" and i in retracted:
            reason[i] = "retracted"
        elif reason.get(i) == "" and entries[i].source == "pubmed" and not permitted:
            reason[i] = "abstract_without_licence"
        elif reason.get(i) == "" and i in contaminated:
            reason[i] = "contaminated_twin"
    kept = {i for i in current if entries[i].source == "pmc" and reason.get(i) == ""}
    for i in current:
        if entries[i].source == "pubmed" and reason.get(i) == "" and kept & set(twins(i)):
            reason[i] = "full_text_kept"
    return [reason[i] for i, entry in enumerate(entries) if isinstance(entry.item, Record)]


def spread(found: set[int], current: list[int], facts_of: dict[int, Metadata]) -> set[int]:
    for name in ("pmid", "pmcid", "pmid"):
        keys = {getattr(facts_of[i], name) for i in found} - {None}
        found = found | {i for i in current if getattr(facts_of[i], name) in keys}
    return found


@given(st.integers(0, 10**9), st.integers(1, 5))
@settings(max_examples=150)
def test_decisions_equal_the_rules_said_in_memory_whatever_the_tasks(
    tmp_path_factory: pytest.TempPathFactory, seed: int, tasks: int
) -> None:
    rng = random.Random(seed)
    entries = [draw_entry(rng) for _ in range(rng.randint(1, 25))]
    bounds = [0, *sorted(rng.randint(0, len(entries)) for _ in range(tasks - 1)), len(entries)]
    parts = [entries[a:b] for a, b in itertools.pairwise(bounds)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(links, "_CHUNK_ROWS", 3)
        patch.setattr(links, "_BUCKET_ROWS", 4)
        decided = decide(tmp_path_factory.mktemp("links"), parts, STRICT)
    assert decided == decide_in_memory(entries)


_MEASURED = """
import re, sys
from pathlib import Path
import numpy as np
from biomedllama_cli.corpus import links
from biomedllama_cli.corpus.links import LINK, apply_links

folder, records = Path(sys.argv[1]), int(sys.argv[2])
links._BUCKET_ROWS = 1_000  # as many buckets for few records as for many: files have buffers
with (folder / "links").open("wb") as file:
    for start in range(0, records, 50_000):
        rows = np.zeros(50_000, LINK)
        number = np.arange(start, start + 50_000)
        rows["document"] = rows["position"] = number
        rows["kind"] = 1 + number % 2
        rows["pmid"], rows["pmcid"], rows["doi"] = 1 + number // 2, 1 + number // 3, 1 + number
        file.write(rows.tobytes())
flags = np.memmap(folder / "flags", np.uint8, "w+", shape=(records,))
apply_links([folder / "links"], [records], flags, folder / "scratch", accept_abstract_copyright=False,
            gate_abstracts=True, drop_retracted=True)
# Not getrusage: its peak is inherited from the process that started this one.
print(1024 * int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]))
"""


def test_memory_per_record_is_what_is_stated(tmp_path: Path) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("peak memory is read from /proc")
    used = []
    for records in (200_000, 2_400_000):  # far apart: an interpreter's own peak varies by some 100 KB
        folder = tmp_path / str(records)
        folder.mkdir()
        command = [sys.executable, "-c", _MEASURED, str(folder), str(records)]
        used.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    per_record = (used[1] - used[0]) / 2_200_000
    assert per_record <= 2 + 0.5, (
        f"{per_record:.2f} bytes per record; 2 are stated, and a little for larger buckets"
    )
