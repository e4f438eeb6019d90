#!/bin/sh
# ONNX Runtime's headers for C and C++, which its Python package lacks, from Debian's package libonnxruntime-dev: the C++
# sample of a release is compiled against them. The package is in Debian 13 and later; an older Debian gets it from there,
# unpacked and not installed. Where that cannot be done, it says so, and the test that needs the headers is skipped.
#   sh tests/onnxruntime_headers.sh FOLDER
set -eu

folder=$1
if [ -e /usr/include/onnxruntime/onnxruntime_cxx_api.h ] || [ -e "$folder/usr/include/onnxruntime/onnxruntime_cxx_api.h" ]; then
    exit 0
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

fetch() {
    command -v apt-get >/dev/null || return 1
    # the mirror that this machine has, whatever it is
    site=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep '/debian/*$' | head -n 1)
    [ -n "$site" ] || return 1
    keys=/usr/share/keyrings/debian-archive-keyring.gpg
    echo "deb [signed-by=$keys] $site trixie main" >"$scratch/sources.list"
    mkdir -p "$scratch/lists/partial" "$scratch/cache/archives/partial"
    set -- -qq -o Dir::Etc::sourcelist="$scratch/sources.list" -o Dir::Etc::sourceparts=- \
        -o Dir::State::lists="$scratch/lists" -o Dir::Cache="$scratch/cache" -o APT::Sandbox::User=root
    apt-get "$@" update && (cd "$scratch" && apt-get "$@" download libonnxruntime-dev) || return 1
    mkdir -p "$folder" && dpkg -x "$scratch"/libonnxruntime-dev_*.deb "$folder"
}

fetch || echo "ONNX Runtime's headers cannot be had here: the test that compiles the C++ sample will be skipped" >&2
