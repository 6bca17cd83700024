"""Identity: the right distributions, at their floors, within the proven bounds, and nothing from outside."""

from __future__ import annotations

import base64
import getpass
import hashlib
import locale
import os
import re
import site
import sys
from collections.abc import Iterable
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from . import _libraries
from ._prefix import DECORDS, installed, key, parsed
from ._probe import ProbeOutcome, ProbeRequest, failed, not_run, passed, some, warning
from ._records import files, overwritten, receipt

__all__ = [
    "activation", "bounds", "distribution", "files", "floors", "libraries", "overwritten", "pollution", "python",
    "receipt",
]  # fmt: skip

# Versions of Python for which there are locks, and with which upstream's training runs were made.
PYTHONS = ((3, 10), (3, 11), (3, 12), (3, 13))

SAT = "SwissArmyTransformer"
_REINSTALL_SAT = "pip install --force-reinstall --no-deps 'SwissArmyTransformer==0.4.12'"
# Libraries that torch, decord and the compilers bring themselves; another copy in front of them breaks ABI or CUDA.
_RIVALS = re.compile(
    r"lib(cudart|cublas|cublasLt|cudnn\w*|nccl|cusparse|cusolver|cufft|curand|nvrtc|nvJitLink|torch\w*|c10|stdc\+\+"
    r"|gomp|iomp5|avcodec|avformat|avutil|python3[.\d]*)\.so",
)

_DRIVERS = re.compile(r"lib(cuda|nvidia|GL|EGL|OpenGL|OpenCL|vulkan|vdpau)")  # the host's are the right ones


def distribution(request: ProbeRequest) -> ProbeOutcome:
    """SwissArmyTransformer, and nothing else, provides `sat`; one distribution provides `decord`."""
    names = installed()
    problems, remedies = [], []
    if not request.data_only:
        problem = _wrong_sat(names)
        if problem:
            problems.append(problem)
            remedies += [f"{_pip(request)} uninstall -y sat", _REINSTALL_SAT] if "sat" in names else [_REINSTALL_SAT]
    decords = [name for name in DECORDS if name in names]
    if len(decords) > 1:
        problems.append(f"{' and '.join(decords)} overwrite each other: both install the module decord")
        remedies += [
            f"{_pip(request)} uninstall -y {' '.join(decords)}",
            f"pip install --no-deps '{decords[0]}=={names[decords[0]]}'",
        ]
    if problems:
        return failed("; ".join(problems), "; ".join(remedies), decord=decords)
    parts = [] if request.data_only else [f"{SAT} {names[key(SAT)]} provides sat"]
    parts.append(f"{decords[0]} {names[decords[0]]} provides decord" if decords else "no distribution provides decord")
    return passed(", ".join(parts), decord=decords)


def _pip(request: ProbeRequest) -> str:
    return f"'{request.inputs['python']}' -m pip"


def _wrong_sat(names: dict[str, str]) -> str | None:
    if "sat" in names:
        return f"PyPI's unrelated package sat {names['sat']} is installed; SAT is the package {SAT}"
    if key(SAT) not in names:
        return f"{SAT} is not installed"
    found = find_spec("sat")
    ours = metadata.distribution(SAT)
    expected = Path(str(ours.locate_file("sat/__init__.py"))).resolve()
    if found is None or found.origin is None:
        return f"the module sat of {SAT} is gone: no {expected}"
    if Path(found.origin).resolve() != expected:
        return f"`import sat` takes {found.origin}, not {SAT}'s {expected}"
    changed = _changed_files(ours)
    if changed:
        return f"{len(changed)} files of {SAT} are missing or were overwritten, e.g. {changed[0]}"
    return None


def _changed_files(distribution: metadata.Distribution) -> list[str]:
    changed = []
    for file in distribution.files or []:
        if file.hash is None or file.suffix != ".py":
            continue
        path = Path(str(file.locate()))
        try:
            digest = hashlib.new(file.hash.mode, path.read_bytes()).digest()
        except OSError:
            changed.append(str(file))
            continue
        if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != file.hash.value:
            changed.append(str(file))
    return changed


