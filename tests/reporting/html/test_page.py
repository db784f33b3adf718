"""The page needs nothing else, escapes what users wrote, and is laid out by a browser as meant."""

import json
import re
import shutil
import subprocess
from html import escape
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from support.reports import reported
from support.written_runs import write_final

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def test_the_page_needs_no_network_and_no_script(study, capsys):
    write_final(study, {"best": (None, {1: (0.9, 0.8)})})
    _, page = reported(capsys, study)

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            assert tag not in ("script", "link", "img", "iframe", "object")
            assert not {"src", "href", "onload", "onclick"} & {name for name, _ in attrs}

    Reader().feed(page)
    assert "default-src 'none'" in page
    assert "url(" not in page
    assert "@import" not in page
    assert "http" not in page.replace("http-equiv", "")


def test_what_users_wrote_is_text_on_the_page(study, five, capsys):
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in reported(capsys, study)[1]
    shutil.copytree(five / "run1", five / "<b>&")
    page = reported(capsys, five)[1]
    assert "&lt;b&gt;&amp;" in page
    assert "<b>" not in page


def test_every_chart_is_well_formed(study, capsys):
    _, page = reported(capsys, study)
    charts = re.findall(r"<figure.*?</figure>", page, flags=re.S)
    assert len(charts) == 7
    for chart in charts:
        found = ElementTree.fromstring(chart)
        assert found.find(".//svg").get("aria-label")
        assert "nan" not in chart


def test_the_same_folder_gives_the_same_page(study, capsys):
    assert reported(capsys, study)[1] == reported(capsys, study)[1]


PROBE = """<iframe style="border:0; width:{width}px; height:900px" srcdoc="{page}"></iframe><script>
document.querySelector("iframe").onload = event => {{
  const page = event.target.contentDocument, count = what => page.querySelectorAll(what).length;
  const touching = [...page.querySelectorAll("svg")].flatMap(svg => {{
    const boxes = [...svg.querySelectorAll("text.label")].map(text => text.getBoundingClientRect());
    return boxes.flatMap((a, i) => boxes.slice(i + 1).filter(b =>
      a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 4 && b.top < a.bottom - 4));
  }});
  document.title = JSON.stringify({{
    wide: page.documentElement.scrollWidth, touching: touching.length, charts: count("svg[role=img]"),
    dots: count("circle"), paper: getComputedStyle(page.body).backgroundColor,
  }});
}};
</script>"""


def seen(page, folder, width, *flags):
    """What a browser makes of a page in a frame of this width."""
    file = folder / f"frame{width}.html"
    file.write_text(PROBE.format(width=width, page=escape(page)))
    said = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", f"--user-data-dir={folder / 'profile'}",
         "--window-size=1300,900", "--virtual-time-budget=2000", *flags, "--dump-dom", file.as_uri()],
        capture_output=True, text=True, timeout=60, check=True,
    ).stdout  # fmt: skip
    return json.loads(re.search(r"<title>(.*?)</title>", said)[1])


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_shows_the_page_on_a_desktop_and_on_a_phone_light_and_dark(study, tmp_path, capsys):
    write_final(
        study,
        {"default": (None, {1: (0.90, 0.8), 2: (0.91, 0.8)}), "best": ("default", {1: (0.92, 0.8), 2: (0.94, 0.8)})},
    )
    _, page = reported(capsys, study)
    desktop = seen(page, tmp_path, 1200)
    phone = seen(page, tmp_path, 390, "--blink-settings=preferredColorScheme=0")
    assert desktop["wide"] <= 1200
    assert phone["wide"] <= 390
    assert desktop["touching"] == phone["touching"] == 0
    assert desktop["paper"] == "rgb(255, 255, 255)"
    assert phone["paper"] == "rgb(15, 19, 24)"
    assert desktop["charts"] == phone["charts"] == page.count('role="img"') == 12
    assert desktop["dots"] == page.count("<circle") > 20
