"""Packages and bytes of every committed lock: what is downloaded, and the largest pieces of it.

    scripts/satenv is not needed: python benchmarks/size.py

Sizes are the archives' (compressed), from the channel metadata; how many files they hold is not in it.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from cogvideo_sat_env.base.progress import human_bytes  # noqa: E402
from cogvideo_sat_env.lock.read import read_lock  # noqa: E402
from cogvideo_sat_env.lock.render import read_sizes  # noqa: E402
from cogvideo_sat_env.spec.variants import read_variants  # noqa: E402


def main() -> None:
    """Print one table of the variants, and the largest archives of each."""
    sizes = read_sizes(ROOT)
    print(f"{'variant':<20} {'conda':>6} {'pip':>4} {'bytes':>9}  largest")
    for variant in read_variants():
        lock = read_lock(ROOT / variant.lock, variant.platform, sizes)
        items = [*lock.conda, *lock.pip]
        total = sum(item.size or 0 for item in items)
        largest = sorted(items, key=lambda item: item.size or 0, reverse=True)[:5]
        names = ", ".join(f"{item.name} {human_bytes(item.size or 0)}" for item in largest)
        print(f"{variant.id:<20} {len(lock.conda):>6} {len(lock.pip):>4} {human_bytes(total):>9}  {names}")


if __name__ == "__main__":
    main()
