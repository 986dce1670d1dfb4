"""The lock file and the SBOM are in step with each other and with setup.cfg: ``bash launch/lock.sh`` writes both."""

import configparser
import importlib.metadata
import json
import re

import pytest
from commands import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCK = (ROOT / "configs" / "constraints.txt").read_text()
ENTRY = re.compile(r"([\w.-]+)==([\w.!-]+)(?: ; ([^\\\n]+?))? \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)")
AGAIN = "bash launch/lock.sh"


def pinned():
    """The version of each package, by canonical name."""
    return {canonicalize_name(name): version for name, version, _, _ in ENTRY.findall(LOCK)}


def required():
    """The requirements of setup.cfg that the tested set covers, by section."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    extras = parser["options.extras_require"]
    lists = {"options": parser["options"]["install_requires"], **{name: extras[name] for name in extras}}
    return {
        name: [Requirement(line) for line in text.splitlines() if line.strip() and not line.startswith("#")]
        for name, text in lists.items()
        if name != "npu"  # torch_npu comes with a torch of its own
    }


def test_every_line_of_the_lock_is_a_pin_with_hashes_and_nothing_else():
    assert re.sub(r"^#.*\n", "", ENTRY.sub("", LOCK), flags=re.MULTILINE) == ""
    assert "://" not in LOCK, "no address of an index"
    assert len(pinned()) > 50


@pytest.mark.parametrize("section", required())
def test_the_lock_has_a_version_in_range_for_every_requirement(section):
    versions = pinned()
    for requirement in required()[section]:
        version = versions.get(canonicalize_name(requirement.name))
        assert version, f"{requirement} is missing: {AGAIN}"
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement}, not {version}: {AGAIN}"


def test_the_lock_is_closed_under_the_requirements_of_its_packages():
    versions = pinned()
    for name in versions:
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:  # of another platform or Python
            continue
        if found.version.partition("+")[0] == versions[name]:
            for requirement in map(Requirement, found.requires or []):
                if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                    assert canonicalize_name(requirement.name) in versions, f"{name} needs {requirement}: {AGAIN}"


def test_the_sbom_lists_the_packages_of_the_lock():
    sbom = json.loads((ROOT / "configs" / "sbom.cdx.json").read_text())
    assert (sbom["bomFormat"], sbom["specVersion"]) == ("CycloneDX", "1.6")
    listed = {component["purl"] for component in sbom["components"]}
    assert listed == {f"pkg:pypi/{name}@{version}" for name, version in pinned().items()}
    assert sbom["dependencies"] == [{"ref": "ds2f", "dependsOn": sorted(listed)}]
