#!/bin/sh
# Build the examples beside their sources: ./build.sh [FOLDER]. CLANG names another compiler.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$here}
for name in hosts models; do
    ${CLANG:-clang} --target=wasm32 -O2 -ffreestanding -nostdlib -fvisibility=hidden \
        -Wall -Wextra -Werror -I "$here/../../sdk" -I "$here/.." -Wl,--no-entry -Wl,-z,stack-size=16384 \
        -Wl,--strip-debug -o "$out/$name.wasm" "$here/$name.c"
done
