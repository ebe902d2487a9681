"""Checks one case of dataset_rows.json against wideseek.grading.datasets.

Tokens, their cut and the padding are the trainer's affair; here a code point is a token.
"""

from typing import Any

from compare import difference

from wideseek.grading.datasets import Kind, choose_records, make_row

Json = dict[str, Any]


def recognises(case: Json) -> bool:
    """Whether a case is one of this format."""
    return case["input"].keys() == {"config", "rows"}


def check_dataset_rows(case: Json) -> str | None:
    """None when the case passes, else what differs."""
    config = case["input"]["config"]
    room, size = config["max_prompt_length"], config.get("data_size")
    records = [
        record | {"question": record[config["prompt_key"]], "answer": record[config["answer_key"]]}
        for record in case["input"]["rows"]
    ]

    def fits(question: str) -> bool:
        return len(question) <= room

    places = choose_records(
        records,
        limit=None if size is None or size < 0 else size,
        fits=fits if config.get("filter_prompt_by_length") else None,
    )
    kind: Kind = "table" if config.get("is_markdown") else "qa"
    if config.get("is_hybrid"):
        kind = "flagged"
    rows = []
    for index, place in enumerate(places):
        row = make_row(records[place], index, kind, chinese=config.get("enable_zh", False))
        tokens = [ord(character) for character in row.question][:room]
        rows.append(
            {
                "answer": row.label,
                "prompt_length": len(tokens),
                "prompt_tokens_unpadded": tokens,
                "left_padding": room - len(tokens),
            }
        )
    return difference({"rows": rows}, case["expected"])
