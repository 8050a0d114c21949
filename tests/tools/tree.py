"""What the checks of the tree share: which files there are, and C text without comments and strings."""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
C_KINDS = {".c", ".h", ".cu", ".cuh"}
SKIPPED = {"build", "__pycache__", "node_modules", "corpus", "fixtures"}


def root_from_arguments():
    """The tree to look at: the first argument, else the one this file lies in."""
    return pathlib.Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT


def read_layers(root):
    """layers.txt as {folder: folders it may include}; exits if it names a folder before its turn."""
    allowed = {}
    for line in (root / "tests/tools/layers.txt").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            folder, _, uses = line.partition(":")
            undeclared = [u for u in uses.split() if u not in allowed]
            if undeclared:
                sys.exit(f"layers.txt: {folder} uses {undeclared} before they are declared: a cycle or a typo")
            allowed[folder] = set(uses.split()) | {folder}
    return allowed


def files(root, kinds, folders=None):
    """All files of these suffixes, sorted; without folders the whole tree, hidden ones left out."""
    for top in [root / f for f in folders] if folders else [root]:
        for path in sorted(top.rglob("*")):
            parts = path.relative_to(root).parts
            if any(p.startswith(".") or p in SKIPPED for p in parts[:-1]):
                continue
            if path.suffix in kinds and path.is_file() and not path.is_symlink():
                yield path


TOKEN = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)


def code_only(text):
    """C text with comments and the inside of strings blanked; line numbers stay."""
    return TOKEN.sub(lambda m: re.sub(r"[^\n]", " ", m.group(0)), text)


def finish(name, problems, note=""):
    """Print the problems and end with 1, or say that there are none."""
    for problem in problems:
        print(problem)
    print(f"{name}: {len(problems)} problems" if problems else f"{name}: ok{note}")
    sys.exit(bool(problems))
