"""From messages to token ids: the whole first prompt, then only what each tool message adds.

A context is append-only, so after a sampled turn nothing of it is rendered again: the text that a
tool message puts after an assistant turn is read off the template once, when the folder is loaded.
"""

import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from wideseek.generation import Message, ToolSchema
from wideseek.model.chat_template import ChatTemplate, read_json_object

CUT = "\ufdd0"
"""Marks where text is cut before tokenising, so that no token spans the place. A noncharacter of
Unicode, which no text means anything by; one found in a message cuts it there and is dropped."""

MARKUP = re.compile(r"<\|.*?\|>|</?\w+>")
"""What control tokens look like, whether the tokenizer calls them special or not (<tool_call>)."""


TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "generation_config.json",
    "vocab.json",
    "merges.txt",
)


class Renderer:
    """Tokenizer and chat template of one model folder.

    What messages say is data. No text of a message becomes a special token, and no text of a tool
    message a token that holds markup such as </tool_response>; other added tokens stay in use.
    """

    def __init__(
        self, tokenizer: Tokenizer, template: ChatTemplate, stop_token_ids: Iterable[int] = ()
    ) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._template = template
        added = tokenizer.get_added_tokens_decoder()
        special = {token.content: id for id, token in added.items() if token.special}
        for token in added.values():
            # Neither could be kept out of messages by a cut.
            if token.special and (token.normalized or len(token.content) < 2):
                raise ValueError(f"special token {token.content!r} is normalized or too short")
        markup = [t.content for t in added.values() if MARKUP.search(t.content)]
        self._in_messages = _any_of(special)
        self._in_tool_messages = _any_of([*special, *markup])
        after_turn, self._after_tool = _tool_texts(template)
        end_of_turn = max(filter(after_turn.startswith, special), key=len, default="")
        if not end_of_turn:
            raise ValueError(
                f"the chat template ends assistant turns with {after_turn[:20]!r}, no special token"
            )
        self._before_tool = after_turn.removeprefix(end_of_turn)
        self.end_of_turn_id = special[end_of_turn]
        self.stop_token_ids = tuple(sorted({*stop_token_ids, self.end_of_turn_id}))

    @classmethod
    def load(cls, folder: str | Path) -> "Renderer":
        """Read tokenizer.json, the chat template and the end tokens of a model folder.

        ValueError names what is missing or malformed, or why the template cannot be appended to.
        """
        folder = Path(folder)
        path = folder / "tokenizer.json"
        if "model" not in read_json_object(path):
            raise ValueError(f"no tokenizer: {path} is missing or incomplete")
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises nothing narrower
            raise ValueError(f"{path} cannot be read: {error}") from None
        try:
            template = ChatTemplate.load(folder)
            return cls(tokenizer, template, _end_tokens(folder, tokenizer))
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from None

    def first(self, messages: Sequence[Message], tools: Sequence[ToolSchema] = ()) -> list[int]:
        """The prompt up to the opened assistant turn. ValueError when the template refuses it."""
        disarmed = [
            Message(
                role=message.role,
                content=_cut(
                    message.content,
                    self._in_tool_messages if message.role == "tool" else self._in_messages,
                ),
            )
            for message in messages
        ]
        return self._encode(self._template.render(disarmed, tools, add_generation_prompt=True))

    def tool_delta(self, text: str, *, closed: bool = True) -> list[int]:
        """What follows an assistant turn to add one tool message and open the next turn.

        `closed` tells whether the turn ended with its end-of-turn token; if not, the delta begins
        with it.
        """
        body = _cut(text, self._in_tool_messages)
        ids = self._encode(self._before_tool + body + self._after_tool)
        return ids if closed else [self.end_of_turn_id, *ids]

    def encode(self, text: str) -> list[int]:
        """Text of our own as ids: every token the tokenizer knows, special ones included."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    def _encode(self, text: str) -> list[int]:
        return [id for piece in text.split(CUT) for id in self.encode(piece)]


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Matches, without width, inside each occurrence of a text, overlapping ones included."""
    inside = (f"(?<={re.escape(t[0])})(?={re.escape(t[1:])})" for t in sorted(set(texts)))
    return re.compile("|".join(inside) or r"(?!)")


def _cut(text: str, inside: re.Pattern[str]) -> str:
    # A lone surrogate, which broken pages do hold, has no UTF-8 form and so no tokens.
    return inside.sub(CUT, text.encode("utf-8", "replace").decode("utf-8"))


def _tool_texts(template: ChatTemplate) -> tuple[str, str]:
    """What the template puts between an assistant turn and a tool message, and after the latter.

    The second text ends by opening the next assistant turn. ValueError when they depend on what
    else was said: then a context cannot grow by appending.
    """
    start = [Message(role="system", content="system"), Message(role="user", content="user")]
    said = {f"\ufdd1{role} {i}\ufdd1": role for i in (1, 2) for role in ("assistant", "tool")}
    turns = [Message(role=role, content=text) for text, role in said.items()]
    texts = re.compile("|".join(said))

    def around(num_turns: int, *, opened: bool) -> list[str]:
        """The template's own text before, between and after the turns."""
        shown = template.render([*start, *turns[:num_turns]], add_generation_prompt=opened)
        if texts.findall(shown) != list(said)[:num_turns]:
            raise ValueError("the chat template leaves out or rewrites assistant or tool messages")
        return texts.split(shown)

    _, after_turn, after_tool = around(2, opened=False)
    _, after_turn_1, after_tool_1, after_turn_2, after_tool_2 = around(4, opened=False)
    *_, after_tool_and_opened = around(2, opened=True)
    if not (
        after_turn == after_turn_1 == after_turn_2
        and after_tool == after_tool_2
        and after_tool_1.startswith(after_tool)
        and after_tool_and_opened.startswith(after_tool)
    ):
        raise ValueError("the chat template renders earlier messages anew when others follow")
    return after_turn, after_tool_and_opened


def _end_tokens(folder: Path, tokenizer: Tokenizer) -> set[int]:
    """eos ids of generation_config.json and config.json, and the eos token of the tokenizer."""
    ids: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        value = read_json_object(folder / name).get("eos_token_id")
        values = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(id, int) for id in values):
            raise ValueError(f"{name}: eos_token_id must hold integers, not {value!r}")
        ids.update(values)
    token = read_json_object(folder / "tokenizer_config.json").get("eos_token")
    token = token.get("content") if isinstance(token, dict) else token
    if token is not None and (id := tokenizer.token_to_id(token)) is not None:
        ids.add(id)
    return ids


def copy_tokenizer(source: str | Path, folder: str | Path) -> None:
    """Copy to `folder`, made if need be, what a Hugging Face folder has beside its config and weights.

    ValueError where there is no tokenizer.
    """
    source, folder = Path(source), Path(folder)
    if not (source / "tokenizer.json").is_file():
        raise ValueError(f"no tokenizer.json in {source}")
    folder.mkdir(parents=True, exist_ok=True)
    if source.resolve() == folder.resolve():
        return
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
