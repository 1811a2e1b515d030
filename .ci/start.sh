#!/bin/sh
# Start pyflanneld from the directory that this file is in, with the first Python on this host that the directory has
# packages for. PYFLANNELD_PYTHON names another one.
#
# -I and -S keep the caller's PYTHON* variables, the working directory and the host's own packages out; -B, because
# nothing is ever written here; faulthandler shows where a hung daemon was when systemd's watchdog aborted it.
home=$(dirname "$(readlink -f "$0")")
# The ending of this Python's extension modules says all that has to fit: version, machine and C library.
ask='from importlib.machinery import EXTENSION_SUFFIXES as s; print(s[0][1:-3])'
seen=""

start_with() { # python, the daemon's arguments: return only when that Python does not do
    python=$1
    shift
    tag=$("$python" -I -S -c "$ask" 2>/dev/null) || return 0
    if [ -n "$tag" ] && [ -d "$home/lib/$tag" ]; then
        exec "$python" -I -S -B -X faulthandler "$home/lib/pyflanneld.py" "$@"
    fi
    seen="$seen, $python is $tag"
}

if [ -n "$PYFLANNELD_PYTHON" ]; then
    start_with "$PYFLANNELD_PYTHON" "$@"
else
    for name in python3.13 python3.12 python3.11 python3; do
        start_with "$name" "$@"
    done
fi

have=$(cd "$home/lib" && echo cpython-*)
echo "pyflanneld: no usable Python: needed is one of ${have:-nothing}${seen:-, none was found};" \
    "set PYFLANNELD_PYTHON=/path/to/python3" >&2
exit 2 # as for every setting that only a person can mend
