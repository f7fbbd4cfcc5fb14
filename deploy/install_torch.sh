#!/bin/sh
# Install the CPU build of torch: UV=uv PYTHON=.venv/bin/python sh deploy/install_torch.sh VERSION
#
# An existing build of this version stays, so a GPU build can be installed first. Otherwise, the CPU build comes
# from the places that pip is configured to use, or else from PyTorch.
set -eu
version=$1
installed=$("$PYTHON" -c 'from importlib.metadata import version; print(version("torch"))' 2>/dev/null || true)
if [ "${installed%%+*}" = "$version" ]; then exit; fi
echo "Installing torch $version for CPUs ..."
pip="$PYTHON -m pip --disable-pip-version-check"
if $pip install -qq --no-deps --no-compile "torch==$version+cpu" 2>/dev/null; then exit; fi
if "$UV" pip install --quiet --python "$PYTHON" --no-deps --torch-backend cpu "torch==$version"; then exit; fi
echo "error: found no torch $version for CPUs; install any build of it: $PYTHON -m pip install torch==$version" >&2
exit 3
