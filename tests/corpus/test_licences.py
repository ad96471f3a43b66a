"""Licences from links, attributes and prose; what contradicts itself or says nothing permits nothing."""

from __future__ import annotations

import pytest

from biomedllama_cli.corpus.licences import (
    CODES,
    Licence,
    Statement,
    choose_refusal,
    classify,
    classify_link,
    classify_prose,
    combine_with_metadata,
    list_restrictions,
)

LINKS = {
    "http://creativecommons.org/licenses/by/2.0": "CC BY",
    "https://www.creativecommons.org/licenses/by/4.0/": "CC BY",
    "https://creativecommons.org/licenses/by/3.0/igo/legalcode": "CC BY",
    "creativecommons.org/licences/by-sa/4.0/deed.es": "CC BY-SA",
    "http://creativecommons.org/licenses/by-nd/4.0": "CC BY-ND",
    "http://creativecommons.org/licenses/by-nc/2.0/uk/": "CC BY-NC",
    "https://creativecommons.org/licenses/by-nc-sa/3.0/": "CC BY-NC-SA",
    "https://creativecommons.org/licenses/nc-sa/1.0": "CC BY-NC-SA",
    "http://creativecommons.org/licenses/by-nd-nc/1.0/": "CC BY-NC-ND",
    "HTTPS://CreativeCommons.org/licenses/by-nc-nd/3.0/igo/": "CC BY-NC-ND",
    "https://creativecommons.org/publicdomain/zero/1.0/": "CC0",
    "http://creativecommons.org/publicdomain/mark/1.0/": "public domain",
    "http://creativecommons.org/licenses/publicdomain/": "public domain",
    "https://www.usa.gov/government-works": "public domain",
    "https://www.nationalarchives.gov.uk/doc/open-government-licence/version/3/": "CC BY",
    "https://www.elsevier.com/tdm/userlicense/1.0/": "TDM",
    "http://doi.wiley.com/10.1002/tdm_license_1.1": "TDM",
    "http://creativecommons.org/": None,
    "https://creativecommons.org/licenses/bysomething/4.0/": None,
    "https://example.org/creativecommons.org/licenses/by/4.0/": None,
    "https://notcreativecommons.org/licenses/by/4.0/": None,
    "http://onlinelibrary.wiley.com/termsAndConditions": None,
}

