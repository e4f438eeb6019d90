"""Debian's packages of any architecture, taken apart by an account that may install none.

apt runs with lists, cache and status of its own in one folder, trusts the keys and asks the mirrors of this system, and
changes nothing of it. Nothing of a package is executed.
"""

import shutil
import subprocess
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_assets.devices import commands
from edge_assets.errors import EdgeAssetsError, MissingTool, log_end

ARCHITECTURES: Mapping[str, str] = {"x86_64": "amd64", "aarch64": "arm64"}  # as Debian calls them
FETCHING = 1800  # seconds for a download before it counts as hung
# the targets are apt's own: what other programs of the system add, such as indexes of files and icons, is not fetched
CONFIGURATION = """
Dir::State "{folder}/state";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
Dir::Log "{folder}/log";
APT::Architecture "{own}";
#clear APT::Architectures;
APT::Architectures "{all}";
APT::Sandbox::User "root";
APT::Install-Recommends "false";
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Post-Invoke;
#clear Acquire::IndexTargets;
Acquire::IndexTargets::deb::Packages {{
  MetaKey "$(COMPONENT)/binary-$(ARCHITECTURE)/Packages";
  flatMetaKey "Packages";
  ShortDescription "Packages";
  Description "$(RELEASE)/$(COMPONENT) $(ARCHITECTURE) Packages";
  Optional "no";
}};
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::http::Timeout "30";
"""


@dataclass(frozen=True)
class Apt:
    """An apt of its own, below `folder`."""

    folder: Path

    def download(self, package: str) -> Path:
        """The file of one package, without what it depends on."""
        own = self.folder / f"only-{package}"
        if not own.exists():
            own.mkdir()
            self._run("download", package, folder=own)
        return next(own.glob("*.deb"))

    def with_dependencies(self, packages: Sequence[str]) -> list[Path]:
        """The files of packages and of all that they depend on."""
        self._run("install", "--download-only", "--assume-yes", *packages)
        return sorted((self.folder / "cache" / "archives").glob("*.deb"))

    def _run(self, *arguments: str, folder: Path | None = None) -> None:
        command = ["apt-get", "--config-file", str(self.folder / "apt.conf"), "--quiet=2", *arguments]
        done = finished(command, folder or self.folder, FETCHING)
        with (self.folder / "apt.log").open("a") as log:
            log.write(done.stdout)
        if done.returncode != 0:
            # with what `update` said: a mirror that did not answer is only a warning to apt
            said = log_end((self.folder / "apt.log").read_text())
            raise EdgeAssetsError(f"Debian's packages could not be had: apt-get {arguments[0]} failed. {said}")


def own_apt(folder: Path, architectures: Sequence[str]) -> Apt:
    """An apt in the new folder `folder` that knows today's packages of these architectures, the machine's own first.

    Raises MissingTool where this system has no apt, EdgeAssetsError where no mirror answers.
    """
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise MissingTool(tool, None, "emulated CPUs are made of Debian's packages, which Debian and Ubuntu have")
    names = []
    for architecture in architectures:
        if architecture not in ARCHITECTURES:
            raise EdgeAssetsError(f"CPUs are emulated on {' and '.join(ARCHITECTURES)}, and this is {architecture}")
        names.append(ARCHITECTURES[architecture])
    for part in ("state/lists/partial", "cache/archives/partial", "log"):
        (folder / part).mkdir(parents=True)
    (folder / "status").touch()
    configuration = CONFIGURATION.format(folder=folder, own=names[0], all=",".join(names))
    (folder / "apt.conf").write_text(configuration)
    apt = Apt(folder)
    apt._run("update")
    return apt


def extract(package: Path, into: Path, wanted: Callable[[str], bool]) -> None:
    """The files of a package whose path, such as "usr/bin/python3", is wanted, below the folder `into`.

    Links to absolute paths are left out: they would lead to this system's files.
    """
    unpacking = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE)
    with unpacking, tarfile.open(fileobj=unpacking.stdout, mode="r|") as archive:
        archive.extraction_filter = getattr(tarfile, "tar_filter", _as_it_is)  # Python 3.11.4 was the first to have it
        for member in archive:
            name = member.name.removeprefix("./").rstrip("/")
            leads_out = member.issym() and member.linkname.startswith("/")
            if name and wanted(name) and not leads_out:
                archive.extract(member, into, set_attrs=not member.isdir())
    if unpacking.returncode != 0:
        raise EdgeAssetsError(f"{package.name} could not be unpacked: dpkg-deb ended with {unpacking.returncode}")


def _as_it_is(member: tarfile.TarInfo, _into: str) -> tarfile.TarInfo:
    return member


def finished(command: Sequence[str], folder: Path, seconds: float) -> subprocess.CompletedProcess[str]:
    """A command that asks nobody anything and ran to its end in `folder`. Raises EdgeAssetsError after `seconds`."""
    named = f"{' '.join(command[:4])} ..."
    return commands.finished(command, folder, seconds, named, {"DEBIAN_FRONTEND": "noninteractive"})
