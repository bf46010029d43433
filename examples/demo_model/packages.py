"""Fetch the Debian packages that carry the public-domain text, without installing them."""

from __future__ import annotations

import subprocess
from pathlib import Path

# The versions (Debian 12) that the shipped model was made from; others may differ in the text.
PACKAGES = {
    "fortunes-zh": "2.98",
    "bible-kjv-text": "4.38",
    "bible-kjv": "4.38",
    "r-cran-janeaustenr": "1.0.0-1",
}


def fetch_packages(work: Path) -> Path:
    """Download and unpack every package under `work`; return the unpacked root."""
    debs, root = work / "debs", work / "root"
    debs.mkdir(parents=True, exist_ok=True)
    root.mkdir(parents=True, exist_ok=True)
    for name, version in PACKAGES.items():
        if not list(debs.glob(f"{name}_*.deb")):
            subprocess.run(["apt-get", "download", name], cwd=debs, check=True)
        newest = max(debs.glob(f"{name}_*.deb"))
        if not newest.name.startswith(f"{name}_{version}_"):
            print(f"{newest.name}: the shipped model used version {version}")
        subprocess.run(["dpkg-deb", "-x", str(newest), str(root)], check=True)
    return root