PROSE = {
    "This is an open-access article distributed under the terms of the Creative Commons Attribution License, which "
    "permits unrestricted use, distribution, and reproduction in any medium, provided the original author and source "
    "are credited.": {"CC BY"},
    "Distributed under the Creative Commons Attribution License (http://creativecommons.org/licenses/by/4.0). The "
    "Creative Commons Public Domain Dedication waiver (http://creativecommons.org/publicdomain/zero/1.0/) applies to "
    "the data made available in this article, unless otherwise stated.": {"CC BY"},
    "This article is licensed under a Creative Commons Attribution 4.0 International License, which permits use, "
    "sharing, adaptation, distribution and reproduction in any medium. The images or other third party material in "
    "this article are included in the article's Creative Commons licence.": {"CC BY"},
    "This is an open-access article distributed under the terms of the Creative Commons Attribution License (CC BY). "
    "No use is permitted which does not comply with these terms.": {"CC BY"},
    "Creative Commons Attribution License, which permits both commercial and non-commercial use.": {"CC BY"},
    "distributed under the terms of the Creative Commons Attribution Non-Commercial License, which permits "
    "unrestricted non-commercial use": {"CC BY-NC"},
    "the Creative Commons Attribution License (http://creativecommons.org/licenses/by-nc/2.0/uk/) which permits "
    "unrestricted non-commercial use": {"CC BY-NC"},
    "Creative Commons Attribution Non Commercial (CC BY-NC 4.0) license, which permits others to build upon this "
    "work non-commercially, and license their derivative works on different terms": {"CC BY-NC"},
    "Creative Commons Attribution\u2011NonCommercial\u2011ShareAlike 4.0 License, which allows others to build upon "
    "the work non\u2011commercially, as long as new creations are licensed under the identical terms.": {
        "CC BY-NC-SA"
    },
    "Creative Commons Attribution-NonCommercial-NoDerivatives 4.0. You do not have permission under this licence to "
    "share adapted material derived from this article.": {"CC BY-NC-ND"},
    "the terms of the http://creativecommons.org/licenses/by-nc-nd/4.0/ License, provided the use is non-commercial "
    "and no modifications or adaptations are made.": {"CC BY-NC-ND"},
    "Creative Commons Attribution-NoDerivs": {"CC BY-ND"},
    "an open access article under the CC BY-NC-ND license": {"CC BY-NC-ND"},
    "Licencia Creative Commons Atribución-NoComercial 4.0": {"CC BY-NC"},
    "For commercial use, please contact the publisher. Creative Commons Attribution License": {"CC BY-NC"},
    "free of all copyright, and may be freely reproduced. The work is made available under the Creative Commons CC0 "
    "public domain dedication.": {"CC0", "public domain"},
    "This is a work of the U.S. Government and is not subject to copyright protection in the United States.": {
        "public domain"
    },
    "Published by Oxford University Press 2012. This work is written by US Government employees and is in the public "
    "domain in the US.": {"public domain"},
    "licensed under the Open Government Licence v3.0": {"CC BY"},
    "text and data-mine the content in such documents, for the purposes of academic research": {"TDM"},
    "This file is available for text mining.": {"TDM"},
    "All rights are reserved, including those for text and data mining, AI training, and similar.": set(),
    "This article is not in the public domain.": set(),
    "At least a portion of this work is authored by X and is not subject to copyright protection.": set(),
    "Contains public sector information licensed under the Open Government Licence v3.0.": set(),
    "licensed under the Non-Commercial Government Licence": set(),
    "verbatim copying and redistribution of this article are permitted in all media for any purpose": set(),
    "distributed under a Creative Commons license": set(),
    "ACS AuthorChoice License, which permits copying for non-commercial purposes.": set(),
    "can be used for unrestricted research use and analyses in any form or by any means": set(),
    "This is an Open Access article in the spirit of the Public Library of Science (PLoS) principles for Open Access, "
    "without any waiver of WHO's privileges. This article should not be reproduced for use in association with the "
    "promotion of commercial products.": set(),
    "© 2013 Elsevier. All rights reserved.": set(),
    "": set(),
}


@pytest.mark.parametrize(("link", "code"), LINKS.items())
def test_a_link_names_its_licence(link: str, code: str | None) -> None:
    assert classify_link(link) == code


@pytest.mark.parametrize(("prose", "codes"), PROSE.items())
def test_prose_names_its_licence(prose: str, codes: set[str]) -> None:
    assert classify_prose(prose) == codes


def test_link_and_prose_that_agree_are_one_licence() -> None:
    statement = Statement(
        ("http://creativecommons.org/licenses/by-nc/3.0",), ("creative-commons",), "non-commercial, CC BY-NC"
    )
    assert classify([Statement(prose="© The Author 2012."), statement]) == Licence("CC BY-NC")


@pytest.mark.parametrize(
    "statements",
    [
        [Statement(("http://creativecommons.org/licenses/by/4.0/",), (), "CC BY-NC 4.0")],
        [
            Statement(
                ("http://creativecommons.org/licenses/by/4.0/",),
                (),
                "for non-commercial use. Creative Commons",
            )
        ],
        [Statement(kinds=("cc-by",)), Statement(prose="Creative Commons Attribution-ShareAlike")],
        [Statement(("https://creativecommons.org/publicdomain/zero/1.0/",)), Statement(kinds=("CC BY",))],
        [Statement(prose="Attribution-NoDerivatives, Creative Commons; Attribution-ShareAlike")],
    ],
)
def test_statements_that_differ_are_a_conflict(statements: list[Statement]) -> None:
    assert classify(statements) == Licence(None, "licence_conflict")


