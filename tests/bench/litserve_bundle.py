"""LitServe serving a bundle, for a row of throughput.py: the same encoder and table, histories in memory, no store.

    python -m venv VENV && VENV/bin/python -m pip install litserve onnxruntime
    python tests/bench/throughput.py --bundle DIR --litserve VENV/bin/python

Run by throughput.py with that interpreter, never in the project's own environment. Prints its URL, then serves.
"""

import json
import os
import socket
import sys
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before onnxruntime, see service/__init__.py

import litserve
import numpy as np
import onnxruntime

sys.path.insert(0, str(Path(__file__).parents[2]))

from service.bundle import open_bundle, pad_histories


class Recommend(litserve.LitAPI):
    """POST /recommend {"user_id", "k"}: the k best items of a user's history, batched by LitServe."""

    def setup(self, device: str) -> None:
        """Load the bundle and the histories."""
        directory = Path(sys.argv[1])
        self.bundle = open_bundle(directory / "bundle")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(self.bundle.encoder, options, providers=["CPUExecutionProvider"])
        self.columns = np.ascontiguousarray(self.bundle.table.dense().T)
        rows = {item_id: row for row, item_id in enumerate(self.bundle.items.ids)}
        self.histories: dict[str, list[int]] = {}
        for line in (directory / "histories.jsonl").open():
            event = json.loads(line)
            self.histories.setdefault(event["user_id"], []).append(rows[event["item_id"]])

    def decode_request(self, request: dict) -> tuple[list[int], int]:
        """Find the history."""
        return self.histories[request["user_id"]], request["k"]

    def batch(self, inputs: list) -> list:
        """Keep a batch a list."""
        return inputs

    def predict(self, asked: list[tuple[list[int], int]]) -> list[list[tuple[int, float]]]:
        """Encode, score and rank."""
        histories = [history for history, _ in asked]
        history, length = pad_histories(self.bundle.table, histories, self.bundle.manifest.max_history)
        (users,) = self.session.run(["user"], {"history": history, "length": length})
        scores = users @ self.columns
        for line, seen in zip(scores, histories, strict=True):
            line[seen] = -np.inf
        answers = []
        for line, (_, k) in zip(scores, asked, strict=True):
            best = np.argpartition(-line, k)[:k]
            answers.append([(int(row), float(line[row])) for row in best[np.argsort(-line[best])]])
        return answers

    def unbatch(self, output: list) -> list:
        """Give each its own."""
        return output

    def encode_response(self, output: list[tuple[int, float]]) -> dict:
        """Name the items."""
        return {"items": [{"item_id": self.bundle.items.ids[row], "score": score} for row, score in output]}


if __name__ == "__main__":
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    print(f"http://127.0.0.1:{port}", flush=True)
    api = Recommend(max_batch_size=16, batch_timeout=0.0, api_path="/recommend")
    litserve.LitServer(api, accelerator="cpu", workers_per_device=1, track_requests=False).run(
        host="127.0.0.1", port=port, generate_client_file=False, log_level="error", access_log=False
    )
