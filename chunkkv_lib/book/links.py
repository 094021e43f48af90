"""External links of a finished site: do they still lead somewhere? This needs a network, so no build and no test asks.

    python -m chunkkv_lib links        # or: make links

Links inside the site are checked by every build (`checks`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urldefrag, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from chunkkv_lib.book.checks import Page
from chunkkv_lib.book.failure import BookError
from chunkkv_lib.book.paths import project_root
from chunkkv_lib.errors import InputError

HEADERS = {"User-Agent": "Mozilla/5.0 (compatible; book-link-check)", "Accept": "*/*"}
REFUSES_PROGRAMS = {401, 402, 403, 429, 451, 999}  # says nothing about what a reader would see
WORTH_ANOTHER_TRY = {408, 425, 429, 500, 502, 503, 504}
FINE, MOVED, REFUSED, BROKEN = "fine", "moved", "refused", "broken"


@dataclass(frozen=True)
class Answer:
    """What became of one address: `verdict` is fine, moved, refused or broken; `detail` says how."""

    address: str
    verdict: str
    detail: str = ""


def external_links(site: str | Path) -> dict[str, list[str]]:
    """Every http(s) address that a page of the site links to, without its fragment -> the pages that do, sorted.

    raises  InputError: there is no page.
    """
    site = Path(site)
    found: dict[str, set[str]] = {}
    pages = [path for path in sorted(site.rglob("*.html")) if path.relative_to(site).parts[0] != "_static"]
    if not pages:
        raise InputError(f"no site at {site}; build it first: make book.")
    for path in pages:
        for link in Page(path).links:
            if urlsplit(link).scheme in ("http", "https"):
                found.setdefault(urldefrag(link).url, set()).add(path.relative_to(site).as_posix())
    return {address: sorted(found[address]) for address in sorted(found)}


def check_links(
    site: str | Path | None = None,
    attempts: int = 3,
    pause: float = 1.0,
    timeout: float = 20,
    report: Callable[[str], None] = print,
) -> list[Answer]:
    """Ask for every external link of the site, and say what became of it.

    site      by default _build/html
    attempts  requests of an address that does not answer; pause: seconds before the second, doubled before the next
    timeout   seconds that one request may take
    report    called like `print` with one line for each address that is not fine, and a summary
    return    the answers, ordered by address; refused and moved ones are no error
    raises    InputError: no site there, no attempt; BookError: broken links, each with the pages that hold it.
    """
    if attempts < 1:
        raise InputError(f"attempts={attempts} asks for nothing; give at least 1.")
    site = Path(site) if site is not None else project_root() / "_build" / "html"
    links = external_links(site)
    answers = ask_all(links, lambda address: ask(address, attempts, pause, timeout), pause)
    for answer in answers:
        if answer.verdict in (MOVED, REFUSED):
            report(f"{answer.verdict}: {answer.address} ({answer.detail})")
    broken = [answer for answer in answers if answer.verdict == BROKEN]
    report(f"{len(answers) - len(broken)} of {len(answers)} external links lead somewhere.")
    if broken:
        lines = [f"{one.address} ({one.detail}), in {', '.join(links[one.address])}" for one in broken]
        alone = " Is there a network?" if len(broken) == len(answers) else ""
        raise BookError(f"broken external links: {len(broken)} of {len(answers)}.{alone}\n" + "\n".join(lines))
    return answers


def ask_all(addresses: Iterable[str], ask_one: Callable[[str], Answer], pause: float = 1.0) -> list[Answer]:
    """The answers, ordered by address: all hosts at once, but one host's addresses in turn, with a pause between."""
    hosts: dict[str, list[str]] = {}
    for address in addresses:
        hosts.setdefault(urlsplit(address).netloc, []).append(address)

    def in_turn(own: list[str]) -> list[Answer]:
        answers = []
        for number, address in enumerate(own):
            time.sleep(pause if number else 0)
            answers.append(ask_one(address))
        return answers

    with ThreadPoolExecutor(max_workers=8) as pool:
        found = [answer for answers in pool.map(in_turn, hosts.values()) for answer in answers]
    return sorted(found, key=lambda answer: answer.address)


def ask(address: str, attempts: int = 3, pause: float = 1.0, timeout: float = 20) -> Answer:
    """Ask for one address, several times where an answer may still come."""
    for number in range(attempts):
        time.sleep(pause * 2 ** (number - 1) if number else 0)
        answer, final = _ask_once(address, timeout)
        if final:
            break
    return answer


class _Redirects(HTTPRedirectHandler):
    """Follows redirects as usual, and remembers whether all of them were permanent."""

    def __init__(self) -> None:
        self.codes: list[int] = []

    def redirect_request(self, request, file, code, message, headers, target):
        self.codes.append(code)
        return super().redirect_request(request, file, code, message, headers, target)


def _ask_once(address: str, timeout: float) -> tuple[Answer, bool]:
    """The answer to HEAD, or to GET where HEAD gets an error; and whether asking again is pointless."""
    status: int | None = None
    detail = "no answer"
    for method in ("HEAD", "GET"):
        redirects = _Redirects()
        try:
            request = Request(address, headers=HEADERS, method=method)
            with build_opener(redirects).open(request, timeout=timeout) as response:
                permanent = redirects.codes and set(redirects.codes) <= {301, 308}
                return (Answer(address, MOVED, f"to {response.geturl()}") if permanent else Answer(address, FINE)), True
        except HTTPError as error:
            status, detail = error.code, f"status {error.code}"
            error.close()
        except (OSError, HTTPException, ValueError) as error:  # URLError and timeouts are OSErrors
            reason = getattr(error, "reason", None) or error
            status, detail = None, str(reason) or type(error).__name__
    verdict = REFUSED if status in REFUSES_PROGRAMS else BROKEN
    return Answer(address, verdict, detail), status is not None and status not in WORTH_ANOTHER_TRY
