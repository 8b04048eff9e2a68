"""The table of export formats. To add one, write a module with the functions of `Exporter` and add its row here.

Imports no heavy module: the command line generates its options and help from the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from rephase.errors import RequestError
from rephase.text import install_hint, one_line

if TYPE_CHECKING:
    from rephase.exports.committed import CommittedVolume


class Exporter(Protocol):
    """The functions of a format's module."""

    def write(self, volume: CommittedVolume, path: Path, stamp: str, compression: str) -> None:
        """Write one volume.

        Parameters
        ----------
        volume
            Read slice by slice.
        path
            A file, or a directory if the format's suffix is empty; does not exist yet.
        stamp
            Text to store in the export last, so that `read_stamp` finds it.
        compression
            One of the format's `compressions`.
        """

    def read_stamp(self, path: Path) -> str | None:
        """Return the stamp of an export, None if the file or directory was not written by an export.

        Raises
        ------
        OSError
            If it is a damaged export, which is then replaced.
        """


@dataclass(frozen=True)
class ExportFormat:
    """A row of the table.

    Attributes
    ----------
    module
        Has the functions of `Exporter`.
    suffix
        File name suffix of a volume; empty if a volume is a directory.
    help
        One line of `--help`.
    compressions
        Values of `--compression`.
    extra, package
        The optional extra of this distribution that the format needs, and the package that must then be importable.
    """

    module: str
    suffix: str
    help: str
    compressions: tuple[str, ...] = ("none",)
    extra: str = ""
    package: str = ""

    def load(self, name: str) -> Exporter:
        """Import the format's module; raise RequestError if a package that it needs is not installed."""
        if self.package:
            try:
                import_module(self.package)
            except ImportError as error:
                raise RequestError(
                    f"--format {name}: cannot import {self.package} ({one_line(error)}); expected it to be installed; "
                    f"{install_hint(self.extra)}"
                ) from None
        return cast("Exporter", import_module(self.module))


EXPORTS: dict[str, ExportFormat] = {
    "fastmri": ExportFormat(
        "rephase.exports.fastmri",
        ".h5",
        "one HDF5 file per volume in fastMRI's layout: for fastMRI, DIRECT, deepinv, mrpro",
        compressions=("none", "gzip"),
    ),
    "bart": ExportFormat("rephase.exports.bart", "", "one directory per volume with .cfl and .hdr files: for BART"),
    "ismrmrd": ExportFormat(
        "rephase.exports.ismrmrd",
        ".h5",
        "one ISMRMRD (MRD version 1) HDF5 file per volume",
        extra="ismrmrd",
        package="ismrmrd",
    ),
}
"""Value of `--format` to the format; the first is the default."""
