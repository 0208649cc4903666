#!/usr/bin/env python3
"""Pictures a second of `predict` before the device: read, decoded, resized, answered, with a model that costs next to nothing.

    benches/pictures.py PROGRAM FOLDER [ROWS [WAY]]      WAY: list, tar through a pipe, or shards

Eight shards follow each other; each is killed in its first half and gone on with, and every path must have one row.

FOLDER has some dozens of JPEG files; they are asked about ROWS times in all (100,000), each time by another name, on two threads.
Processor time is what counts where other work runs beside: pictures a second of it are those of two cores with nothing else to do.
"""

import csv, io, os, random, resource, subprocess, sys, tarfile, tempfile, time


def lines(path):
    try:
        with open(path, "rb") as file:
            return sum(piece.count(b"\n") for piece in iter(lambda: file.read(1 << 20), b""))
    except FileNotFoundError:
        return 0


program, folder = map(os.path.abspath, sys.argv[1:3])
rows = int(sys.argv[3]) if len(sys.argv) > 3 else 100_000
way = sys.argv[4] if len(sys.argv) > 4 else "list"
names = sorted(n for n in os.listdir(folder) if n.lower().endswith((".jpg", ".jpeg")))
with tempfile.TemporaryDirectory() as at:
    os.chdir(at)
    with open("set.csv", "w") as table:
        table.write("path,valence,arousal\n")
        table.writelines(f"{folder}/{n},{1 + i % 9},{1 + 5 * i % 9}\n" for i, n in enumerate(names))
    model = "--features alexnet --width 16 --image 67 --head 4 --epochs 1 --init-missing --freeze all --val 0 --device cpu"
    subprocess.run([program, "train", "set.csv", "--out", "run", "-q", *model.split()], check=True, stdout=subprocess.DEVNULL)
    command = [program, "predict", "-q", "--model", "run/checkpoint.safetensors", "--batch", "64", "--threads", "2", "--device", "cpu"]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
    if way == "tar":
        child = subprocess.Popen([*command, "--tar", "-", "--out", "rows.csv"], stdin=subprocess.PIPE)
        files = [open(f"{folder}/{n}", "rb").read() for n in names]
        with tarfile.open(fileobj=child.stdin, mode="w|", format=tarfile.USTAR_FORMAT) as archive:
            for i in range(rows):
                entry = tarfile.TarInfo(f"{i:07}.jpg")
                entry.size = len(files[i % len(files)])
                archive.addfile(entry, io.BytesIO(files[i % len(files)]))
        child.stdin.close()
        assert child.wait() == 0
    else:
        # A folder for each time that all are asked about.
        for again in range(-(-rows // len(names))):
            os.symlink(folder, f"{again:06}")
        with open("list.txt", "w") as paths:
            paths.writelines(f"{i // len(names):06}/{names[i % len(names)]}\n" for i in range(rows))
        of_list = [*command, "--list", "list.txt", "--out"]
        if way == "shards":
            os.mkdir("parts")
            for shard in range(1, 9):
                part = f"parts/part-{shard}-of-8.csv"
                one = [*of_list, "parts/", "--shard", f"{shard}/8", "--resume"]
                child, kill_at = subprocess.Popen(one), random.uniform(0, 0.5) * rows / 8
                while child.poll() is None and lines(part + ".part") <= kill_at:
                    time.sleep(0.05)
                child.kill()
                child.wait()
                print(f"shard {shard}: killed after {max(0, lines(part + '.part') - 1)} rows", flush=True)
                subprocess.run(one, check=True)
            rest = sorted(set(os.listdir("parts")) - {f"part-{i}-of-8.csv{end}" for i in range(1, 9) for end in ("", ".json")})
            assert not rest, f"left behind: {rest}"
        else:
            subprocess.run([*of_list, "rows.csv"], check=True)
    seconds, after = time.time() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    files = [f"parts/{name}" for name in os.listdir("parts") if name.endswith(".csv")] if way == "shards" else ["rows.csv"]
    paths = [row["path"] for file in files for row in csv.DictReader(open(file)) if not row["error"]]
    assert len(paths) == rows == len(set(paths)), f"{len(paths)} rows with ratings, {len(set(paths))} paths"
    size = sum(os.path.getsize(f"{folder}/{n}") for n in names) / len(names)
    print(f"{rows} pictures of {size / 1e3:.0f} kB ({way}): {rows / seconds:.0f} a second in {seconds:.0f} s of wall time, "
          f"{2 * rows / cpu:.0f} a second of two cores' time ({1e3 * cpu / rows:.2f} ms each); at most {after.ru_maxrss / 1024:.0f} MiB")
