"""The public JSON test suite posted at every endpoint that reads JSON."""
import json
import tarfile
import http.client

import pytest

from conftest import DEMO, SHARED, need, serve

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize")


def suite():
    archive = SHARED / "corpora/json_test_suite.tar.xz"
    need(archive)
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            name = member.name.rsplit("/", 1)[-1]
            if member.isfile() and name.endswith(".json") and name[:2] in ("y_", "n_", "i_"):
                yield name, tar.extractfile(member).read()


@pytest.mark.sanitize
def test_the_whole_suite_at_every_endpoint():
    files = list(suite())
    count = {kind: sum(name.startswith(kind) for name, _ in files) for kind in ("y_", "n_", "i_")}
    assert count == {"y_": 95, "n_": 188, "i_": 35}
    with serve(DEMO, "--backend", "sim", "--served-name", "sim") as s:
        for endpoint in ENDPOINTS:
            wrong = []
            connection = http.client.HTTPConnection("127.0.0.1", s.port, timeout=20)
            for name, body in files:
                connection.request("POST", endpoint, body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                text = response.read()
                code = json.loads(text)["error"]["code"] if response.status != 200 else None
                # JSON that is no request is refused as such: 400 too, but not for being no JSON
                bad = (response.status != 400 if name.startswith("n_") else
                       code == "invalid_json" if name.startswith("y_") else response.status >= 500)
                if bad or response.status >= 500:
                    wrong.append((name, response.status, code))
            assert not wrong, (endpoint, wrong)
        assert s.get("/health")[0] == 200
