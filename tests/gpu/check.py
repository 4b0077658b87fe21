"""`make gpu-check OUT=DIR`: what only a machine with a GPU can show, in a few minutes, without a network.

Each stage is a process with a time limit of its own that adds lines to OUT/results.jsonl as it goes; one that fails
stops no other. OUT/log.txt has all that was printed, OUT/summary.txt one line a result. Where there is no GPU, or no
PyTorch that sees one, that is said, and the exit code is 0. What the machine's Python lacks is installed from the
folder `gpu-wheels` (made by `make gpu-wheels`) into an environment of its own, beside all that the machine has.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
WHEELS = ROOT / "gpu-wheels"
TOGETHER = {"kernels": 150, "pipeline": 170, "resume": 150, "ranks": 150, "limits": 150}  # seconds; nothing is timed
ALONE = {"speed": 200, "attention": 90, "souping": 120}


def main(words: list[str]) -> int:
    """Run the stages that `words` name after OUT, or all."""
    out, chosen = Path(words[0]).resolve(), words[1:]
    if why := find_obstacle():
        print(f"gpu-check: skipped: {why}")
        return 0
    out.mkdir(parents=True, exist_ok=True)
    for name in ("results.jsonl", "log.txt", "summary.txt"):
        (out / name).unlink(missing_ok=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        python = make_environment(Path(place) / "venv")
        ended = run("probe", 60, python, out, place)
        with ThreadPoolExecutor(len(TOGETHER)) as pool:
            mine = {name: limit for name, limit in TOGETHER.items() if not chosen or name in chosen}
            ended &= all(list(pool.map(lambda name: run(name, mine[name], python, out, place), mine)))
        for name, limit in ALONE.items():
            if not chosen or name in chosen:
                ended &= run(name, limit, python, out, place)
    good = summarise(out)
    print(f"gpu-check: {time.monotonic() - started:.0f} s, {'all right' if ended and good else 'NOT all right'}")
    return 0 if ended and good else 1


def find_obstacle() -> str:
    """Why nothing can be checked here; "" where it can."""
    code = "import torch, sys; sys.exit(0 if torch.cuda.is_available() else 3)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode == 3:
        return "no GPU is visible to PyTorch here"
    if done.returncode:
        return f"{sys.executable} has no PyTorch; give one that has with PYTHON=..."
    return ""


def make_environment(place: Path) -> str:
    """A Python that has all that this one has, and the wheels besides."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    python = place / "bin" / "python"
    site = next((place / "lib").glob("python*")) / "site-packages"
    paths = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    (site / "machine.pth").write_text("\n".join(paths) + "\n")
    if wheels := sorted(map(str, WHEELS.glob("*.whl"))):
        install = [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(python),
            "install",
            "--quiet",
            "--no-index",
            "--no-deps",
        ]
        subprocess.run([*install, "--ignore-installed", "--no-compile", *wheels], check=True)
    return str(python)


def run(name: str, limit: float, python: str, out: Path, place: str) -> bool:
    """Run a stage; whether it ended well. All that it prints is in the log."""
    started = time.monotonic()
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(python).parent}:{os.environ['PATH']}",
        "PYTHONUNBUFFERED": "1",
        "GPU_CHECK_OUT": str(out),
        "NUMBA_CACHE_DIR": f"{place}/numba",
        "TRITON_CACHE_DIR": f"{place}/triton",
    }
    with open(out / "log.txt", "a", encoding="utf-8") as log, tempfile.TemporaryFile("w+") as said:
        command = ["timeout", "-k", "5", str(limit), python, "-m", f"tests.gpu.{name}"]
        code = subprocess.run(
            command,
            env=environment,
            cwd=tempfile.mkdtemp(dir=place),
            stdout=said,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode
        said.seek(0)
        log.write(f"==== {name}: exit code {code}, {time.monotonic() - started:.1f} s\n{said.read()}\n")
    record(out, name, "stage", time.monotonic() - started, "s", code == 0, "" if code == 0 else f"exit code {code}")
    return code == 0


def record(out: Path, stage: str, what: str, value: object, unit: str, good: bool | None, note: str) -> None:
    """Add a result at once. good: None where nothing is right or wrong."""
    line = {"stage": stage, "what": what, "value": value, "unit": unit, "good": good, "note": note}
    with open(out / "results.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def summarise(out: Path) -> bool:
    """Print and write one line a result; whether all are good."""
    results = [json.loads(line) for line in (out / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    lines = []
    for each in results:
        value = f"{each['value']:.4g}" if isinstance(each["value"], float) else str(each["value"])
        verdict = {True: "ok", False: "WRONG", None: ""}[each["good"]]
        lines.append(
            f"{each['stage']:<10} {each['what']:<62} {value:>12} {each['unit']:<8} {verdict:<5} {each['note']}"
        )
    text = "\n".join(line.rstrip() for line in lines) + "\n"
    (out / "summary.txt").write_text(text, encoding="utf-8")
    print(text, end="")
    return all(each["good"] is not False for each in results)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
