"""Made-up values of facts, by kind: counts, years, measures, codes, names, lists of names, phrases."""

import random

from wideseek.worlds.lexicon import Lexicon

_UNITS = (
    "m km cm mm kg t km/h °C g/cm³ ha km² days years minutes hours pm eV W kW MW l m³ K".split()
)


def draw_value(kind: str, lexicon: Lexicon, rng: random.Random) -> str:
    """One value of a kind as a page would print it; never holds `|` or a line break."""
    match kind:
        case "name":
            return lexicon.name(rng)
        case "names":
            return ", ".join(
                lexicon.name(rng) for _ in range(rng.choices((1, 2, 3, 4), (3, 4, 2, 1))[0])
            )
        case "word":
            return rng.choice(lexicon.words) if rng.random() < 0.7 else lexicon.word(rng)
        case "phrase":
            words = [rng.choice(lexicon.words) for _ in range(rng.randint(2, 4))]
            return (
                " ".join(words).capitalize()
                if rng.random() < 0.6
                else f"{words[0]} {lexicon.name(rng)}"
            )
        case "code":
            return _code(rng)
        case "year":
            return str(rng.randint(1000, 2024))
        case "integer":
            return str(rng.randint(1, 10 ** rng.randint(1, 3)))
        case "count":
            return f"{_wide_integer(rng):,}"
        case "area":
            return f"{_wide_integer(rng):,} km²"
        case "money":
            return f"{rng.choice(('$', '€', '£', ''))}{_wide_integer(rng):,}"
        case "measure":
            return f"{_decimal(rng)} {rng.choice(_UNITS)}"
        case "degrees":
            return f"{'-' if rng.random() < 0.3 else ''}{_decimal(rng)} °C"
        case "decimal":
            return _decimal(rng)
        case "signed":
            return f"{'-' if rng.random() < 0.5 else ''}{rng.uniform(0, 180):.{rng.randint(1, 5)}f}"
        case "domain":
            return f".{rng.choice('abcdefghijklmnoprstuvz')}{rng.choice('abcdefghijklmnoprstuvz')}"
        case "zone":
            area = rng.choice(("Nova", "Terra", "Ostra", "Mira", "Asia", "Europe", "Africa"))
            return f"{area}/{lexicon.word(rng).capitalize()}"
        case _:
            raise ValueError(f"kind must be a known kind of value, not {kind!r}")


def _wide_integer(rng: random.Random) -> int:
    return rng.randint(1, 10 ** rng.randint(2, 10))


def _decimal(rng: random.Random) -> str:
    return f"{rng.uniform(0, 10 ** rng.randint(0, 4)):.{rng.randint(0, 4)}f}"


def _code(rng: random.Random) -> str:
    letters = "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(rng.randint(1, 3)))
    draw = rng.random()
    if draw < 0.3:
        return letters.capitalize()
    return letters if draw < 0.75 else f"{letters}{'-' if draw < 0.85 else ''}{rng.randint(1, 99)}"
