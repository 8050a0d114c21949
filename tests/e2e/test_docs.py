"""What the documentation shows is what the program does.

A fence ```console serve starts a server that the later fences of the page talk to; one with ```console run
is run, command by command, from a tree that looks like the repository after a build.  Commands have to
succeed, and every line of output that is shown has to appear, whatever its numbers are.  Other fences are
only read: the options in them have to exist."""
import os
import re
import shlex
import signal
import subprocess
import time
import urllib.request

import pytest

from conftest import BATON, PATIENCE, ROOT, alive, free_port

PAGES = sorted((ROOT / "docs").glob("*.md"))
NUMBER = r"[-+]?[0-9][0-9.,]*(?:e[-+]?[0-9]+)?(?:%|(?:ns|us|ms|s)\b)?"
UNITS = ("ns", "us", "ms", "s")


def fences(page):
    """(words behind the backticks, first line number, lines)"""
    found, inside = [], None
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if line.startswith("```"):
            if inside:
                found.append(inside)
                inside = None
            else:
                inside = (line[3:].split(), number, [])
        elif inside:
            inside[2].append(line)
    assert inside is None, f"{page.name}: a fence is not closed"
    return found


def commands(lines):
    """[(command, [lines of output shown])]"""
    found = []
    for line in lines:
        if line.startswith("$ "):
            found.append([line[2:], []])
        elif found and found[-1][0].endswith("\\") and not found[-1][1]:
            found[-1][0] = found[-1][0][:-1] + line.strip()
        elif found:
            found[-1][1].append(line)
    return found


def pattern(line):
    """A line of output as a pattern: numbers, their units and the width of gaps are free; a table has a dash
    where nothing was measured yet."""
    out = []
    for word in line.split():
        if word in UNITS:
            out.append("(?:ns|us|ms|s)?")
        elif word == "...":
            out.append(".*")
        else:
            out.append("".join(f"(?:{NUMBER}|-)" if re.fullmatch(NUMBER, part) else re.escape(part)
                               for part in re.split(f"({NUMBER})", word) if part))
    return re.compile(r"\s*".join(out))


def check_output(where, shown, got):
    lines = got.splitlines()
    for line in shown:
        if line.strip() in ("", "..."):
            continue
        wanted = pattern(line)
        assert any(wanted.search(have) for have in lines), (
            f"{where}: the page shows\n  {line}\nbut the command printed\n{got[-4000:]}")


@pytest.fixture
def tree(tmp_path):
    """The repository with a release build, and room for what commands write."""
    for entry in ROOT.iterdir():
        if entry.name not in ("build", ".git"):
            (tmp_path / entry.name).symlink_to(entry)
    (tmp_path / "build/release").mkdir(parents=True)
    (tmp_path / "build/release/baton").symlink_to(BATON)
    return tmp_path


class Served:
    def __init__(self, command, tree, port):
        self.log = tree / "build/serve.log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                shlex.split(command), cwd=tree, stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 60 * PATIENCE
        while True:
            assert self.process.poll() is None, f"{command}\n{self.log.read_text()}"
            assert time.monotonic() < deadline, f"{command}: not ready\n{self.log.read_text()}"
            try:
                if urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).status == 200:
                    return
            except OSError:
                time.sleep(0.05)

    def stop(self):
        if alive(self.process.pid):
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60 * PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_the_commands_of_a_page_work_in_its_order(page, tree):
    port, served, ran = free_port(), None, 0
    try:
        for words, number, lines in fences(page):
            if words[:1] != ["console"] or len(words) < 2:
                continue
            assert words[1] in ("run", "serve"), f"{page.name}:{number}: {words[1]} is no mark"
            for command, shown in commands(lines):
                where = f"{page.name}:{number}: {command}"
                here = command.replace("127.0.0.1:8000", f"127.0.0.1:{port}").replace(
                    "--port 8000", f"--port {port}")
                ran += 1
                if words[1] == "serve":
                    if served:
                        served.stop()
                    served = Served(here, tree, port)
                    continue
                done = subprocess.run(
                    ["bash", "-o", "pipefail", "-c", here], cwd=tree, capture_output=True,
                    text=True, errors="replace", timeout=120 * PATIENCE, stdin=subprocess.DEVNULL)
                assert done.returncode == 0, f"{where}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
                check_output(where, shown, done.stdout + done.stderr)
    finally:
        if served:
            served.stop()
    assert ran > 0, f"{page.name} has no command that is run"


def test_a_changed_column_would_be_seen():
    shown = ["TIER     ATTAINED   KEPT", "gold        99.5%    120   3.1 ms"]
    check_output("x", shown, "TIER ATTAINED  KEPT\ngold   - 7 2.00 s\n")
    for got in ("TIER KEPT\ngold 1.5% 7 1 s\n", "TIER ATTAINED  KEPT\nsilver 1% 7 1 s\n", ""):
        with pytest.raises(AssertionError):
            check_output("x", shown, got)


def help_of(command, cache={}):
    if command not in cache:
        done = subprocess.run([str(BATON), *command.split(), "--help"], capture_output=True, text=True)
        assert done.returncode == 0, f"baton {command} --help: {done.stderr}"
        cache[command] = done.stdout
    return cache[command]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_option_that_a_page_names_exists(page):
    text = page.read_text().replace("\\\n", " ")
    wrong = []
    for line in text.splitlines():
        for found in re.finditer(r"\bbaton (perf profile|(?:config )?[a-z]+)\b([^`|;&]*)", line):
            command = found.group(1)
            if f"\n  {command.split()[0]} " not in help_of("").replace("[", " "):
                continue  # prose, not a command
            for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", found.group(2)):
                if not re.search(rf"{option}\b", help_of(command)):
                    wrong.append(f"baton {command} {option}")
    assert not wrong, f"{page.name}: {sorted(set(wrong))}"


def test_every_metric_that_a_page_names_is_exported():
    exported = BATON.read_bytes()
    for page in PAGES:
        for name in set(re.findall(r"\b(?:baton|vllm:)_?[a-z]+_[a-z_]+\b", page.read_text())):
            base = re.sub(r"_(bucket|sum|count)$", "", name)
            assert base.encode() + b"\0" in exported, f"{page.name}: there is no series {name}"


def test_every_word_that_a_page_explains_in_a_table_is_one_of_the_program():
    """First columns hold option keys, causes, codes, members of records: they stand in the binary."""
    program = BATON.read_bytes()
    for page in PAGES:
        for words in re.findall(r"^\| (`[^|]*?) \|", page.read_text(), re.M):
            for word in re.findall(r"`([a-z_0-9]+)`", words):
                assert word.encode() in program, f"{page.name}: the program does not know `{word}`"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_file_that_a_page_links_to_is_there(page):
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if "://" not in link:
            assert (page.parent / link).exists(), f"{page.name}: {link}"
    size = sum(f.stat().st_size for f in page.parent.rglob("*") if f.suffix in (".svg", ".png"))
    assert size < 200_000 * max(1, len(PAGES)), f"pictures in docs/ have {size} bytes"


def test_no_page_names_a_path_of_this_machine():
    for page in PAGES:
        for bad in (str(ROOT), os.path.expanduser("~") + "/"):
            assert bad not in page.read_text(), f"{page.name}: {bad}"
