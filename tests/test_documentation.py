"""Every sample of README.md and docs/ runs, and every link between files of this repository leads somewhere.

The ```python blocks of a page run in order, in one interpreter and one namespace, in a temporary directory. An HTML
comment right before a block says otherwise:

    <!-- no-run: WHY -->   the block is not run
    <!-- file: NAME -->    the block is written to that file, for the blocks after it to use; any language
"""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [
    page
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    if page.is_file() and "_build" not in page.parts
]
LEAN_PYTEST = {"PYTEST_ADDOPTS": "-p no:hypothesispytest"}  # it would import all of hypothesis at the end of each run
PAGE_SECONDS = 45  # less than pytest-timeout's, so that a page that hangs is told by name

FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,})(?P<info>.*)$")
COMMENT = re.compile(r"<!--(?P<text>(?:(?!-->).)*)-->\s*\Z", re.DOTALL)
PYTHON_BY_ANOTHER_NAME = re.compile(r"py|python3|pycon|\{(code-block|code|sourcecode)\} *py")

# Runs the steps that it reads, each as the lines of its page that they are, for tracebacks to say so.
RUNNER = """
import json, pathlib, sys, types
page, steps = json.load(sys.stdin)
sys.path.insert(0, "")  # files of the page can be imported
main = sys.modules["__main__"] = types.ModuleType("__main__")
for kind, line, argument, text in steps:
    if kind == "file":
        path = pathlib.Path(argument)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    else:
        exec(compile("\\n" * (line - 1) + text, page, "exec", dont_inherit=True), main.__dict__)
"""


class Step(NamedTuple):
    kind: str  # "run" or "file"
    line: int  # of the first line of code, counted from 1
    argument: str  # the file's name
    text: str


class BadPage(Exception):
    """A page has a block of which it is unclear whether it should run."""


def steps_of(text: str) -> list[Step]:
    """Return what is to be done for a page, in order."""
    steps = []
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        opening = FENCE.match(lines[number])
        number += 1
        if not opening:
            continue
        fence, info, start = opening["fence"], opening["info"].strip(), number
        while number < len(lines) and not re.fullmatch(rf" *{fence[0]}{{{len(fence)},}} *", lines[number]):
            number += 1
        if number == len(lines):
            raise BadPage(f"line {start}: this block is not closed")
        indent = len(opening["indent"])
        code = "".join(line[indent:] + "\n" for line in lines[start:number])
        number += 1
        kind, argument = directive("\n".join(lines[: start - 1]), start)
        if kind == "file" or (kind == "run" and info == "python"):
            steps.append(Step(kind, start + 1, argument, code))
        elif kind == "run" and PYTHON_BY_ANOTHER_NAME.match(info):
            raise BadPage(f"line {start}: write ```python, not {info!r}, for the sample to be run")
    return steps


def directive(before: str, line: int) -> tuple[str, str]:
    """Return what the comment that ends `before` says about the block after it."""
    comment = COMMENT.search(before)
    kind, colon, argument = comment["text"].partition(":") if comment else ("", "", "")
    kind, argument = kind.strip(), argument.strip()
    if kind not in ("file", "no-run"):
        return "run", ""
    if not colon or not argument:
        raise BadPage(f"line {line}: the comment before this block lacks its {'name' if kind == 'file' else 'reason'}")
    return kind, argument


def run(page: Path, directory: Path) -> None:
    """Do what the page says in the directory, and fail with its page and line if that does not work."""
    try:
        steps = steps_of(page.read_text(encoding="utf-8"))
    except BadPage as error:
        pytest.fail(f"{page}, {error}", pytrace=False)
    if not any(step.kind == "run" for step in steps):
        return
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-c", RUNNER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=directory,
        env={**os.environ, "PYTHONPATH": path, **LEAN_PYTEST},
        start_new_session=True,  # a group of its own, to end what the page started too
    )
    try:
        output, _ = process.communicate(json.dumps([str(page), steps]), timeout=PAGE_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGABRT)  # at which faulthandler shows the line that it hangs at
        output, _ = process.communicate()
        pytest.fail(f"the samples of {page} did not end within {PAGE_SECONDS} s\n{output}", pytrace=False)
    if process.returncode != 0:
        pytest.fail(f"a sample of {page} failed (status {process.returncode})\n{output}", pytrace=False)


@pytest.mark.once("samples run in interpreters of their own, which decide to patch")
@pytest.mark.parametrize("page", PAGES, ids=[page.relative_to(ROOT).as_posix() for page in PAGES])
def test_the_samples_of_a_page_run(page, tmp_path):
    run(page, tmp_path)


# Links --------------------------------------------------------------------------------------------------------------

NOT_OURS = {".venv", "_build", "node_modules"}
TEXTS = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not any(part in NOT_OURS or part.startswith(".") for part in path.relative_to(ROOT).parts)
)


def without_blocks(text):
    """The text without its blocks of code, in which `#` begins no heading and nothing is a link."""
    kept, fence = [], ""
    for line in text.splitlines():
        opening = FENCE.match(line)
        if not fence and opening:
            fence = opening["fence"]
        elif fence and re.fullmatch(rf" *{fence[0]}{{{len(fence)},}} *", line):
            fence = ""
        elif not fence:
            kept.append(line)
    return "\n".join(kept)


def links_of(text):
    """The links to files, and to headings of this one: path and anchor, either of which may be ''."""
    prose = re.sub(r"`[^`\n]*`", "`", without_blocks(text))
    targets = re.findall(r"\]\(([^)\s]+)\)", prose)
    return [target.partition("#")[::2] for target in targets if not re.match(r"\w+:", target)]


