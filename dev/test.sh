#!/usr/bin/env bash
# Starts the local cluster, runs every test, stops the cluster. The last line printed is the test runner's own summary.
set -uo pipefail
cd "$(dirname "$0")/.."
# A test's database lives for a second; to put it on a disk, and to take it from there, costs more than the test.
python3 -m dev.cluster up --images --in-memory || exit 1
# The tests' own servers make and drop files as busily.
TMPDIR=$(mktemp -d "$([ -w /dev/shm ] && echo /dev/shm || echo /tmp)/marty-tests-XXXXXX") || exit 1
export TMPDIR
chmod 711 "$TMPDIR"
trap 'rm -rf "$TMPDIR"' EXIT
# Several at a time: they mostly wait, for pods and leases, and those of the cluster come one after the other.
.venv/bin/pytest -q -n 4 "$@"
code=$?
log=$(mktemp)
if ! { python3 -m dev.cluster down && python3 -m dev.cluster leftovers; } >"$log" 2>&1; then
  echo "the local cluster did not go away cleanly:" >&2
  cat "$log" >&2
  code=1
fi
rm -f "$log"
exit "$code"
