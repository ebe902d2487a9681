"""Lists asked for by what holds of their items: "Where is Morlish read", "Morlen vasks which castles"."""

import random
import re

from wideseek.worlds.lexicon import load_lexicon

_NAME = r"([A-Z]\S*(?: [A-Z]\S*)*)"


def turn(template: str, span: str, many: str, rng: random.Random) -> tuple[str, str]:
    """A carrier and the words for a list, now and then turned into a question of their own; `many` is its plural."""
    kind = re.escape(many)
    verb = re.fullmatch(rf"{kind} (\S+) {_NAME}", span)
    # The lexicon's own relations of this shape are prepositions: "near", "opposite".
    known = verb and f"{{p}} {verb[1]} {{r}}" in load_lexicon("train").relations
    if verb and not known and rng.random() < 0.3:
        which = rng.choice(("which", "what"))
        return "{s}<and_what>", f"{verb[2]} {verb[1]}s {which} {many}"
    where = re.fullmatch(rf"{kind} where (\S+) is (\S+)", span)
    if where and rng.random() < 0.7:
        return _turn_where(many, where[1], where[2], rng)
    shared = re.fullmatch(rf"{kind} (?:that|which) (\S+) a (\S+) with {_NAME}", span)
    if shared and rng.random() < 0.4:
        verb_of, thing, other = shared.groups()
        which = rng.choice(("which", "what"))
        return "{s}<and_what>", f"{other} {verb_of}s a {thing} with {which} {many}"
    that = re.fullmatch(rf"{kind} (?:that|which|who) (\S+) (.+)", span)
    if that and rng.random() < 0.3:
        own = f"{many} {that[1]} {that[2]}"
        if that[1] in ("are", "were", "have") or rng.random() < 0.5:
            return "<What_which> {s}<and_what>", own
        return "<e who all> {s}<and_what>", f"{that[1]}s {that[2]}"
    does = re.fullmatch(rf"{kind} ([A-Z].*) (\S+)ed", span)
    if does and rng.random() < 0.5:
        return "<What_which> {s}<and_what>", f"{many} did {does[1]} {does[2]}"
    lacks = re.fullmatch(rf"(.*{kind}) with no (.*)", span)
    if lacks and rng.random() < 0.5:
        return "<What_which> {s}<and_what>", f"{lacks[1]} have no {lacks[2]}"
    owned = re.fullmatch(rf"((?:\S+ )?{kind}) (?:of|in) {_NAME}", span)
    if owned and rng.random() < 0.12:
        return template.replace(" the {s}", " {s}"), f"{owned[2]}'s {owned[1]}"
    return template, span


def _turn_where(many: str, what: str, done: str, rng: random.Random) -> tuple[str, str]:
    """ "castles where Morlish is read": where is it read, where can one read it, in which castles is it read."""
    draw = rng.random()
    if draw < 0.25:
        return "<e in which> {s}<and_what>", f"{many} is {what} {done}"
    if draw < 0.5 and done.endswith("ed"):
        done = done.removesuffix("ed")
        asks = rng.choice(("can I", "can you", "do they", "do people", "could I", "can one"))
        if rng.random() < 0.4:
            return "<e in which> {s}<and_what>", f"{many} {asks} {done} {what}"
        where = rng.choice(("Where", "where"))
        return _opened(where, "<and_what>"), f"{where} {asks} {done} {what}"
    where = rng.choice(("Where", "where"))
    return _opened(where, "<and_what>"), f"{where} is {what} {done}"


def _opened(word: str, rest: str) -> str:
    """A carrier for items that are a question: at its beginning, or after some other words if it has a small letter."""
    return ("{s}" if word[0].isupper() else "<hello>{s}") + rest