def floors(request: ProbeRequest) -> ProbeOutcome:
    """Every requirement is installed, by its metadata, at its floor or above."""
    names = installed()
    missing, old, found = [], [], {}
    for item in request.requirements:
        options = DECORDS if item["name"] == "decord" else (item["name"],)
        present = [(option, names[key(option)]) for option in options if key(option) in names]
        if not present:
            missing.append(item["name"])
            continue
        name, version = present[0]
        found[item["name"]] = version if name == item["name"] else f"{version} ({name})"
        if item.get("floor") is None:
            continue
        ours, floor = parsed(version), parsed(str(item["floor"]))
        if ours is None or floor is None:
            old.append(f"{name} has the version {version!r}, which can't be compared with {item['floor']}")
        elif ours < floor:
            old.append(f"{name} {version} is below {item['floor']}")
    if missing or old:
        parts = [f"not installed: {', '.join(missing)}"] if missing else []
        parts += old
        return failed("; ".join(parts), request.restore, missing=missing, below=old, versions=found)
    return passed(f"{len(found)} requirements installed, none below its floor", versions=found)


def bounds(request: ProbeRequest) -> ProbeOutcome:
    """No version is one that the breakage ledger excludes, and torchvision is the one that belongs to this torch."""
    from packaging.specifiers import SpecifierSet

    names = installed()
    broken, held = [], []
    for bound in request.inputs["bounds"]:
        version = names.get(key(bound["name"]))
        if version is None:
            continue
        clause = bound["bound"] if bound["bound"][0] in "<>=!~" else f"=={bound['bound']}"
        text = f"{bound['name']} {version}, expected {bound['bound']}"
        if parsed(version) is not None and SpecifierSet(clause).contains(version, prereleases=True):
            held.append(text)
        else:
            broken.append((bound["id"], text))
    if broken:
        texts = "; ".join(text for _, text in broken)
        return failed(texts, ledger=tuple(name for name, _ in broken), broken=[name for name, _ in broken])
    unpaired = _unpaired(names)
    if unpaired:
        return failed(unpaired, "mamba install 'torchvision=0.25' 'pytorch=2.10' (they come in pairs)")
    if sys.version_info[:2] not in PYTHONS:
        known = ", ".join(f"{major}.{minor}" for major, minor in PYTHONS)
        return warning(
            f"Python {sys.version.split()[0]}: SAT was not run with it; there are locks for {known}",
            "make the environment with another Python: {satenv} create --python python3.11", held=held,
        )  # fmt: skip
    return passed(f"{len(held)} bounds of the breakage ledger hold", held=held)


def _unpaired(names: dict[str, str]) -> str | None:
    """Return what is wrong when torchvision's own metadata ask for another torch: its compiled half needs that one."""
    from packaging.requirements import Requirement

    if not {"torch", "torchvision"} <= set(names) or parsed(names["torch"]) is None:
        return None
    for text in metadata.requires("torchvision") or []:
        wanted = Requirement(text)
        if key(wanted.name) == "torch" and not wanted.specifier.contains(names["torch"], prereleases=True):
            found = f"torchvision {names['torchvision']} was built for torch {wanted.specifier}"
            return f"{found}, and torch is {names['torch']}"
    return None


def python(request: ProbeRequest) -> ProbeOutcome:
    """Python starts as a job script would start it, is the environment's, and knows who its user is."""
    culprits = request.inputs["culprits"]
    if culprits:
        shown = ", ".join(item["shown"] for item in culprits)
        return failed(
            f"with {shown}, the environment's Python doesn't start, or doesn't find its packages",
            "; ".join(item["remedy"] for item in culprits),
        )
    if not os.environ.get("TORCHINDUCTOR_CACHE_DIR"):  # torch names its cache by the user otherwise
        try:
            getpass.getuser()
        except (KeyError, OSError):  # OSError from Python 3.13 on
            return failed(
                f"user {os.getuid()} has no name: no entry in the password database, and USER is not set; torch and"
                " SAT can't be imported then",
                'export USER="user$(id -u)"',
            )
    return passed(f"Python {sys.version.split()[0]} starts with your variables, and finds the environment's packages")


