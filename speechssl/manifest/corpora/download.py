"""Get packages of a Debian system and archives over http(s); nothing here needs root.

A download that was interrupted goes on where it stopped, and nothing appears under its final name before it is whole.
"""

import os
import shutil
import subprocess
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from speechssl.errors import ManifestError
from speechssl.progress import Progress

_TIMEOUT_SECONDS = 60
_CHUNK_BYTES = 1 << 18


def default_cache() -> Path:
    """The user's cache folder for this package."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "speechssl"


def has_apt() -> bool:
    """Whether this system can download Debian packages."""
    return shutil.which("apt-get") is not None and shutil.which("dpkg-deb") is not None


def download_packages(names: Sequence[str], folder: Path) -> dict[str, Path]:
    """`apt-get download` into a folder; apt checks signatures and hashes.

    When the system's package lists are absent or stale, they are refreshed into a private folder beside the packages,
    which changes nothing on the system and needs no root.

    Returns:
        The `.deb` file of each package.

    Raises:
        ManifestError: apt cannot get them; says what apt said.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [name for name in names if _find_package(name, folder) is None]
    if missing:
        problem = _run_apt([], ["download", *missing], folder)
        if problem is not None:
            private = _private_apt_options(folder)
            problem = _run_apt(private, ["update"], folder) or _run_apt(private, ["download", *missing], folder)
        if problem is not None:
            raise ManifestError(
                f"apt-get download {' '.join(missing)} failed: {problem}; check the network and the package sources,"
                " refresh the lists with `apt-get update` as root, or name a folder of your own recordings"
            )
    found = {name: _find_package(name, folder) for name in names}
    absent = [name for name, path in found.items() if path is None]
    if absent:
        raise ManifestError(f"apt-get download left no file for {', '.join(absent)} in {folder}; run it there by hand")
    return {name: path for name, path in found.items() if path is not None}


def package_version(package: Path) -> str:
    """Version of a `.deb` file."""
    return _run(["dpkg-deb", "--field", str(package), "Version"], package.parent).strip()


def unpack_package(package: Path, folder: Path) -> None:
    """Unpack a `.deb` file without installing it.

    Raises:
        ManifestError: the file is damaged; it is removed, so that the next try downloads it again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _run(["dpkg-deb", "--extract", str(package), str(folder)], package.parent)
    except ManifestError as error:
        package.unlink(missing_ok=True)
        raise ManifestError(f"{error}; the damaged file is removed, run the command again") from None


def download_file(url: str, path: Path, *, progress: Progress | None = None) -> Path:
    """Download to `path`; kept if it is there, resumed if a part of it is.

    Raises:
        ManifestError: the server cannot be reached, refuses, or sends less than it announced.
    """
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    start = partial.stat().st_size if partial.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:  # the card's own https address
            resumed = start > 0 and response.status == 206
            start = start if resumed else 0
            announced = response.headers.get("Content-Length")
            total = start + int(announced) if announced else 0
            with open(partial, "ab" if resumed else "wb") as file:
                while chunk := response.read(_CHUNK_BYTES):
                    file.write(chunk)
                    start += len(chunk)
                    if progress is not None:
                        progress(start, total or start)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the part is all there is, or more: not to be trusted
            partial.unlink(missing_ok=True)
        raise ManifestError(f"{url}: the server answers {error.code} {error.reason}; check the address") from None
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise ManifestError(
            f"{url}: cannot be downloaded ({reason}); check the network and run the command again, it goes on where it"
            " stopped"
        ) from None
    if total and start != total:
        raise ManifestError(f"{url}: {start} of {total} bytes arrived; run the command again, it goes on from there")
    os.replace(partial, path)
    return path


def unpack_tar(archive: Path, folder: Path, *, wanted: Callable[[str], bool]) -> list[str]:
    """Unpack the wanted regular files of a tar archive; their names stay, relative to `folder`.

    Links, devices and names that lead out of the folder are refused.

    Raises:
        ManifestError: damaged (the archive is removed, to be downloaded again) or hostile.
    """
    names = []
    root = os.path.realpath(folder)
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                name = os.path.normpath(member.name)
                if not wanted(name):
                    continue
                target = os.path.realpath(os.path.join(root, name))
                if os.path.isabs(member.name) or not target.startswith(root + os.sep) or not member.isfile():
                    raise ManifestError(
                        f"{archive}: member {member.name!r} is a link or leads out of the archive's folder"
                    )
                source = tar.extractfile(member)
                assert source is not None  # a regular file
                os.makedirs(os.path.dirname(target), exist_ok=True)
                with source, open(target, "wb") as file:
                    shutil.copyfileobj(source, file)
                if os.path.getsize(target) != member.size:
                    raise tarfile.ReadError(f"{member.name} is cut short")
                names.append(name)
    except (tarfile.TarError, EOFError, OSError) as error:
        archive.unlink(missing_ok=True)
        raise ManifestError(
            f"{archive}: damaged ({error}); it is removed, run the command again to download it anew"
        ) from None
    return names


def _find_package(name: str, folder: Path) -> Path | None:
    return next(iter(sorted(folder.glob(f"{name}_*.deb"))), None)


def _private_apt_options(folder: Path) -> list[str]:
    """Options that keep apt's lists and caches in a folder of our own."""
    state = folder / "apt"
    (state / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    (state / "cache" / "archives" / "partial").mkdir(parents=True, exist_ok=True)
    status = Path("/var/lib/dpkg/status")
    return [
        "-o",
        f"Dir::State={state}",
        "-o",
        f"Dir::State::Lists={state / 'lists'}",
        "-o",
        f"Dir::State::status={status}",
        "-o",
        f"Dir::Cache={state / 'cache'}",
    ]


def _run_apt(options: Sequence[str], arguments: Sequence[str], folder: Path) -> str | None:
    """None when apt succeeded, else what it said."""
    # As root apt would drop to a user who may not write here, and warn: let it stay who it is.
    user = ["-o", "APT::Sandbox::User=root"] if os.geteuid() == 0 else []
    command = ["apt-get", "-q", *user, *options, *arguments]
    environment = os.environ | {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    said = [line for line in (done.stderr + done.stdout).splitlines() if line.startswith(("E:", "Err:"))]
    # `update` ends with 0 although a list could not be had; the download that follows tells.
    return None if done.returncode == 0 else " ".join(said[:3]) or f"exit code {done.returncode}"


def _run(command: Sequence[str], folder: Path) -> str:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise ManifestError(f"{command[0]}: cannot be run ({error}); install dpkg") from None
    if done.returncode:
        raise ManifestError(f"{' '.join(command[:3])} failed: {done.stderr.strip() or done.returncode}")
    return done.stdout
