"""The files of the page over HTTP."""

from pathlib import Path

import httpx
import pytest

FOLDER = Path(__file__).parents[2] / "ds2f" / "serving" / "page"
FILES = sorted(path for path in FOLDER.iterdir() if path.suffix != ".md")


def path_of(file):
    return "/" if file.name == "index.html" else "/docs" if file.name == "docs.html" else f"/page/{file.name}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_file_is_served_as_it_is_for_this_origin_only(server, file):
    found = httpx.get(server.url + path_of(file))
    assert (found.status_code, found.content) == (200, file.read_bytes())
    assert found.headers["content-type"].endswith("; charset=utf-8")
    policy = found.headers["content-security-policy"].split("; ")
    assert {"default-src 'self'", "frame-ancestors 'none'", "require-trusted-types-for 'script'"} <= set(policy)
    assert not any(word in part for part in policy for word in ("unsafe", "http", "*"))
    assert found.headers["x-content-type-options"] == "nosniff"


def test_a_browser_that_has_a_file_is_told_so(server):
    first = httpx.get(f"{server.url}/page/app.js")
    again = httpx.get(f"{server.url}/page/app.js", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    other = httpx.get(f"{server.url}/page/app.js", headers={"if-none-match": '"another"'})
    assert (other.status_code, other.content) == (200, first.content)


@pytest.mark.parametrize(
    "path", ["README.md", "../page_routes.py", "..%2fpage_routes.py", "%2fetc%2fpasswd", "", "a.js"]
)
def test_no_other_file_is_served(server, path):
    with httpx.Client() as client:
        url = httpx.URL(server.url).copy_with(raw_path=f"/page/{path}".encode())
        assert client.get(url).status_code == 404
