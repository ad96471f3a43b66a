"""Which language a document is in, and whether it reads like prose."""

from __future__ import annotations

import json
import pickle
import random
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard
from lxml import etree

from biomedllama_cli.corpus.filters.language import LanguageFilter, choose_windows
from biomedllama_cli.corpus.filters.quality import RULES, QualityFilter
from biomedllama_cli.errors import SettingsError

ENGLISH = (
    "Chronic kidney disease is an independent risk factor for cardiovascular events. We followed 412 patients with "
    "type 2 diabetes for five years and measured the glomerular filtration rate every six months. Mortality was "
    "higher in those with a rate below 60 ml/min (HR 1.84; 95% CI 1.21-2.79), and an early test may help to find them."
)
FOREIGN = {
    "de": "Die chronische Niereninsuffizienz gilt als unabhängiger Risikofaktor für kardiovaskuläre "
    "Ereignisse. In einer prospektiven Kohorte wurden 412 Patienten über fünf Jahre beobachtet; die Mortalität war "
    "bei einer GFR von weniger als 60 ml/min signifikant erhöht (HR 1,84).",
    "fr": "L'insuffisance cardiaque représente près de la moitié des cas chez le sujet âgé. Le but de ce travail était "
    "d'évaluer la valeur pronostique du NT-proBNP chez 218 patients hospitalisés dans notre service.",
    "es": "Se realizó un estudio descriptivo en el que se incluyeron 356 mujeres entre 25 y 64 años. La prevalencia de "
    "la infección por el virus del papiloma humano fue del 14,3 %, siendo el genotipo 16 el más frecuente.",
    "nl": "Doel van dit onderzoek was na te gaan of het gebruik van benzodiazepinen samenhangt met de duur van het "
    "delirium bij oudere patiënten die op de intensive care worden opgenomen.",
    "ru": "Обследовано 87 больных туберкулезом лёгких в возрасте от 18 до 65 лет. Содержание CD4+ лимфоцитов было "
    "достоверно снижено по сравнению с контрольной группой.",
    "zh": "目的：探讨血清miR-21表达水平与非小细胞肺癌患者预后的关系。方法：收集2010年1月至2013年12月"
    "在我院手术治疗的126例患者的临床资料。结果：高表达组患者的中位生存期明显短于低表达组（P<0.05）。",
}
UNDECIDABLE = "BRCA1 BRCA2 TP53 34.5 | 12.1 | 0.05"


@pytest.mark.parametrize("language", FOREIGN)
def test_text_in_another_language_is_dropped_though_the_record_says_english(language: str) -> None:
    assert LanguageFilter(("en",)).find_problem(FOREIGN[language], "en") == "other_language"
    assert LanguageFilter(("en",)).find_problem(FOREIGN[language], None) == "other_language"


def test_an_english_abstract_of_an_article_in_german_is_kept() -> None:
    assert LanguageFilter(("en",)).find_problem(ENGLISH, "de") is None
    assert LanguageFilter(("en",)).find_problem(ENGLISH, None) is None


def test_the_declared_language_decides_where_the_text_does_not() -> None:
    english = LanguageFilter(("en",))
    assert english.find_problem(UNDECIDABLE, "de") == "other_language"
    assert english.find_problem(UNDECIDABLE, "eng") is None
    assert english.find_problem(UNDECIDABLE, "und") is None
    assert english.find_problem(UNDECIDABLE, None) is None
    assert english.find_problem("", "fr") == "other_language"


def test_wanted_languages_are_those_named() -> None:
    both = LanguageFilter(("en", "de"))
    assert [both.find_problem(FOREIGN[code], None) for code in ("de", "fr")] == [None, "other_language"]
    german = LanguageFilter(("de",))
    assert german.find_problem(ENGLISH, "de") == "other_language"
    assert pickle.loads(pickle.dumps(german)).find_problem(FOREIGN["de"], None) is None


def test_a_long_article_is_judged_by_all_of_it_not_by_its_abstract() -> None:
    article = ENGLISH + "\n\n" + "\n\n".join([FOREIGN["es"]] * 60)
    assert LanguageFilter(("en",)).find_problem(article, "en") == "other_language"
    summary_at_the_end = "\n\n".join([ENGLISH] * 30) + "\n\n" + FOREIGN["es"]
    assert LanguageFilter(("en",)).find_problem(summary_at_the_end, "en") is None


def test_tables_do_not_vote() -> None:
    rows = "\n".join(f"{i} | {i * 0.37:.2f} | {i * 1.1:.1f} (0.{i})" for i in range(400))
    assert LanguageFilter(("en",)).find_problem(ENGLISH * 8 + rows, None) is None
    assert LanguageFilter(("en",)).find_problem(FOREIGN["fr"] * 12 + rows, None) == "other_language"


def test_broken_text_has_an_answer() -> None:
    english = LanguageFilter(("en",))
    for text in ("\ud800" * 50, "\x00" * 5000, "ACGT" * 1000, "\u200b", "a" * 10_000):
        assert english.find_problem(text, None) in {None, "other_language"}


@pytest.mark.parametrize("languages", [(), ("klingon",), ("xx",), ("",)])
def test_a_language_nobody_can_identify_is_refused(languages: tuple[str, ...]) -> None:
    with pytest.raises(SettingsError, match=r"selection\.language"):
        LanguageFilter(languages)


