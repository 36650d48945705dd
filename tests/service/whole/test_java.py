"""Java's own HTTP client, which offers HTTP/2 by an Upgrade with every first request."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.service.running import Running

SOURCE = """
import java.net.URI;
import java.net.http.*;

public class Ask {
    public static void main(String[] url) throws Exception {
        String[][] asked = {
            {"POST", "/events", "{\\"events\\":[{\\"user_id\\":\\"java\\",\\"item_id\\":\\"i1\\"}]}"},
            {"POST", "/recommend", "{\\"user_id\\":\\"java\\",\\"k\\":2}"},
            {"GET", "/users/java", null}, {"DELETE", "/users/java", null}, {"GET", "/model", null},
            {"GET", "/readyz", null}, {"GET", "/metrics", null},
        };
        for (String[] each : asked) {
            HttpRequest.BodyPublisher body = each[2] == null
                ? HttpRequest.BodyPublishers.noBody() : HttpRequest.BodyPublishers.ofString(each[2]);
            HttpRequest request = HttpRequest.newBuilder(URI.create(url[0] + each[1]))
                .header("Content-Type", "application/json").method(each[0], body).build();
            HttpClient client = HttpClient.newHttpClient();
            for (int n = 0; n < 2; n++) {
                int status = client.send(request, HttpResponse.BodyHandlers.ofString()).statusCode();
                System.out.println(each[1] + " " + status);
            }
        }
    }
}
"""


def test_default_client_of_java_works_on_every_route(toy_bundle: Path, tmp_path: Path) -> None:
    if shutil.which("java") is None or shutil.which("javac") is None:
        assert "RETORT_REQUIRE_JAVA" not in os.environ, "no JDK is installed"
        pytest.skip("NOT CHECKED: no JDK is installed")
    (tmp_path / "Ask.java").write_text(SOURCE)
    with Running(toy_bundle, tmp_path / "data") as service:
        done = subprocess.run(
            ["java", str(tmp_path / "Ask.java"), service.url], capture_output=True, text=True, timeout=60, check=False
        )

    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 14
    assert all(line.endswith(" 200") for line in lines), lines
