"""The runner of reference vectors, on our own and, where they are at hand, on the reference's."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
REFERENCE = HERE.parents[2] / "shared" / "conformance"
OWN = sorted((HERE / "data").glob("*.json"))
FORMATS = [path.stem for path in OWN]


_spec = importlib.util.spec_from_file_location("conformance_runner", HERE / "run.py")
assert _spec is not None and _spec.loader is not None
runner = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(runner)


@dataclass
class Result:
    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def in_process(*files: Path, verbose: bool = False) -> Result:
        code = runner.main([*map(str, files), *["--verbose"] * verbose])
        return Result(code, *capsys.readouterr())

    return in_process


def cases(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((HERE / "data" / f"{name}.json").read_text())
    return found


def write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_own_vectors_pass(run: Run) -> None:
    result = run(*OWN, verbose=True)
    count = sum(len(json.loads(path.read_text())) for path in OWN)
    assert (result.returncode, result.stdout) == (0, f"{count} passed, 0 failed\n"), result.stderr


@pytest.mark.parametrize("name", FORMATS)
def test_reference_vectors_pass_but_for_the_listed_deviations(
    run: Run, name: str, tmp_path: Path
) -> None:
    if not (REFERENCE / f"{name}.json").exists():
        pytest.skip("the reference's vectors are not part of the repository")
    copy = write(tmp_path / "vectors.json", json.loads((REFERENCE / f"{name}.json").read_text()))
    result = run(copy, verbose=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.endswith(" 0 failed\n")


@pytest.mark.parametrize("name", FORMATS)
def test_wrong_expectation_fails_by_name(run: Run, name: str, tmp_path: Path) -> None:
    spoilt = cases(name)
    key = next(iter(spoilt[1]["expected"]))
    spoilt[1]["expected"][key] = "something else"
    result = run(write(tmp_path / f"{name}.json", spoilt))
    assert result.returncode == 1
    assert result.stdout.splitlines() == [
        f"{name}/{spoilt[1]['name']}",
        f"{len(spoilt) - 1} passed, 1 failed",
    ]


def test_format_is_known_by_its_cases_when_the_name_says_nothing(run: Run, tmp_path: Path) -> None:
    result = run(write(tmp_path / "anything.json", cases("agent_loop")))
    assert (result.returncode, result.stderr) == (0, "")


def test_listed_deviation_that_passes_is_reported(run: Run, tmp_path: Path) -> None:
    case = cases("toolcalls")[0] | {"name": "trailing_comma"}
    result = run(write(tmp_path / "toolcalls.json", [case]), verbose=True)
    assert result.returncode == 1
    assert "toolcalls/trailing_comma: listed in deviations.toml, but passes" in result.stdout


def test_deviation_is_held_to_what_it_says_instead(run: Run, tmp_path: Path) -> None:
    [case] = [case for case in cases("toolcalls") if case["name"] == "own_broken_json"]
    reference = case["expected"] | {"ends_episode": True}
    listed = case | {"name": "trailing_comma", "expected": reference}
    assert run(write(tmp_path / "toolcalls.json", [listed])).returncode == 0
    listed["expected"] = reference | {"remaining_text": "other"}
    assert run(write(tmp_path / "toolcalls.json", [listed])).returncode == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"name": "x", "input": {"odd": 1}, "expected": {}}], "a format without a checker"),
        ([], "a format without a checker"),
        ({"name": "x"}, "not a list of cases with name, input and expected"),
        ([{"name": "x", "input": 3, "expected": {}}], "not a list of cases"),
    ],
)
def test_file_that_is_no_vectors_gives_one_clear_line(
    run: Run, tmp_path: Path, content: object, message: str
) -> None:
    result = run(write(tmp_path / "odd.json", content))
    assert result.returncode == 2
    assert message in result.stderr and result.stderr.count("\n") == 1


def test_missing_file_gives_one_clear_line(run: Run, tmp_path: Path) -> None:
    result = run(tmp_path / "none.json")
    assert result.returncode == 2
    assert result.stderr == f"{tmp_path / 'none.json'}: No such file or directory\n"


def test_runner_is_a_script_that_works_from_anywhere(tmp_path: Path) -> None:
    command = [sys.executable, str(HERE / "run.py"), str(HERE / "data" / "toolcalls.json")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (result.returncode, result.stdout) == (0, "8 passed, 0 failed\n"), result.stderr
