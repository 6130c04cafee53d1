"""Writes the files that are made from the models and from the chart's values schema, or says which of them drifted.

`python -m dev.generate write` writes; `python -m dev.generate verify` writes nothing and exits 1 on any difference.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from dev.chart_values import example_values, reference_of_values
from dev.metrics_page import reference_of_metrics
from marty_msf.core.crd.definition import definition
from marty_msf.core.crd.reference import reference
from marty_msf.core.resources.kinds import KINDS
from marty_msf.core.resources.spec import GROUP

ROOT: Final = Path(__file__).resolve().parent.parent
CHART: Final = Path("charts/marty-operator")
#: Directories in which every file is generated, so that a file without a source is drift too.
GENERATED: Final = (Path("crds"), CHART / "templates/crds", Path("docs/reference"))

_HEADER: Final = (
    "# Generated from the models in marty_msf.core.resources by `make generate`; edit the models instead.\n"
)
_KEPT: Final = """\
  labels:
    {{- include "marty-operator.labels" . | nindent 4 }}
  {{- if .Values.crds.keep }}
  annotations:
    helm.sh/resource-policy: keep
  {{- end }}
"""


def outputs(root: Path = ROOT) -> Mapping[Path, str]:
    """Every generated file, by its path below the root, with the text it should have."""
    files: dict[Path, str] = {}
    for kind in KINDS.values():
        document = definition(kind)
        text = _yaml(document)
        files[Path("crds") / f"{kind.plural}.{GROUP}.yaml"] = _HEADER + text
        files[CHART / "templates/crds" / f"{kind.plural}.{GROUP}.yaml"] = _HEADER + _as_template(text, document)
        files[Path("docs/reference") / f"{kind.singular}.md"] = reference(document)
    schema = json.loads((root / CHART / "values.schema.json").read_text())
    files[CHART / "values.yaml"] = example_values(schema)
    files[Path("docs/reference/chart-values.md")] = reference_of_values(schema)
    files[Path("docs/reference/metrics.md")] = reference_of_metrics()
    return files


def drift(root: Path = ROOT) -> list[str]:
    """One line for each file that is missing, differs, or has no source any more."""
    wanted = outputs(root)
    problems = []
    for path, text in wanted.items():
        if not (root / path).exists():
            problems.append(f"{path} is missing")
        elif (root / path).read_text() != text:
            problems.append(f"{path} differs from its source")
    present = (file.relative_to(root) for directory in GENERATED for file in sorted((root / directory).glob("*")))
    return problems + [f"{path} has no source" for path in present if path not in wanted]


def write(root: Path = ROOT) -> list[Path]:
    """Write what differs and remove what has no source; returns the paths that changed."""
    wanted = outputs(root)
    changed = []
    for path, text in wanted.items():
        target = root / path
        if not target.exists() or target.read_text() != text:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
            changed.append(path)
    for directory in GENERATED:
        for file in sorted((root / directory).glob("*")):
            if (path := file.relative_to(root)) not in wanted:
                file.unlink()
                changed.append(path)
    return changed


def main(arguments: list[str]) -> int:
    """Exit code: 0 fine, 1 drift, 2 wrong usage."""
    match arguments:
        case ["write"]:
            for path in write():
                print(f"wrote {path}")
            return 0
        case ["verify"]:
            problems = drift()
            for problem in problems:
                print(problem, file=sys.stderr)
            if problems:
                print("remedy: run `make generate` and commit what it wrote", file=sys.stderr)
            return 1 if problems else 0
        case _:
            print("usage: python -m dev.generate write|verify", file=sys.stderr)
            return 2


class _Dumper(yaml.SafeDumper):
    """Without anchors: a schema that occurs twice is written twice, as people and diff tools expect."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  # the signature is PyYAML's
        return True


def _yaml(document: Mapping[str, Any]) -> str:
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


def _as_template(text: str, document: Mapping[str, Any]) -> str:
    """The definition as a Helm template: Helm never upgrades what lies in a chart's crds/ directory."""
    if "{{" in text:
        raise ValueError(
            f"{document['metadata']['name']}: a description holds '{{{{', which Helm would evaluate: reword it"
        )
    name = f"metadata:\n  name: {document['metadata']['name']}\n"
    before, found, after = text.partition(name)
    if not found:
        raise ValueError(f"{document['metadata']['name']}: metadata has more than a name: adapt _as_template")
    return f"{{{{- if .Values.crds.enabled }}}}\n{before}{found}{_KEPT}{after}{{{{- end }}}}\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
