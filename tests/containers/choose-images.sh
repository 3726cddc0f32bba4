#!/usr/bin/env bash
# Prints which images the tests shall use: `official` if they are here or can be pulled, else `local` (built if needed).
# QUEUELIB_TEST_IMAGES, when set, decides. All talk goes to stderr.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
choice=${QUEUELIB_TEST_IMAGES:-}
if [ -z "$choice" ]; then
    choice=official
    for image in redis:7 rabbitmq:3; do
        docker image inspect "$image" >/dev/null 2>&1 && continue
        echo "images: pulling $image" >&2
        timeout 300 docker pull -q "$image" >&2 || { choice=local; break; }
    done
fi
if [ "$choice" = local ]; then
    echo "images: using the local ones" >&2
    bash "$here/build-images.sh" >&2
fi
echo "$choice"