def activation(request: ProbeRequest) -> ProbeOutcome:
    """Activation scripts and declared variables can be read and run, and are there."""
    facts = request.inputs["activation"]
    prefix = Path(request.inputs["prefix"])
    problems = list(facts["problems"])
    recorded = (request.inputs["receipt"] or {}).get("files") or {}
    scripts = sorted(name for name in recorded if name.startswith(("etc/conda/", "bin/activate")))
    gone = [name for name in scripts if not (prefix / name).exists()]
    if gone:
        return failed(
            f"activation is incomplete, {', '.join(gone[:3])} is missing: an activated shell lacks its variables",
            request.restore, missing=gone,
        )  # fmt: skip
    made = (request.inputs["receipt"] or {}).get("prefix")
    if isinstance(made, str) and made != str(prefix) and not (os.path.exists(made) and os.path.samefile(made, prefix)):
        return failed(f"made at {made} and moved or copied here: its scripts name that place", request.restore)
    if request.inputs.get("receipt_problem"):
        problems.append(request.inputs["receipt_problem"])
    details = {"scripts": facts["scripts"], "sets": sorted(facts["sets"])}
    if problems:
        more = f" (and {len(problems) - 1} more)" if problems[1:] else ""
        return warning(problems[0] + more, request.restore, problems=problems, **details)
    unset = [item for item in request.inputs["variables"] if facts["sets"].get(item["name"]) != item["value"]]
    if unset and not request.data_only:
        settings = " ".join(f"{item['name']}={item['value']}" for item in unset)
        wanted = ", ".join(item["name"] for item in unset)
        remedy = f"conda env config vars set -p '{prefix}' {settings}; or in each shell: export {settings}"
        if request.inputs["receipt"]:
            remedy = request.restore
        by_hand = all(os.environ.get(item["name"]) == item["value"] for item in unset)
        judge = warning if by_hand else failed
        shell = ", your shell does" if by_hand else ""
        return judge(f"activation does not set {wanted}{shell}", remedy, **details)
    if not facts["sets"]:
        return passed("nothing to activate", **details)
    return passed(f"scripts that ran: {len(facts['scripts'])}; variables set: {len(facts['sets'])}", **details)


def pollution(request: ProbeRequest) -> ProbeOutcome:
    """Nothing of the user's shell or home comes before the environment's own packages and libraries."""
    user, prefix = request.inputs["user"], Path(request.inputs["prefix"])
    found: list[tuple[str, str]] = []
    for name in ("PYTHONPATH", "PYTHONHOME"):
        if user.get(name):
            found.append((f"{name}={user[name]} comes before the environment's packages", f"unset {name}"))
    shadowed = _user_site_rivals(user)
    if shadowed:
        found.append((
            f"the user site {site.getusersitepackages()} shadows {some(shadowed, 4)}", "export PYTHONNOUSERSITE=1"
        ))  # fmt: skip
    found += _library_rivals(user, prefix)
    if user.get("PYTHONSAFEPATH"):
        found.append((
            "PYTHONSAFEPATH keeps `python train_video.py` from finding the modules beside it", "unset PYTHONSAFEPATH"
        ))  # fmt: skip
    for entry in filter(None, re.split(r"[:\s]+", user.get("LD_PRELOAD", ""))):
        if _is_not_there(entry):
            found.append((f"LD_PRELOAD names {entry}, which can't be loaded", "unset LD_PRELOAD"))
        elif _RIVALS.match(Path(entry).name) and not _inside(Path(entry), prefix):
            found.append((f"LD_PRELOAD loads {entry} before everything else", "unset LD_PRELOAD"))
    if user.get("KMP_DUPLICATE_LIB_OK"):
        found.append((
            "KMP_DUPLICATE_LIB_OK silences OpenMP's check for two runtimes: results may be wrong",
            "unset KMP_DUPLICATE_LIB_OK; identity.libraries says whether there are two",
        ))  # fmt: skip
    found += _host_cuda(user, request.inputs["activation"]["sets"], prefix)
    if found:
        return warning("; ".join(text for text, _ in found), "; ".join(dict.fromkeys(remedy for _, remedy in found)))
    noted = _missing_locale(user)
    return passed(f"no PYTHONPATH, user site, foreign libraries or foreign CUDA in front of the environment{noted}")


def _is_not_there(entry: str) -> bool:
    """Return whether the loader couldn't preload `entry` into this process; it has said so at each start then."""
    loaded = _libraries.loaded()
    if loaded is None or "$" in entry:  # the loader's own words, as $LIB
        return "/" in entry and "$" not in entry and not os.path.exists(entry)
    return Path(entry).resolve() not in loaded if "/" in entry else entry not in {path.name for path in loaded}


def _missing_locale(user: dict[str, str]) -> str:
    """Return a note on a locale that isn't installed: programs complain about it, and use C; nothing fails."""
    try:
        locale.setlocale(locale.LC_ALL, "")
    except locale.Error:
        named = next((f"{name}={user[name]}" for name in ("LC_ALL", "LANG") if user.get(name)), "LC_*")
        return f" (the locale of {named} isn't installed here: harmless, C is used)"
    return ""


