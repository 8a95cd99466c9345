#!/usr/bin/env bash
# Make the environments of the peers: environments/make.sh [FOLDER] [NAME...]; the folder is .environments by default.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-.environments}
shift || true
[ $# -gt 0 ] || set -- $(basename -s .txt "$here"/*.txt)
for name in "$@"; do
  "${PYTHON:-python3}" -m venv "$folder/$name"
  "$folder/$name/bin/python" -m pip install --quiet -r "$here/$name.txt"
done
