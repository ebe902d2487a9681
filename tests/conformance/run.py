"""Runs vectors of the reference's behaviour: python tests/conformance/run.py FILE...

Prints the names of the cases that fail and "N passed, M failed", and exits with 1 if any failed. A
file NAME.json is checked by check_NAME.py beside this file: check_NAME(case) gives None or what
differs. Under another name, a file belongs to the checker that recognises its cases.

deviations.toml lists the cases in which we differ on purpose, each with its reason. Where it says
what we do instead (`expected`, laid over the vector's, or in place of its error), that is checked
too. A listed case that passes as it stands fails the run: the list must not be longer than it has
to.
"""

import argparse
import importlib
import json
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1]), str(HERE.parents[1] / "train")]

Json = dict[str, Any]
Check = Callable[[Json], str | None]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--verbose", action="store_true", help="print what differs")
    options = parser.parse_args(arguments)
    passed = failed = deviating = 0
    for path in options.files:
        try:
            cases = read_cases(path)
            name, check = find_check(path.stem, cases)
        except ValueError as error:
            print(f"{path}: {error}", file=sys.stderr)
            return 2
        deviations = read_deviations(name)
        for case in cases:
            trouble = run_case(case, check, deviations.get(case["name"]))
            passed += trouble is None
            failed += trouble is not None
            deviating += case["name"] in deviations
            if trouble is not None:
                print(f"{name}/{case['name']}" + (f": {trouble}" if options.verbose else ""))
    if deviating:
        print(f"{deviating} cases deviate on purpose, see {HERE.name}/deviations.toml")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


def read_cases(path: Path) -> list[Json]:
    """ValueError if the file is no list of cases {name, input, expected}."""
    try:
        cases = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(error.strerror) from None
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from None
    keys = {"name", "input", "expected"}
    if not isinstance(cases, list) or not all(
        isinstance(case, dict) and keys <= case.keys() and isinstance(case["input"], dict)
        for case in cases
    ):
        raise ValueError("not a list of cases with name, input and expected")
    return cases


def find_check(stem: str, cases: list[Json]) -> tuple[str, Check]:
    """Name of the format and its check, by the name of the file or else the shape of its cases."""
    names = sorted(path.stem.removeprefix("check_") for path in HERE.glob("check_*.py"))
    if stem in names:
        return stem, getattr(_module(stem), f"check_{stem}")
    for name in names:
        if cases and all(_module(name).recognises(case) for case in cases):
            return name, getattr(_module(name), f"check_{name}")
    raise ValueError(f"a format without a checker; there are {', '.join(names)}")


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"check_{name}")


def read_deviations(name: str) -> dict[str, Json]:
    """Case name -> the deviation it is listed under, of one format."""
    listed = tomllib.loads((HERE / "deviations.toml").read_text(encoding="utf-8")).get(name, [])
    return {case: deviation for deviation in listed for case in deviation["cases"]}


def run_case(case: Json, check: Check, deviation: Json | None) -> str | None:
    """None when the case passes, else what is wrong with it."""
    trouble = guarded(check, case)
    if deviation is None:
        return trouble
    if trouble is None:
        return "listed in deviations.toml, but passes"
    if "expected" not in deviation:
        return None
    told = {} if "error" in case["expected"] else case["expected"]
    return guarded(check, case | {"expected": told | deviation["expected"]})


def guarded(check: Check, case: Json) -> str | None:
    """What the check says; a check that breaks fails its own case only."""
    try:
        return check(case)
    except Exception as error:
        return f"raised {error!r}"


if __name__ == "__main__":
    sys.exit(main())
