"""An encoder of new items on a real set with long texts: the packages of Debian, by what they depend on.

    apt-get -o Acquire::Languages=en update
    OMP_NUM_THREADS=1 python tests/bench/long_texts.py --out DIR [--language-model DIR] [--set student.positions=N]

The second line reads the machine's own package index, of which the first one fetches the long descriptions (images of
containers leave them out). A user is a source package, its items are what its binary packages depend on or recommend
(the first of several alternatives; no package of the same source). An item's title is the short description of the
package, its description the long one, its attribute the section. The index has no times: the events of a user stand in
an order drawn with a seed, so the last two, which are held out, are any two. At most --users users with three events or
more are drawn, and items of fewer than five of them are left out. Then `prepare` and `newcomers` run, as users do it,
the second twice where a language model is given: without it, and with teacher.text. JSON on the last line.
"""

import argparse
import csv
import json
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LEAST_USERS, LEAST_ITEMS = 5, 3  # of an item, of a user
Package = dict[str, str]


def main() -> None:
    """Write the two files, run the stages, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--language-model", type=Path)
    parser.add_argument("--set", action="append", default=["student.positions=400000"])
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    packages = read_packages()
    wanted = draw_users(baskets_of(packages), arguments.users)
    about = write_files(arguments.out, packages, wanted)
    print(json.dumps(about), flush=True)
    arms: dict[str, list[str]] = {"without": []}
    if arguments.language_model:
        arms["with"] = [f"teacher.text={arguments.language_model}"]
    tables = {name: judge(arguments.out, name, [*arguments.set, *more]) for name, more in arms.items()}
    print(json.dumps(about | tables))


def read_packages() -> dict[str, Package]:
    """Return the fields of every package of the index, by its name. Ends where no long description is there."""
    described = {one["Description-md5"]: one["Description-en"] for one in paragraphs(read_translations())}
    if not described:
        sys.exit("the index has no long descriptions: apt-get -o Acquire::Languages=en update")
    packages = paragraphs(tell("apt-cache", "dumpavail"))
    return {
        one["Package"]: one | {"Description": described.get(one.get("Description-md5", ""), one.get("Description", ""))}
        for one in packages
    }


def read_translations() -> str:
    """Return the long descriptions of the index as apt keeps them, decompressed."""
    chosen = ("-o", "Acquire::Languages=en", "--format", "$(FILENAME)", "Created-By: Translations")
    files = tell("apt-get", "indextargets", *chosen).split()
    return "\n\n".join(tell("/usr/lib/apt/apt-helper", "cat-file", file) for file in files)


def tell(*command: str) -> str:
    """Return what a command prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def paragraphs(text: str) -> Iterator[Package]:
    """Yield the fields of each paragraph."""
    return (parse(each) for each in text.split("\n\n") if each.strip())


def parse(paragraph: str) -> Package:
    """Return the fields of a package; lines that go on are joined to theirs."""
    fields: Package = {}
    name = ""
    for line in paragraph.strip("\n").split("\n"):
        if line.startswith(" "):
            fields[name] += "\n" + line[1:]
        else:
            name, _, value = line.partition(": ")
            fields[name] = value
    return fields


def source_of(package: Package) -> str:
    """Return the source that a package is built from."""
    return package.get("Source", package["Package"]).split(" ")[0]


def depended(package: Package) -> Iterator[str]:
    """Yield the names that a package depends on or recommends, the first of each list of alternatives."""
    for field in ("Pre-Depends", "Depends", "Recommends"):
        for one in package.get(field, "").split(","):
            if match := re.match(r"\s*([a-z0-9][a-z0-9+.-]+)", one):
                yield match[1]


def baskets_of(packages: dict[str, Package]) -> dict[str, list[str]]:
    """Return the items of each source package, sorted."""
    found: dict[str, set[str]] = {}
    for package in packages.values():
        own = source_of(package)
        names = {name for name in depended(package) if name in packages and source_of(packages[name]) != own}
        found.setdefault(own, set()).update(names)
    return {user: sorted(found[user]) for user in sorted(found)}


def draw_users(baskets: dict[str, list[str]], most: int) -> dict[str, list[str]]:
    """Return the items of at most so many users, in random orders; rare items and users with few items are left out."""
    rng = random.Random(0)
    drawn = rng.sample(sorted(baskets), len(baskets))
    kept = {user: baskets[user] for user in drawn if len(baskets[user]) >= LEAST_ITEMS}
    kept = dict(list(kept.items())[:most])
    counts = Counter(item for items in kept.values() for item in items)
    kept = {user: [item for item in items if counts[item] >= LEAST_USERS] for user, items in kept.items()}
    return {user: rng.sample(items, len(items)) for user, items in kept.items() if len(items) >= LEAST_ITEMS}


def write_files(out: Path, packages: dict[str, Package], wanted: dict[str, list[str]]) -> dict[str, Any]:
    """Write interactions.csv and items.csv, and return how much is in them. Events have their place as a time."""
    events = [(user, item, place) for user, items in wanted.items() for place, item in enumerate(items)]
    with (out / "interactions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("user_id", "item_id", "timestamp")])
        csv.writer(file).writerows((user, item, 1_700_000_000 + place) for user, item, place in events)
    items = sorted({item for _, item, _ in events})
    words = 0
    with (out / "items.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("item_id", "title", "description", "section"))
        for item in items:
            title, _, description = packages[item]["Description"].partition("\n")
            description = " ".join(description.replace("\n.\n", "\n").split())
            writer.writerow((item, title, description, packages[item].get("Section", "")))
            words += len(description.split())
    return {"users": len(wanted), "items": len(items), "events": len(events), "words": words / len(items)}


def judge(out: Path, name: str, settings: list[str]) -> dict[str, Any]:
    """Prepare the data and judge an encoder of new items in a run of its own, and return the table."""
    run = out / name
    files = ["--interactions", str(out / "interactions.csv"), "--items", str(out / "items.csv")]
    chosen = [word for setting in (*settings, "newcomers.held_out=0.1") for word in ("--set", setting)]
    train = [sys.executable, "-m", "training"]
    subprocess.run([*train, "prepare", *files, "--out", str(run), *chosen], check=True)
    subprocess.run([*train, "newcomers", "--out", str(run), *chosen], check=True)
    found: dict[str, Any] = json.loads((run / "newcomers" / "newcomers.json").read_text())
    for model, row in found["models"].items():
        low, high = row["ndcg@10_interval"]
        print(f"{name:8} {model:20} {row['ndcg@10']:.4f} ({low:.4f} to {high:.4f})", flush=True)
    return found


if __name__ == "__main__":
    main()