def test_english_abstracts_never_load_the_model() -> None:
    code = (
        "import sys; from biomedllama_cli.corpus.filters.language import LanguageFilter; "
        f"assert LanguageFilter(('en',)).find_problem({ENGLISH!r}, None) is None; print('py3langid' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_windows_of_a_long_text_are_bounded() -> None:
    assert sum(map(len, choose_windows("word " * 1_000_000))) == 2500


def _sentences(count: int) -> str:
    """Return prose of made-up words between real stop words, which says nothing twice."""
    draw = random.Random(count)
    syllables = (
        "car",
        "di",
        "ne",
        "phro",
        "gen",
        "ta",
        "lym",
        "pho",
        "cy",
        "te",
        "ki",
        "nas",
        "mel",
        "ro",
        "vir",
    )

    def term() -> str:
        return "".join(draw.choices(syllables, k=3))

    return " ".join(
        f"The {term()} of {term()} {term()} and {term()} {term()} with {term()} {draw.randrange(99)} {term()}."
        for _ in range(count)
    )


BAD = {
    "quality_too_short": "A short note on the use of the drug.",
    "quality_word_length": " ".join(
        f"hydroxymethylglutaryl{i}coenzyme the of and dehydrogenase{i}deficiency" for i in range(20)
    ),
    "quality_few_letters": " ".join(f"the {i} {i * 3}.5 of {i + 7} (12,{i}) and {i}5.6 71.{i}" for i in range(30)),
    "quality_few_stop_words": "Mutation gene protein cell assay patient cohort marker tissue serum " * 6,
    "quality_symbols": _sentences(3) + " #" * 6,
    "quality_ellipses": "\n".join(f"{_sentences(i + 1)[-80:]} and the ..." for i in range(9)),
    "quality_placeholder": _sentences(6) + " Lorem ipsum dolor sit amet.",
    "quality_repeated_lines": "\n".join(
        ["The contents of this page are for the use of members only."] * 4 + [_sentences(2)]
    ),
    "quality_repeated_paragraphs": "\n\n".join(
        [f"We thank the {i} reviewers of\nthe first draft." for i in (1, 2, 3, 1, 2, 3, 1, 2)]
    ),
    "quality_frequent_phrase": " ".join(f"click here to read {word} and more of it:" for word in _sentences(2).split()),
    "quality_repeated_phrases": _sentences(4) + " " + _sentences(4),
}  # fmt: skip


@pytest.mark.parametrize("reason", BAD)
def test_each_rule_has_its_own_reason(reason: str) -> None:
    assert QualityFilter("abstract").find_problem(BAD[reason]) == reason


def test_an_article_of_bullets_is_dropped_and_an_abstract_in_bullets_is_kept() -> None:
    text = "\n".join(f"• {sentence}." for sentence in _sentences(9).split(".") if sentence)
    assert QualityFilter("article").find_problem(text) == "quality_bullets"
    assert QualityFilter("abstract").find_problem(text) is None


@pytest.mark.parametrize("kind", ["abstract", "article"])
def test_the_shortest_document_is_as_the_rules_say(kind: str) -> None:
    words = _sentences(9).split()
    least = RULES[kind].least_words  # type: ignore[index]
    quality = QualityFilter(kind)  # type: ignore[arg-type]
    assert quality.find_problem(" ".join(words[: least - 1])) == "quality_too_short"
    assert quality.find_problem(" ".join(words[:least])) is None


def test_tables_do_not_make_an_article_bad() -> None:
    rows = "\n".join(f"{i} | {i * 0.37:.2f} | 0.05\n{i}.1 ± 0.2 (17 %)" for i in range(2000))
    assert QualityFilter("article").find_problem(_sentences(20) + "\n" + rows) is None
    assert QualityFilter("article").find_problem(rows) == "quality_too_short"


def test_repeated_headings_do_not_make_an_article_bad() -> None:
    paragraphs = [f"Type species.\n{_sentences(count)}" for count in range(4, 30)]
    assert QualityFilter("article").find_problem("\n".join(paragraphs)) is None


def test_stop_words_are_a_rule_for_english_only() -> None:
    text = FOREIGN["de"] + " " + FOREIGN["nl"]
    assert QualityFilter("abstract").find_problem(text) == "quality_few_stop_words"
    assert QualityFilter("abstract", ("de", "nl")).find_problem(text) is None


def test_empty_and_broken_text_has_an_answer() -> None:
    for kind in ("abstract", "article"):
        for text in ("", " \n\t", "\ud800 " * 100, "\x00" * 500, "word " * 50_000):
            assert QualityFilter(kind).find_problem(text)  # type: ignore[arg-type]


def _read_abstracts(folder: Path) -> list[str]:
    records = []
    for path in sorted((folder / "pile").glob("*.zst")):
        with path.open("rb") as file:
            data = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True).read()
        records += [json.loads(line) for line in data.splitlines()]
    texts = [record["text"] for record in records if record["meta"]["pile_set_name"] == "PubMed Abstracts"]
    items = json.loads((folder / "pubmedqa" / "ori_pqal_nontest500.json").read_text())
    return texts + ["\n".join((*item["CONTEXTS"], item["LONG_ANSWER"])) for item in items.values()]


def test_sound_abstracts_are_kept(shared_data: Path) -> None:
    texts = _read_abstracts(shared_data)
    assert len(texts) > 1000
    language, quality = LanguageFilter(("en",)), QualityFilter("abstract")
    assert [text[:60] for text in texts if language.find_problem(text, None)] == []
    # One abstract says a fifth of itself twice.
    assert sum(quality.find_problem(text) is not None for text in texts) <= 1


def test_sound_papers_are_kept_even_as_raw_text_with_tables(shared_data: Path) -> None:
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    paths = sorted((shared_data / "jats").rglob("*xml"))
    assert len(paths) == 95
    language, quality = LanguageFilter(("en",)), QualityFilter("article")
    problems = {}
    for path in paths:
        text = "".join(etree.parse(path, parser).find(".//body").itertext())
        problems[path.name] = language.find_problem(text, "en") or quality.find_problem(text)
    assert {name: problem for name, problem in problems.items() if problem} == {}
