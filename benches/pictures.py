#!/usr/bin/env python3
"""Pictures a second of `predict` before the device: read, decoded, resized, answered, with a model that costs next to nothing.

    benches/pictures.py PROGRAM FOLDER [ROWS [WAY]]      WAY: list, or tar through a pipe

FOLDER has some dozens of JPEG files; they are asked about ROWS times in all (100,000), each time by another name, on two threads.
Processor time is what counts where other work runs beside: pictures a second of it are those of two cores with nothing else to do.
"""

import io, os, resource, subprocess, sys, tarfile, tempfile, time

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
        subprocess.run([*command, "--list", "list.txt", "--out", "rows.csv"], check=True)
    seconds, after = time.time() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    answered = sum(1 for _ in open("rows.csv")) - 1
    assert answered == rows, f"{answered} rows"
    size = sum(os.path.getsize(f"{folder}/{n}") for n in names) / len(names)
    print(f"{rows} pictures of {size / 1e3:.0f} kB ({way}): {rows / seconds:.0f} a second in {seconds:.0f} s of wall time, "
          f"{2 * rows / cpu:.0f} a second of two cores' time ({1e3 * cpu / rows:.2f} ms each); at most {after.ru_maxrss / 1024:.0f} MiB")
