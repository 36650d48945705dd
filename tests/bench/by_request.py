"""Print how each ranking of a run directory does on every kind of request, beside recent popularity.

    python -m training prepare --interactions interactions.csv.gz --out runs/mt --set split.test=time
    python -m training baselines --out runs/mt
    python tests/bench/by_request.py runs/mt

The run need not be finished: baselines alone are enough. Intervals are in the JSON on the last line.
"""

import json
import sys
from pathlib import Path

from training.data.prepared import load_prepared
from training.evaluation.question import ask, judged_part
from training.progress import Progress
from training.report.collect import beside_the_bar, check_asked, other_rankings, own_rankings, titles_of
from training.report.text import request_lines


def main(run: Path) -> None:
    """Print the table and the JSON of one run directory."""
    prepared, progress = load_prepared(run / "prepared"), Progress()
    question = ask(prepared, judged_part(prepared))
    own = own_rankings(run)
    check_asked(run, own, question)
    others, about = other_rankings(run, prepared, question, progress)
    rankings = own | others
    table = beside_the_bar(rankings, question, about, progress)
    split = prepared.report["split"]
    print(f"{run}: split {split}, {len(question.users):,} requests, seen items excluded: {question.exclude_seen}")
    print("\n".join(request_lines(table, titles_of({name: about.get(name, {}) for name in rankings}))))
    print(json.dumps(table))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
