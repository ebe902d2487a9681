"""The house rules of DESIGN section 2, read off the source: floors, sizes, names, knobs."""

import ast
import dataclasses
import importlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILE_LINES, FUNCTION_LINES, CONFIG_FIELDS = 420, 62, 62

# Lower floors first; a module may import its own floor's package and anything below, never above. Rooms that share a
# floor do not import each other, save where ALLOWED says so.
FLOORS: list[tuple[str, ...]] = [
    ("wideseek_kernels", "wideseek.line_file"),
    ("wideseek.generation", "wideseek.model", "wideseek.tools"),
    ("wideseek.trajectory", "wideseek.engine", "wideseek.grading", "wideseek.worlds"),
    ("wideseek.runs",),
    ("wideseek.agents",),
    ("wideseek.backends",),
    ("wideseek.answering",),
    ("wideseek.serve",),
    ("wideseek.ask", "wideseek.doctor"),
    ("wideseek_train", "train", "wideseek_eval", "eval"),
    ("bench",),
]
ALLOWED = {
    ("wideseek.model", "wideseek.generation"),
    ("wideseek.tools", "wideseek.generation"),
    ("wideseek.grading", "wideseek.trajectory"),
    ("train", "wideseek_train"),
    ("eval", "wideseek_eval"),
}
KERNEL_CALLERS = (
    "wideseek.model",
    *(f"wideseek.engine.{part}" for part in ("model_runner", "step_attention", "step_graphs")),
)
BARE_IMAGE = {
    "torch",
    "triton",
    "numpy",
    "safetensors",
    "tokenizers",
    "wideseek",
    "wideseek_kernels",
}
BANNED_NAMES = {
    "utils",
    "util",
    "helpers",
    "misc",
    "common",
    "manager",
    "worker",
    "episode",
    "legacy",
}


def source_files() -> list[Path]:
    """Tracked Python files, and new ones git does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    return [ROOT / name for name in listed if (ROOT / name).exists()]


def module_name(path: Path) -> str:
    """The dotted name a file is imported by; scripts at the top of train, eval and bench bear the folder's name."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[0] in ("kernels", "train", "eval") and len(parts) > 2:
        parts = parts[1:]
    if parts[-1] == "__init__":
        parts = parts[:-1]
    return ".".join(parts)


SOURCES = [p for p in source_files() if p.relative_to(ROOT).parts[0] != "tests"]
MODULES = {module_name(p): p for p in SOURCES}


def room_of(module: str) -> str | None:
    rooms = [
        room
        for floor in FLOORS
        for room in floor
        if module == room or module.startswith(room + ".")
    ]
    return max(rooms, key=len, default=None)


def floor_of(room: str) -> int:
    return next(index for index, floor in enumerate(FLOORS) if room in floor)


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield node.module
            yield from (
                f"{node.module}.{a.name}"
                for a in node.names
                if f"{node.module}.{a.name}" in MODULES
            )


def test_every_module_has_a_room() -> None:
    homeless = [name for name in MODULES if name != "wideseek" and room_of(name) is None]
    assert not homeless


def test_imports_go_downwards_only() -> None:
    wrong = []
    for name, path in MODULES.items():
        home = room_of(name)
        for imported in imports_of(path):
            target = room_of(imported)
            if home is None or target is None or target == home:
                continue
            level = floor_of(home) > floor_of(target) or (home, target) in ALLOWED
            if not level:
                wrong.append(f"{name} imports {imported}")
    assert not wrong


def test_only_model_and_model_runner_call_kernels() -> None:
    wrong = [
        name
        for name, path in MODULES.items()
        if not name.startswith(
            ("wideseek_kernels", "bench", "wideseek_train.induction", *KERNEL_CALLERS)
        )
        and any(i.split(".")[0] == "wideseek_kernels" for i in imports_of(path))
    ]
    assert not wrong


def test_kernels_and_engine_run_on_a_bare_gpu_image() -> None:
    import sys

    wrong = [
        f"{name} imports {imported}"
        for name, path in MODULES.items()
        if name.startswith(("wideseek_kernels", "wideseek.engine"))
        for imported in imports_of(path)
        if (top := imported.split(".")[0]) not in BARE_IMAGE and top not in sys.stdlib_module_names
    ]
    assert not wrong


def test_files_and_functions_stay_small() -> None:
    wrong = []
    for path in source_files():
        lines = path.read_text().count("\n")
        name = path.relative_to(ROOT)
        if lines > FILE_LINES:
            wrong.append(f"{name}: {lines} lines")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                # A stage's main is read from top to bottom in one sitting.
                if length > FUNCTION_LINES and node.name != "main":
                    wrong.append(f"{name}: {node.name} has {length} lines")
    assert not wrong


def test_no_banned_file_names() -> None:
    wrong = [
        str(p.relative_to(ROOT))
        for p in source_files()
        if set(re.split(r"[_/.]", p.stem)) & BANNED_NAMES
    ]
    assert not wrong


def test_no_script_shadows_the_standard_library() -> None:
    """torchrun puts a script's folder first on the path."""
    import sys

    scripts = [p for folder in ("train", "eval", "bench") for p in (ROOT / folder).glob("*.py")]
    assert not [p.name for p in scripts if p.stem in sys.stdlib_module_names]


def test_no_broad_except() -> None:
    wrong = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ExceptHandler):
                names = (
                    {getattr(n, "id", "") for n in ast.walk(node.type)} if node.type else {"bare"}
                )
                reraises = any(isinstance(n, ast.Raise) for n in ast.walk(node))
                if names & {"bare", "Exception", "BaseException"} and not reraises:
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    # The engine's loop hands whatever went wrong to every caller that waits.
    assert not [w for w in wrong if not w.startswith("wideseek/engine/engine.py")]


def config_classes() -> list[type]:
    found = []
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and re.search(r"(Config|Limits|Budget)$", node.name):
                if name.split(".")[0] in ("train", "eval", "bench") or node.name == "ModelConfig":
                    continue
                found.append(getattr(importlib.import_module(name), node.name))
    return [cls for cls in found if dataclasses.is_dataclass(cls)]


def test_config_fields_are_few_and_read() -> None:
    text = "\n".join(p.read_text() for p in SOURCES)
    classes = config_classes()
    assert classes
    total = 0
    for cls in classes:
        for field in dataclasses.fields(cls):
            total += 1
            assert re.search(rf"\.{field.name}\b", text), (
                f"{cls.__name__}.{field.name} is read nowhere"
            )
    assert total <= CONFIG_FIELDS


def test_the_readme_map_is_true() -> None:
    """Every path in README's map of the house exists."""
    readme = (ROOT / "README.md").read_text()
    block = re.search(r"## The house\n+```\n(.*?)```", readme, re.DOTALL)
    assert block is not None
    paths = [
        line.split()[0]
        for line in block[1].splitlines()
        if line.strip() and not line.startswith(" ")
    ]
    assert paths
    assert not [p for p in paths if not (ROOT / p).exists()]