def test_silence_is_no_licence() -> None:
    assert classify([]) == classify([Statement(kinds=("open-access",))]) == Licence(None, "no_licence")


def test_mining_and_the_public_domain_give_way_to_a_licence_of_the_whole() -> None:
    mining = Statement(("https://www.elsevier.com/tdm/userlicense/1.0/",))
    assert classify([mining, Statement(kinds=("ccby",))]) == Licence("CC BY")
    government = Statement(prose="Parts were written as a work of the US Government. In the public domain.")
    assert classify([government, Statement(kinds=("CC BY",))]) == Licence("CC BY")
    assert classify([mining]) == Licence("TDM")
    assert classify([Statement(kinds=("public-domain",)), mining]) == Licence("public domain")


@pytest.mark.parametrize(
    ("stated", "code", "result"),
    [
        (Licence("CC BY"), "CC BY", Licence("CC BY")),
        (Licence("CC0"), "public domain", Licence("CC0")),
        (Licence("public domain"), "CC0", Licence("public domain")),
        (Licence("public domain"), None, Licence("public domain")),
        (Licence("CC BY"), None, Licence(None, "licence_conflict")),
        (Licence("CC BY-NC"), "CC BY", Licence(None, "licence_conflict")),
        (Licence("CC BY"), "CC BY-NC", Licence(None, "licence_conflict")),
        (Licence("CC BY"), "TDM", Licence(None, "licence_conflict")),
        (Licence(None, "no_licence"), "TDM", Licence("TDM")),
        (Licence(None, "no_licence"), "CC BY", Licence(None, "no_licence")),
        (Licence(None, "licence_conflict"), "CC BY", Licence(None, "licence_conflict")),
        (Licence(None, "licence_conflict"), "TDM", Licence(None, "licence_conflict")),
    ],
)
def test_metadata_never_loosen_what_an_article_states(
    stated: Licence, code: str | None, result: Licence
) -> None:
    assert combine_with_metadata(stated, code) == result


def test_commercial_gate_keeps_what_permits_commercial_use() -> None:
    reasons = {code: choose_refusal(code, gate="commercial", no_derivatives="drop") for code in CODES}
    assert reasons == {
        "CC0": None,
        "CC BY": None,
        "CC BY-SA": None,
        "CC BY-ND": "no_derivatives_licence",
        "CC BY-NC": "noncommercial_licence",
        "CC BY-NC-SA": "noncommercial_licence",
        "CC BY-NC-ND": "noncommercial_licence",
        "public domain": None,
        "TDM": "text_mining_only",
    }


def test_other_gates() -> None:
    kept = [
        code for code in CODES if choose_refusal(code, gate="noncommercial", no_derivatives="drop") is None
    ]
    assert kept == ["CC0", "CC BY", "CC BY-SA", "CC BY-NC", "CC BY-NC-SA", "public domain"]
    assert choose_refusal("CC BY-ND", gate="commercial", no_derivatives="keep") is None
    assert choose_refusal("CC BY-NC-ND", gate="noncommercial", no_derivatives="keep") is None
    for unknown in (None, "", "CC-BY", "GPL"):
        assert choose_refusal(unknown, gate="noncommercial", no_derivatives="keep") == "no_licence"
    assert {choose_refusal(code, gate="all", no_derivatives="drop") for code in (*CODES, None)} == {None}


def test_restrictions_order_licences() -> None:
    assert list_restrictions("CC0") < list_restrictions("CC BY") < list_restrictions("CC BY-NC")
    assert list_restrictions("CC BY-NC-ND") < list_restrictions(None) == list_restrictions("TDM")
    assert not list_restrictions("CC BY-SA") <= list_restrictions("CC BY-NC")
