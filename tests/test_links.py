"""The check of external links, against a small server on this machine."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from common import refused

from chunkkv_lib.__main__ import main
from chunkkv_lib.book.failure import BookError
from chunkkv_lib.book.links import BROKEN, FINE, MOVED, REFUSED, Answer, ask, ask_all, check_links, external_links

QUICK = {"pause": 0.0, "timeout": 5}


class Site(BaseHTTPRequestHandler):
    """Answers by path: a status, or another path to go to."""

    asked: ClassVar[Counter] = Counter()

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        self.asked[self.command, self.path] += 1
        steps = {
            "/fine": 200, "/gone": 404, "/private": 403, "/for-good": (301, "/fine"), "/for-now": (302, "/fine"),
            "/down": 503, "/get-only": 200 if self.command == "GET" else 405,
            "/second-time": 200 if self.asked["HEAD", "/second-time"] > 1 else 503,
        }  # fmt: skip
        step = steps[self.path]
        self.send_response(step if isinstance(step, int) else step[0])
        if not isinstance(step, int):
            self.send_header("Location", step[1])
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch) -> Iterator[str]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    Site.asked = Counter()
    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.mark.parametrize(
    ("path", "verdict", "requests"),
    [
        ("/fine", FINE, 1),
        ("/gone", BROKEN, 2),  # HEAD and GET, and no second attempt: the answer is clear
        ("/private", REFUSED, 2),
        ("/for-good", MOVED, 2),
        ("/for-now", FINE, 2),
        ("/down", BROKEN, 6),
        ("/get-only", FINE, 2),
        ("/second-time", FINE, 3),
    ],
)
def test_an_answer_is_read_as_a_reader_would(server, path, verdict, requests):
    answer = ask(server + path, attempts=3, **QUICK)
    assert answer.verdict == verdict, answer
    assert sum(Site.asked.values()) == requests, Site.asked


def test_a_moved_page_names_its_new_address_and_a_broken_one_its_status(server):
    assert ask(f"{server}/for-good", **QUICK).detail == f"to {server}/fine"
    assert ask(f"{server}/gone", **QUICK).detail == "status 404"


def test_a_host_that_is_not_there_is_broken():
    answer = ask("http://127.0.0.1:9/", attempts=2, pause=0, timeout=2)
    assert answer.verdict == BROKEN and "refused" in answer.detail.lower()


def test_one_host_is_asked_in_turn():
    busy, most, lock = Counter(), Counter(), threading.Lock()

    def ask_one(address: str) -> Answer:
        host = address.split("/")[2]
        with lock:
            busy[host] += 1
            most[host] = max(most[host], busy[host])
        threading.Event().wait(0.01)
        with lock:
            busy[host] -= 1
        return Answer(address, FINE)

    addresses = [f"http://{host}.org/{i}" for i in range(4) for host in "ba"]
    answers = ask_all(addresses, ask_one, pause=0)
    assert [answer.address for answer in answers] == sorted(addresses)
    assert dict(most) == {"a.org": 1, "b.org": 1}


def write_site(folder: Path, *addresses: str) -> Path:
    (folder / "_static").mkdir(parents=True)
    (folder / "_static" / "macros.html").write_text('<a href="https://theme.org/">x</a>')
    links = "".join(f'<a href="{address}">x</a>' for address in addresses)
    (folder / "page.html").write_text(f'{links}<a href="other.html">x</a><a href="mailto:a@b.org">x</a>')
    (folder / "other.html").write_text(links)
    return folder


def test_links_are_collected_once_with_their_pages(tmp_path):
    site = write_site(tmp_path / "site", "https://b.org/x#part", "https://b.org/x", "http://a.org/")
    pages = ["other.html", "page.html"]
    assert external_links(site) == {"http://a.org/": pages, "https://b.org/x": pages}


def test_broken_links_are_listed_with_their_pages(server, tmp_path):
    site, lines = write_site(tmp_path / "site", f"{server}/fine", f"{server}/gone", f"{server}/private"), []
    with pytest.raises(BookError) as error:
        check_links(site, report=lines.append, **QUICK)
    assert str(error.value).splitlines() == [
        "broken external links: 1 of 3.",
        f"{server}/gone (status 404), in other.html, page.html",
    ]
    assert lines == [f"refused: {server}/private (status 403)", "2 of 3 external links lead somewhere."]


def test_without_a_network_it_says_so(tmp_path):
    site = write_site(tmp_path / "site", "http://127.0.0.1:9/a", "http://127.0.0.1:9/b")
    with pytest.raises(BookError, match=r"broken external links: 2 of 2\. Is there a network\?"):
        check_links(site, report=lambda _: None, attempts=1, **QUICK)


def test_the_command_checks_a_site(server, tmp_path, capsys):
    assert main(["links", "--site", str(write_site(tmp_path / "site", f"{server}/fine"))]) == 0
    assert capsys.readouterr().out == "1 of 1 external links lead somewhere.\n"
    assert main(["links", "--site", str(tmp_path / "nowhere")]) == 2


def test_what_cannot_be_checked_is_refused(tmp_path):
    with refused("no site at", str(tmp_path), "make book"):
        external_links(tmp_path)
    with refused("attempts=0", "at least 1"):
        check_links(tmp_path, attempts=0)
