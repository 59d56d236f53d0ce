"""Write docker/lock-TAG.txt: all that an image installs, by version and hash. `nox -s docker_lock` calls this.

    python docker/lock.py [--check] TAG TORCH [INDEX]

TORCH: the requirement, such as torch===2.13.0+cpu; INDEX: where it is, if not on PyPI. Nothing is installed, and of
wheels that are not on disk only what the index says is read. With --check nothing is written: exit code 1, and what
differs, where the versions in the lock do not resolve to exactly that lock any more.
"""

import argparse
import json
import platform
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

# The image's: Debian bookworm has glibc 2.36. Wheels name the oldest that they run with.
PYTHON, GLIBC_MINOR = (3, 11), 36
HERE = Path(__file__).parent
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")

# name and version -> the sha256 of each file that may be installed for it
Lock = dict[tuple[str, str], set[str]]


def main() -> None:
    """Lock or check one image."""
    parser = argparse.ArgumentParser(description="Lock what an image installs.")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("tag")
    parser.add_argument("torch")
    parser.add_argument("index", nargs="?")
    given = parser.parse_args()
    # pip asks the Python that it runs on which dependencies are meant.
    if (sys.version_info[:2], sys.platform, platform.machine()) != (PYTHON, "linux", "x86_64"):
        sys.exit("the lock is of Python 3.11 on Linux x86-64: make it there")
    file = HERE / f"lock-{given.tag}.txt"
    if not given.check:
        found = resolve([*requirements(), given.torch], given.index)
        file.write_text(written(found, given.tag), "utf-8")
        print(f"{file}: {len(found)} packages")
        return
    locked = read(file.read_text("utf-8"))
    found = resolve([f"{name}==={version}" for name, version in locked], given.index)
    wrong = [
        f"{name} {version}: " + ("not needed" if not hashes else "not locked" if key not in locked else "another hash")
        for key in sorted(locked.keys() | found.keys())
        for (name, version), hashes in [(key, found.get(key, set()))]
        if not hashes or not hashes <= locked.get(key, set())
    ]
    print(f"{file}: {'; '.join(wrong) or f'{len(locked)} packages, all as locked'}")
    sys.exit(bool(wrong))


def requirements() -> list[str]:
    """Return what pyproject.toml asks for, to run and to build, but for torch."""
    file = tomllib.loads((HERE.parent / "pyproject.toml").read_text("utf-8"))
    extras = file["project"]["optional-dependencies"]
    wanted = [*file["project"]["dependencies"], *extras["torch"], *extras["cloud"], *file["build-system"]["requires"]]
    return [each for each in wanted if not each.startswith("torch>")]


def resolve(wanted: list[str], index: str | None) -> Lock:
    """Return what pip would install for the image."""
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in range(GLIBC_MINOR, 4, -1)]
    platforms += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"),
                *("--only-binary", ":all:", "--target", folder, "--report", str(report)),
                *(f"--platform={each}" for each in platforms),
                *(("--extra-index-url", index) if index else ()),
                *wanted,
            ],
            check=True,
        )
        chosen = json.loads(report.read_text("utf-8"))["install"]
    return {
        (normalised(each["metadata"]["name"]), each["metadata"]["version"]): {
            each["download_info"]["archive_info"]["hashes"]["sha256"]
        }
        for each in chosen
    }


def normalised(name: str) -> str:
    """Return a package's name as PEP 503 writes it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def written(lock: Lock, tag: str) -> str:
    """Return the text of a lock."""
    lines = [f"# Made by `nox -s docker_lock -- {tag}`, for Python 3.11 on Linux x86-64."]
    for (name, version), hashes in sorted(lock.items()):
        # `==2.13.0` would take 2.13.0+cpu as well, where it lies on disk.
        equals = "===" if name == "torch" else "=="
        lines.append(
            " \\\n    ".join([f"{name}{equals}{version}", *(f"--hash=sha256:{each}" for each in sorted(hashes))])
        )
    return "\n".join(lines) + "\n"


def read(text: str) -> Lock:
    """Return what a lock's text says."""
    lines = "".join(line for line in text.splitlines(keepends=True) if not line.lstrip().startswith("#"))
    entries = lines.replace("\\\n", " ").splitlines()
    pinned = (re.match(r"([a-z0-9-]+)===?(\S+)", entry) for entry in entries)
    return {(pin[1], pin[2]): set(HASH.findall(pin.string)) for pin in pinned if pin}


if __name__ == "__main__":
    main()