def anchors_of(text):
    """The anchors of the headings, as GitHub and Sphinx name them. The second of two equal ones ends with -1."""
    anchors = []
    for title in re.findall(r"^#{1,6} (.*)$", without_blocks(text), re.M):
        anchor = re.sub(r"[^\w -]", "", re.sub(r"\]\([^)]*\)", "", title).strip().lower()).replace(" ", "-")
        anchors.append(f"{anchor}-{anchors.count(anchor)}" if anchor in anchors else anchor)
    return anchors


@pytest.mark.once("files, and nothing else")
@pytest.mark.parametrize("path", TEXTS, ids=[path.relative_to(ROOT).as_posix() for path in TEXTS])
def test_every_link_leads_somewhere(path):
    text = path.read_text(encoding="utf-8")
    for target, anchor in links_of(text):
        linked = path.parent / target if target else path
        assert linked.exists(), f"there is no {target}"
        assert linked.resolve().is_relative_to(ROOT), f"{target} is not in this repository"
        if anchor:
            assert anchor in anchors_of(linked.read_text(encoding="utf-8")), f"{target} has no heading for #{anchor}"


def test_links_and_anchors_are_found():
    text = page(
        "# A title, `with` [a link](other.md#part)!",
        "See [this](#a-title) and [that](https://example.org/#not), ![image](x.png) and `[code](no.md)`.",
        "```",
        "# no heading [no](link.md)",
        "```",
        "## Twice",
        "## Twice",
    )
    assert links_of(text) == [("other.md", "part"), ("", "a-title"), ("x.png", "")]
    assert anchors_of(text) == ["a-title-with-a-link", "twice", "twice-1"]


# The extractor ------------------------------------------------------------------------------------------------------


def page(*lines: str) -> str:
    return "\n".join(lines)


def test_python_blocks_are_run_and_others_are_not():
    text = page("```python", "a = 1", "```", "```console", "$ ls", "```", "```yaml", "a: 1", "```", "```", "```")
    assert steps_of(text) == [Step("run", 2, "", "a = 1\n")]


def test_a_comment_keeps_a_block_from_running():
    assert steps_of(page("<!-- no-run: needs two machines -->", "", "```python", "a = 1", "```")) == []


def test_a_comment_makes_a_file_of_a_block_of_any_language():
    text = page(
        "<!-- file: conf/a.yaml -->", "```yaml", "a:", "  b: 1", "```", "<!-- file: m.py -->", "```python", "```"
    )
    assert steps_of(text) == [Step("file", 3, "conf/a.yaml", "a:\n  b: 1\n"), Step("file", 8, "m.py", "")]


def test_a_comment_is_about_the_next_block_only():
    text = page("<!-- no-run: shown first -->", "```python", "a = 1", "```", "Text.", "```python", "b = 2", "```")
    assert steps_of(text) == [Step("run", 7, "", "b = 2\n")]


def test_other_comments_say_nothing():
    assert steps_of(page("<!-- note: see below -->", "```python", "a = 1", "```")) == [Step("run", 3, "", "a = 1\n")]


def test_an_indented_block_loses_its_indent():
    text = page("- item", "", "  ```python", "  if a:", "      b()", "  ```")
    assert steps_of(text) == [Step("run", 4, "", "if a:\n    b()\n")]


def test_a_block_inside_a_longer_fence_is_text():
    assert steps_of(page("````markdown", "```python", "a = 1", "```", "````")) == []


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        (["<!-- no-run -->", "```python", "```"], "line 2: the comment before this block lacks its reason"),
        (["<!-- no-run: -->", "```python", "```"], "line 2: the comment before this block lacks its reason"),
        (["<!-- file: -->", "```yaml", "```"], "line 2: the comment before this block lacks its name"),
        (["```python", "a = 1"], "line 1: this block is not closed"),
        (["```pycon", ">>> a", "```"], "line 1: write ```python"),
        (["```{code-block} python", "a = 1", "```"], "line 1: write ```python"),
    ],
)
def test_a_doubtful_block_is_an_error(lines, complaint):
    with pytest.raises(BadPage, match=re.escape(complaint)):
        steps_of(page(*lines))


def test_blocks_of_a_page_share_a_namespace_and_files(tmp_path):
    sample = tmp_path / "page.md"
    sample.write_text(
        page(
            "<!-- file: helper.py -->",
            "```python",
            "VALUE = 2",
            "```",
            "```python",
            "import dataclasses, helper, typing",
            "",
            "@dataclasses.dataclass",
            "class Point:",
            "    x: 'Coordinate'",
            "",
            "Coordinate = int",
            "```",
            "```python",
            "assert typing.get_type_hints(Point) == {'x': int} and helper.VALUE == 2 and __name__ == '__main__'",
            "```",
        )
    )
    run(sample, tmp_path)


def test_a_failing_sample_shows_page_and_line(tmp_path):
    sample = tmp_path / "page.md"
    sample.write_text(page("# Title", "```python", "a = 1", "```", "Text.", "```python", "", "a / 0", "```"))
    with pytest.raises(pytest.fail.Exception) as failure:
        run(sample, tmp_path)
    assert f'File "{sample}", line 8' in str(failure.value)
    assert "ZeroDivisionError" in str(failure.value)


def test_a_page_that_does_not_end_is_ended(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "PAGE_SECONDS", 1)
    sample = tmp_path / "page.md"
    sample.write_text(page("```python", "import threading", "threading.Event().wait()", "```"))
    with pytest.raises(pytest.fail.Exception, match=r"page\.md did not end within 1 s(.|\n)*page\.md\", line 3 "):
        run(sample, tmp_path)
