"""The run folder: append-only, torn lines, pages by hash, and no way out of it."""

import hashlib
import json
from pathlib import Path

import pytest

from tests.test_line_file import room_for
from wideseek.runs.events import Event, EventType
from wideseek.runs.log import LogFailedError, RunLog, new_run_id, read_events, read_page, run_folder


def write_three(tmp_path: Path) -> Path:
    with RunLog(tmp_path, "r", clock=lambda: 12.3456) as log:
        log.emit(EventType.WARNING, {"message": "eins\nzwei ü \ud83d"})
        log.emit(EventType.AGENT_STATE, {"state": "running"}, agent_id="sub-1", parent_id="lead")
        log.emit(EventType.HEARTBEAT, {})
    return log.folder


def test_events_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    shown: list[Event] = []
    with RunLog(tmp_path, "r", watch=shown.append) as log:
        log.emit(EventType.WARNING, {"message": "eins\nzwei"}, agent_id="lead")
        assert read_events(log.folder) == shown, "each is on disk before emit returns"
        log.emit(EventType.HEARTBEAT, {})
    assert read_events(log.folder) == shown
    assert [event.seq for event in shown] == [0, 1]


def test_line_on_disk_is_the_documented_envelope(tmp_path: Path) -> None:
    line = (write_three(tmp_path) / "events.jsonl").read_bytes().splitlines()[1]
    assert json.loads(line) == {
        "v": 1,
        "run_id": "r",
        "seq": 1,
        "ts": 12.346,
        "agent_id": "sub-1",
        "parent_id": "lead",
        "type": "agent.state",
        "data": {"state": "running"},
    }


def test_half_a_surrogate_pair_survives_as_its_escape(tmp_path: Path) -> None:
    events = read_events(write_three(tmp_path))
    assert events[0].data["message"] == "eins\nzwei ü \ud83d"


def test_an_event_that_the_disk_has_no_room_for_leaves_the_log_whole(tmp_path: Path) -> None:
    with RunLog(tmp_path, "r") as log:
        log.emit(EventType.WARNING, {"message": "first"})
        size = (log.folder / "events.jsonl").stat().st_size
        with room_for(size + 20), pytest.raises(LogFailedError, match="File too large"):
            log.emit(EventType.WARNING, {"message": "too long for it"})
        log.emit(EventType.HEARTBEAT, {})
    assert [event.type for event in read_events(log.folder)] == ["warning", "heartbeat"]


def test_torn_last_line_is_left_out_wherever_it_was_torn(tmp_path: Path) -> None:
    folder = write_three(tmp_path)
    whole = (folder / "events.jsonl").read_bytes()
    second_end = whole.index(b"\n", whole.index(b"\n") + 1) + 1
    for kept in range(second_end, len(whole)):
        (folder / "events.jsonl").write_bytes(whole[:kept])
        assert len(read_events(folder)) == 2


@pytest.mark.parametrize("damage", [b"{}\n", b"no json\n", b"\n", b'{"v": 2}\n'])
def test_damage_inside_the_log_is_named(tmp_path: Path, damage: bytes) -> None:
    path = write_three(tmp_path) / "events.jsonl"
    first, rest = path.read_bytes().split(b"\n", 1)
    path.write_bytes(first + b"\n" + damage + rest)
    with pytest.raises(ValueError, match=r"events.jsonl line 2: "):
        read_events(path.parent)


def test_missing_event_is_noticed(tmp_path: Path) -> None:
    path = write_three(tmp_path) / "events.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[2])
    with pytest.raises(ValueError, match="line 2: seq 2 in place of 1"):
        read_events(path.parent)


def test_unknown_fields_of_the_envelope_are_ignored() -> None:
    line = '{"v":1,"run_id":"r","seq":0,"ts":1.0,"agent_id":null,"parent_id":null,"type":"gap",'
    event = Event.from_json(line + '"data":{"after":1,"before":3},"added":"later"}')
    assert event.data == {"after": 1, "before": 3}


def test_page_texts_are_stored_once_by_their_hash(tmp_path: Path) -> None:
    text = "Ünï\r\ncode | \x85 page\n"
    page = {"url": "u", "title": "T", "text": text}
    with RunLog(tmp_path, "r") as log:
        log.emit(EventType.TOOL_RESULT, {"page": page})
        log.emit(EventType.TOOL_RESULT, {"page": page | {"url": "v"}})
    first, second = (event.data["page"] for event in read_events(log.folder))
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    assert first == {"url": "u", "title": "T", "sha256": sha256}
    assert second["sha256"] == sha256
    assert read_page(log.folder, sha256) == text
    assert [path.name for path in (log.folder / "pages").iterdir()] == [f"{sha256}.txt"]
    assert page["text"] == text, "what was emitted is left as it was"


@pytest.mark.parametrize(
    "run_id",
    ["", "..", "../x", "a/b", "/etc", "a\\b", "C:", "a\x00b", "-x", ".x", "a.b", "x" * 65, "run\n"],
)
def test_ids_that_are_none_are_refused(tmp_path: Path, run_id: str) -> None:
    with pytest.raises(ValueError, match="run id must be"):
        RunLog(tmp_path, run_id)
    assert list(tmp_path.iterdir()) == []


def test_link_that_leads_out_of_the_runs_is_refused(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "out").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="leads out of"):
        run_folder(runs, "out")
    assert run_folder(runs, "in") == runs / "in"


@pytest.mark.parametrize("name", ["../events", "0" * 63, "G" * 64])
def test_page_names_that_are_no_hash_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="sha256 must be"):
        read_page(tmp_path, name)


def test_existing_run_is_never_written_over(tmp_path: Path) -> None:
    write_three(tmp_path)
    with pytest.raises(ValueError, match="run 'r' already exists"):
        RunLog(tmp_path, "r")
    assert len(read_events(tmp_path / "r")) == 3


def test_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"run folder .*file/r: Not a directory"):
        RunLog(tmp_path / "file", "r")


def test_new_run_ids_are_valid_and_differ(tmp_path: Path) -> None:
    ids = {new_run_id() for _ in range(20)}
    assert len(ids) == 20
    assert all(run_folder(tmp_path, run_id) for run_id in ids)