def libraries(request: ProbeRequest) -> ProbeOutcome:
    """What the imports have loaded: one OpenMP runtime, and CUDA, torch and FFmpeg from the environment alone."""
    found = _libraries.loaded()
    if found is None:
        return not_run("not run: this system doesn't tell which libraries a process has loaded")
    prefix = Path(request.inputs["prefix"])
    outside: list[Path] = []
    if not request.inputs["foreign"]:
        outside = _libraries.foreign(found, _libraries.homes(prefix, map(Path, site.getsitepackages())))
    runtimes, vendored = _libraries.openmp(found)
    details = {"outside": list(map(str, outside)), "openmp": runtimes, "vendored_openmp": vendored}
    if outside:
        return failed(
            f"loaded from outside the environment: {', '.join(map(str, outside[:3]))}",
            "unset LD_LIBRARY_PATH LD_PRELOAD, and load no module of the host's CUDA", **details,
        )  # fmt: skip
    if len(runtimes) > 1:
        which = " and ".join(f"{maker}'s ({path})" for maker, path in runtimes.items())
        return warning(
            f"{len(runtimes)} OpenMP runtimes in one process: {which}; they fight for cores, and can crash or hang",
            "unset LD_PRELOAD" + ("; mamba install '_openmp_mutex=*=*_llvm'" if request.conda else ""), **details,
        )  # fmt: skip
    if "torch" not in sys.modules:
        return not_run("not run: torch isn't loaded, so there is nothing to see (imports.together says why)", **details)
    own = f"one OpenMP runtime ({next(iter(runtimes))}'s)" if runtimes else "no OpenMP runtime"
    if request.inputs["foreign"]:
        return passed(f"{len(found)} libraries loaded; {own}", **details)
    return passed(f"{len(found)} libraries loaded; {own}; CUDA, torch and FFmpeg are the environment's own", **details)


def _user_site_rivals(user: dict[str, str]) -> list[str]:
    if user.get("PYTHONNOUSERSITE") or sys.flags.isolated:
        return []
    if sys.prefix != sys.base_prefix and not _sees_system_packages():
        return []  # Python itself leaves the user site out in such a venv
    folder = Path(user.get("PYTHONUSERBASE") or site.getuserbase())
    folder = folder / Path(site.getusersitepackages()).relative_to(site.getuserbase())
    if not folder.is_dir():
        return []
    theirs = {key(d.metadata["Name"]) for d in metadata.distributions(path=[str(folder)]) if d.metadata["Name"]}
    return sorted(theirs & set(installed()))


def _sees_system_packages() -> bool:
    try:
        text = Path(sys.prefix, "pyvenv.cfg").read_text(encoding="utf-8")
    except OSError:
        return False
    return re.search(r"(?im)^include-system-site-packages\s*=\s*true", text) is not None


def _library_rivals(user: dict[str, str], prefix: Path) -> list[tuple[str, str]]:
    found = []
    loaded = user.get("LOADEDMODULES", "").replace(":", ", ")  # the site's modules put theirs in front, whenever loaded
    remedy = "unset LD_LIBRARY_PATH" + (f", or module unload what has set it (loaded: {loaded})" if loaded else "")
    own = {path.name for path in _entries(prefix / "lib") if ".so" in path.name and not _DRIVERS.match(path.name)}
    for entry in filter(None, user.get("LD_LIBRARY_PATH", "").split(os.pathsep)):
        folder = Path(entry)
        if _inside(folder, prefix) or not folder.is_dir():
            continue
        rivals = sorted(path.name for path in _entries(folder) if path.name in own or _RIVALS.match(path.name))
        if rivals:
            text = f"LD_LIBRARY_PATH has {entry}, whose {', '.join(rivals[:3])} hide the environment's"
            found.append((text, remedy))
    return found


def _host_cuda(user: dict[str, str], sets: dict[str, str], prefix: Path) -> list[tuple[str, str]]:
    found = []
    own = (prefix / "bin" / "nvcc").exists()  # without an nvcc of its own the environment has to use the host's
    for name in ("CUDA_HOME", "CUDA_PATH"):
        value = user.get(name)
        if own and value and name not in sets and not _inside(Path(value), prefix):
            found.append((f"{name}={value} points to the host's CUDA, the environment has its own", f"unset {name}"))
    for name in ("CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH"):
        for entry in filter(None, user.get(name, "").split(os.pathsep)):
            if not _inside(Path(entry), prefix) and Path(entry, "cuda_runtime.h").exists():
                found.append((f"{name} has the CUDA headers of {entry}", f"unset {name}"))
    return found


def _inside(path: Path, prefix: Path) -> bool:
    return path.resolve().is_relative_to(prefix.resolve())


def _entries(folder: Path) -> Iterable[Path]:
    try:
        return list(folder.iterdir())
    except OSError:  # not readable: the loader can't read it either
        return []
