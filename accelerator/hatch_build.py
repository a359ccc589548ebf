"""Compiles the package's Cython modules when a wheel is built."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "realtime_core_c"


class CompilingHook(BuildHookInterface[Any]):
    """Puts the compiled modules into the wheel; the folder of the sources stays as it was."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        from Cython.Build import cythonize
        from setuptools import Distribution, Extension

        self._folder = tempfile.TemporaryDirectory(prefix=f"{PACKAGE}-")
        built = Path(self._folder.name)
        root = Path(self.root)
        modules = [
            Extension(f"{PACKAGE}.{path.stem}", [str(path.relative_to(root))])
            for path in sorted((root / PACKAGE).glob("*.pyx"))
        ]
        distribution = Distribution(
            {"ext_modules": cythonize(modules, build_dir=str(built / "c"), quiet=True)}
        )
        command = distribution.get_command_obj("build_ext")
        command.build_lib, command.build_temp = str(built / "lib"), str(built / "objects")
        command.ensure_finalized()
        command.run()
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        for path in (built / "lib" / PACKAGE).iterdir():
            build_data["force_include"][str(path)] = f"{PACKAGE}/{path.name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        self._folder.cleanup()
