#!/bin/sh
# Install torch for CPUs: UV=uv PYTHON=.venv/bin/python sh deploy/install_torch.sh VERSION
#
# A build of this version that is there already stays, whichever it is: that is how to have one for GPUs.
# Else the build for CPUs that pip finds where it is configured to look, or else PyTorch's own.
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
