#!/usr/bin/env bash
# Fetches what part 3 of measure.sh needs beside torch, triton and numpy, as wheels of Python 3.12
# on x86-64 Linux, for a machine without a network:
#
#     bash calibrate/gpu/wheels.sh FOLDER
#
# and there, before measure.sh:
#
#     python3 -m pip install -q --no-index --no-deps --target SITE FOLDER/*.whl
#     export PYTHONPATH=SITE
set -eu

folder=${1:?a folder for the wheels}
platforms=()
for each in manylinux_2_28 manylinux_2_17 manylinux2014; do
    platforms+=(--platform "${each}_x86_64")
done
fetch() {
    python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 \
        --implementation cp "${platforms[@]}" --dest "$folder" "$@"
}
rm -rf -- "$folder"/*.whl
fetch 'simpy>=4.1' 'pydantic>=2.9' 'pyyaml>=6.0' 'annotated-types' 'typing-extensions>=4.14' \
    'typing-inspection'
# pydantic takes one version of its core and no other.
core=$(python3 - "$folder" <<'END'
import pathlib, re, sys, zipfile

(wheel,) = pathlib.Path(sys.argv[1]).glob("pydantic-*.whl")
with zipfile.ZipFile(wheel) as archive:
    (name,) = (n for n in archive.namelist() if n.endswith("/METADATA"))
    print(re.search(r"^Requires-Dist: (pydantic-core==\S+)", archive.read(name).decode(), re.M)[1])
END
)
fetch "$core"
ls -l "$folder"
